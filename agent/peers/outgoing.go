package peers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"flotilla/wire"
	"flotilla/wire/identity"
)

// batchBytes is how much is written between two looks at the connection's health, if there is so much.
const batchBytes = 1 << 20

// connectAndServe opens a connection and writes to it what is queued until it breaks, which is an error, or has been
// idle. served says that it was open.
func (l *link) connectAndServe(ctx context.Context) (served bool, err error) {
	c, err := l.connect(ctx)
	if err != nil {
		return false, err
	}
	// Closing the socket, below TLS, owes nobody a farewell that could block.
	closeSocket := func() { _ = c.NetConn().Close() }
	defer closeSocket()
	defer context.AfterFunc(ctx, closeSocket)()

	l.mu.Lock()
	again := l.failed
	l.failed, l.connected, l.close = false, true, closeSocket
	l.changedLocked()
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.connected, l.close = false, nil
		l.mu.Unlock()
	}()
	if again {
		l.p.log.Info("peer is reached again", "peer", l.peer, "kind", l.kind)
	}

	conn := wire.NewConn(c, wire.ConnOptions{Limits: l.kind.limits()})
	broken := make(chan error, 1)
	go func() { broken <- l.readBack(conn) }()
	readerEnded, err := l.write(ctx, conn, broken)
	closeSocket()
	if !readerEnded {
		<-broken
	}
	return true, err
}

// connect dials the peer and says hello.
func (l *link) connect(ctx context.Context) (*identity.Conn, error) {
	p := l.p
	l.counter.dials.Add(1)
	address, ok := p.opts.Resolve(l.peer)
	if !ok {
		return nil, fmt.Errorf("connect to agent %d: its address is not known", l.peer)
	}
	ctx, cancel := context.WithTimeout(ctx, p.limits.DialTimeout)
	defer cancel()
	policy := p.opts.Policy
	dial := policy.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	policy.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		raw, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &paced{Conn: raw, silence: p.limits.Silence, stall: p.limits.Stall}, nil
	}
	c, err := identity.Dial(ctx, address, p.opts.Credentials(), l.kind.protocol(), l.peer, policy)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.NetConn().Close() })
	agreed, err := wire.Initiate(c, p.hello(l.kind.role()))
	err = p.agreed(l.peer, err)
	if err == nil && agreed.Peer.Agent != l.peer {
		err = fmt.Errorf("it says that it is agent %d: %w", agreed.Peer.Agent, identity.ErrPeer)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = c.NetConn().Close()
		return nil, fmt.Errorf("greet agent %d at %s: %w", l.peer, address, err)
	}
	return c, nil
}

// readBack reads what comes back on an outgoing connection: beats, and the answers of calls. Silence is an error of the
// stream's.
func (l *link) readBack(conn *wire.Conn) error {
	for {
		m, err := conn.ReadMessage()
		if err != nil {
			return err
		}
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
