package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// conn is one connection, from its first byte to its end.
//
// The goroutine of run reads requests and hands them to the export; what
// the export does at once is answered by the same goroutine, many replies with
// one system call. Requests that block run on workers, which also send the
// replies that have gathered. Requests completed by anyone else wake the
// writer. Whoever finds the stream free writes for all.
type conn struct {
	srv    *Server
	nc     net.Conn
	stream *stream
	log    *slog.Logger

	// Fixed when the transmission phase begins.
	export     Export
	info       Info
	flags      uint16
	structured bool
	allocation bool // base:allocation was selected
	resumable  bool // the peer sends again what is not answered: see ServeResumable
	workers    *workers
	wake       chan struct{} // tells the writer that replies wait
	quit       chan struct{} // ends the writer

	// unsent counts what the reader has handed over since it last sent
	// replies. Only the reader touches it.
	unsent int

	alive context.Context // ends when the stream is closed
	kill  context.CancelFunc

	mu        sync.Mutex
	changed   sync.Cond // on mu: any of the fields below changed for a waiter
	waiting   bool      // someone waits on changed
	queue     batch     // replies to be sent
	spare     batch     // the other batch, while it is not being sent
	writing   bool      // someone is sending
	inflight  int       // requests admitted, replies not yet sent
	cost      int64     // bytes of the budget that they hold
	free      []*Request
	dead      bool     // the stream is of no use any more: replies are dropped
	draining  bool     // new requests get ESHUTDOWN
	abandoned bool     // the time for draining is over
	started   bool     // in the transmission phase
	in        *input   // once started
	parking   bool     // no new requests are read
	kept      *os.File // a parked connection's socket, for whoever goes on with it
	limit     *time.Timer
}

func newConn(srv *Server, nc net.Conn) *conn {
	c := &conn{srv: srv, nc: nc, log: srv.log.With("remote", remoteName(nc))}
	c.stream = newStream(nc, srv.limits.Stall)
	c.changed.L = &c.mu
	c.alive, c.kill = context.WithCancel(context.Background())
	return c
}

func remoteName(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil && a.String() != "" {
		return a.String()
	}
	return "local"
}

// run serves the transmission phase until the client goes or the connection
// is drained. When it returns, nothing of the connection is left, unless
// the time for draining has passed while the export still held requests.
func (c *conn) run() error {
	c.wake = make(chan struct{}, 1)
	c.quit = make(chan struct{})
	c.workers = newWorkers(c, c.srv.limits.Workers, c.srv.limits.Requests)
	var writer sync.WaitGroup
	writer.Go(c.writer)

	c.stream.onBlock = c.flush
	in := newInput(c.stream)
	err := c.begin(in)
	if err == nil {
		stop := c.watch(in, c.srv.limits.Stall)
		err = c.readRequests(in)
		stop()
	}
	idle := c.finish(errors.Is(err, errParked))
	close(c.quit)
	writer.Wait()
	c.workers.stop(idle)
	return err
}

// begin notes that requests may now come, and that a drain which came during
// the handshake has its effect.
func (c *conn) begin(in *input) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started = true
	c.in = in
	if c.parking {
		return errParked
	}
	if c.draining {
		return errDrained
	}
	return nil
}

// watch ends the reading of in when a request stays incomplete for longer than
// limit. The returned function ends the watch and waits for its end.
func (c *conn) watch(in *input, limit time.Duration) (stop func()) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(max(limit/8, time.Millisecond))
		defer t.Stop()
		for {
			select {
			case <-t.C:
				if in.overdue(limit) {
					c.stream.stopReads()
				}
			case <-quit:
				return
			}
		}
	})
	return func() { close(quit); wg.Wait() }
}

// finish waits until what is in flight has been answered, or abandons it, and
// reports whether nothing was left.
func (c *conn) finish(parked bool) (idle bool) {
	c.flush()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.inflight > 0 && !c.abandoned {
		c.waitLocked()
	}
	idle = c.inflight == 0
	if parked && idle && !c.dead {
		c.keepLocked()
	}
	c.killLocked()
	if c.limit != nil {
		c.limit.Stop()
	}
	return idle
}

// waitLocked waits for a change of the state that mu guards.
func (c *conn) waitLocked() {
	c.waiting = true
	c.changed.Wait()
}

func (c *conn) changedLocked() {
	if c.waiting {
		c.waiting = false
		c.changed.Broadcast()
	}
}

// killLocked closes the stream. What completes from now on is dropped.
func (c *conn) killLocked() {
	if !c.dead {
		c.dead = true
		c.kill()
		_ = c.nc.Close()
	}
	if !c.writing && !c.queue.empty() {
		c.dropLocked()
	}
	c.changedLocked()
}

// dropLocked forgets the replies in the queue.
func (c *conn) dropLocked() {
	c.queue.release()
	c.settleLocked(&c.queue)
}

// settleLocked takes the requests of b, answered or dropped, off the books.
func (c *conn) settleLocked(b *batch) {
	c.inflight -= b.count
	c.cost -= b.cost
	c.srv.budget.release(b.cost)
	c.srv.answered.Add(int64(b.count))
	b.reset()
	if c.inflight == 0 && c.draining {
		c.stream.stopReads()
	}
	c.changedLocked()
}

// drain makes the connection answer new requests with ESHUTDOWN, and end once
// everything in flight is answered, or limit has passed.
func (c *conn) drain(limit time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return
	}
	c.draining = true
	if !c.started {
		c.killLocked() // still in the handshake: nothing to answer
		return
	}
	if c.inflight == 0 {
		c.stream.stopReads()
	}
	c.limit = time.AfterFunc(limit, c.abandon)
}

// abandon ends the connection at once, whatever is in flight.
func (c *conn) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abandoned = true
	c.killLocked()
}

// admit waits until the connection may have one more request in flight, whose
// data take cost bytes, and counts it. It fails when the connection is dead.
func (c *conn) admit(cost int64) error {
	l := &c.srv.limits
	c.mu.Lock()
	for c.inflight >= l.Requests || (c.cost > 0 && c.cost+cost > l.ConnBytes) {
		if c.dead {
			break
		}
		if !c.writing && !c.queue.empty() {
			c.mu.Unlock()
			c.flush()
			c.mu.Lock()
			continue
		}
		c.waitLocked()
	}
	if c.dead {
		c.mu.Unlock()
		return net.ErrClosed
	}
	c.inflight++
	c.cost += cost
	c.mu.Unlock()
	if cost == 0 || c.srv.budget.tryAcquire(cost) {
		return nil
	}
	return c.admitSlowly(cost)
}

// admitSlowly waits for the memory that all connections share, for a request
// already counted.
func (c *conn) admitSlowly(cost int64) error {
	c.flush() // what is answered may be what holds the memory
	if c.srv.budget.acquire(c.alive, cost) == nil {
		return nil
	}
	c.mu.Lock()
	c.inflight--
	c.cost -= cost
	c.changedLocked()
	c.mu.Unlock()
	return net.ErrClosed
}

// takeLocked returns a request from the free list.
func (c *conn) takeLocked() *Request {
	if k := len(c.free); k > 0 {
		r := c.free[k-1]
		c.free = c.free[:k-1]
		return r
	}
	return &Request{sink: c}
}

// complete implements sink: it queues the reply to r.
func (c *conn) complete(r *Request, err error) {
	c.mu.Lock()
	// The phase changes under the lock: whoever hands r over recycles it as
	// soon as it is done, and must find it queued.
	phase := r.phase.Swap(phaseDone)
	if phase == phaseDone {
		c.mu.Unlock()
		panic(fmt.Sprintf("nbd: %v at %d completed twice", r.Op, r.Offset))
	}
	if r.Op != OpRead && r.buf != nil {
		r.buf.Release()
		r.buf = nil
	}
	if c.resumable && err != nil && errnoOf(err, false) == ESHUTDOWN {
		c.killLocked() // no answer: the peer asks the next server
	}
	c.queueLocked(r, err)
	if c.dead && !c.writing {
		c.dropLocked()
	}
	if phase == phaseDetached {
		c.recycleLocked(r)
	}
	c.mu.Unlock()
	if phase == phaseDetached {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// queueLocked appends the reply to r, whose buffer now belongs to the queue.
func (c *conn) queueLocked(r *Request, err error) {
	q := &c.queue
	q.count++
	q.cost += r.cost
	if err == nil && r.Op == OpBlockStatus && len(r.extents.list) == 0 {
		err = fmt.Errorf("%w: the export reported no extent", EIO)
	}
	switch {
	case err != nil:
		q.addStatus(r.cookie, c.structured, errnoOf(err, r.FastZero), err.Error())
		if r.buf != nil {
			q.data = append(q.data, batchData{at: notSent, buf: r.buf})
		}
	case r.Op == OpRead:
		q.addRead(r, c.structured)
	case r.Op == OpBlockStatus:
		q.addExtents(r.cookie, r.extents.list)
	default:
		q.addStatus(r.cookie, c.structured, 0, "")
	}
	r.buf = nil
}

// detach notes that the export has kept r, or recycles it if that has been
// completed by now. The caller must not touch r afterwards.
func (c *conn) detach(r *Request) (completed bool) {
	if r.phase.CompareAndSwap(phaseStarting, phaseDetached) {
		return false
	}
	c.mu.Lock()
	c.recycleLocked(r)
	c.mu.Unlock()
	return true
}

// maxIdleExtents is how many extents an idle request may keep room for.
const maxIdleExtents = 64

func (c *conn) recycleLocked(r *Request) {
	r.hole = false
	if cap(r.extents.list) > maxIdleExtents {
		r.extents.list = nil
	}
	c.free = append(c.free, r)
}

// flush sends the replies that have gathered, unless someone else is sending:
// then that one sends these too.
func (c *conn) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing {
		return
	}
	c.writing = true
	for !c.queue.empty() {
		if c.dead {
			c.dropLocked()
			continue
		}
		b := c.queue
		c.queue = c.spare
		c.mu.Unlock()
		err := b.send(c.stream)
		b.release()
		c.mu.Lock()
		c.settleLocked(&b)
		c.spare = b
		if err != nil {
			c.logEnd("send replies", err)
			c.killLocked()
		}
	}
	c.writing = false
	c.changedLocked()
}

// writer sends replies to requests that were completed by the export on its
// own goroutines: they must not wait for a slow client, and gather meanwhile.
func (c *conn) writer() {
	for {
		select {
		case <-c.wake:
			c.flush()
		case <-c.quit:
			return
		}
	}
}

// logEnd logs an error that ends the connection, unless it is the ordinary
// way in which connections end.
func (c *conn) logEnd(doing string, err error) {
	if err == nil || err == io.EOF || isHangup(err) {
		return
	}
	c.log.Warn("nbd connection failed", "doing", doing, "err", err)
}
