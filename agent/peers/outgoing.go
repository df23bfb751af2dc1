package peers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flotilla/wire"
)

// batchBytes is how much is written between two looks at the connection's health, if there is so much.
const batchBytes = 1 << 20

// connectAndServe opens a connection, unless seek has, and writes to it what is queued until it breaks, which is an error,
// or has been idle. served says that it was open.
func (l *link) connectAndServe(ctx context.Context) (served bool, err error) {
	c := l.next
	l.next = nil
	if c == nil {
		if c, err = l.connect(ctx); err != nil {
			return false, err
		}
	}
	defer c.closeSocket()
	defer context.AfterFunc(ctx, c.closeSocket)()

	l.mu.Lock()
	again := l.failed
	l.failed, l.connected, l.address, l.close = false, true, c.address, c.closeSocket
	l.changedLocked()
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.connected, l.address, l.close = false, "", nil
		l.mu.Unlock()
	}()
	if again {
		l.p.log.Info("peer is reached again", "peer", l.peer, "kind", l.kind, "address", c.address)
	}

	ended, sought := make(chan struct{}), make(chan *outgoing, 1)
	go func() {
		next := l.seek(ctx, c, ended)
		if next != nil {
			c.closeSocket()
		}
		sought <- next
	}()
	conn := wire.NewConn(c, wire.ConnOptions{Limits: l.kind.limits()})
	broken := make(chan error, 1)
	go func() {
		err := l.readBack(c, conn)
		c.closeSocket() // the writer may be in the middle of a write that a dead link holds up
		broken <- err
	}()
	readerEnded, err := l.write(ctx, conn, broken)
	c.closeSocket()
	if !readerEnded {
		<-broken
	}
	close(ended)
	if l.next = <-sought; l.next != nil {
		l.moved(c)
		l.p.log.Info("peer is reached on another address", "peer", l.peer, "kind", l.kind, "address", l.next.address, "before", c.address)
		err = errMoved
	}
	return true, err
}

// readBack reads what comes back on an outgoing connection: beats, and the answers of calls. Silence is an error of the
// stream's.
func (l *link) readBack(c *outgoing, conn *wire.Conn) error {
	for {
		m, err := conn.ReadMessage()
		if err != nil {
			return err
		}
		c.hears()
		switch {
		case m.Type == typeBeat:
			continue
		case m.Type == typeAnswer && l.kind == Apply:
			if err := l.answered(m.Payload); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%v came back on a connection for %v: %w", m.Type, l.kind, wire.ErrMessage)
		}
		l.counter.receive(&m)
	}
}

// write writes what is queued until the connection breaks, which is an error, has been idle, or the context ends.
// readerEnded says that it has taken the reader's end from broken.
func (l *link) write(ctx context.Context, conn *wire.Conn, broken <-chan error) (readerEnded bool, err error) {
	limits := &l.p.limits
	beat := time.NewTicker(limits.Beat)
	defer beat.Stop()
	var taken []item // by this goroutine from the queue; the two change places
	var msgs []wire.Message
	payloadAt, writtenAt := time.Now(), time.Now()
	for {
		l.notice()
		l.mu.Lock()
		taken, l.queue = l.queue, taken[:0]
		waiters := l.waiters
		l.mu.Unlock()
		for rest := taken; len(rest) > 0; {
			n, size := 0, int64(0)
			msgs = msgs[:0]
			for n < len(rest) && (n == 0 || size+rest[n].size <= batchBytes) {
				msgs = append(msgs, rest[n].msg)
				size += rest[n].size
				n++
			}
			err := conn.WriteMessages(msgs...)
			if err == nil {
				l.counter.send(msgs)
			}
			clear(msgs)
			l.written(rest[:n], err == nil)
			if err != nil {
				l.written(rest[n:], false)
				return false, err
			}
			rest = rest[n:]
			payloadAt = time.Now()
			writtenAt = payloadAt
		}
		if len(taken) > 0 {
			select {
			case err := <-broken:
				return true, brokenError(err)
			default:
				continue
			}
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case err := <-broken:
			return true, brokenError(err)
		case <-l.wake:
		case <-beat.C:
			now := time.Now()
			if waiters > 0 || l.calling() {
				payloadAt = now
			}
			if now.Sub(payloadAt) >= limits.Idle {
				return false, nil
			}
			if now.Sub(writtenAt) < limits.Beat/2 {
				break
			}
			writtenAt = now
			if err := conn.WriteMessages(wire.Message{Type: typeBeat}); err != nil {
				return false, err
			}
		}
	}
}

func brokenError(err error) error { return errors.Join(errors.New("connection ended"), err) }
