package peers

import (
	"context"
	"errors"
	"sync"
	"time"

	"flotilla/agent/apply"
	"flotilla/wire"
)

// item is something that waits to be written.
type item struct {
	msg      wire.Message
	size     int64
	release  func() // of the payload; nil for none
	snapshot bool   // a MsgSnap: the core is told what came of it
}

func (it *item) done() {
	if it.release != nil {
		it.release()
	}
}

// errRetired says that a link has ended for being idle: there is, or can be, another one.
var errRetired = errors.New("the link has ended")

// link is what goes out to one peer in one kind. Its goroutine runs while there is something to do, and ends when it has
// been idle for Limits.Idle; Peers then makes another when it is needed.
type link struct {
	p       *Peers
	peer    wire.AgentID
	kind    Kind
	limit   int64 // bytes in the queue
	counter *counter
	wake    chan struct{} // capacity 1: something below has changed
	slots   chan struct{} // of an apply link: one taken for each call

	// Of the link's goroutine.
	next  *outgoing     // the connection that takes the place of the last one
	pause time.Duration // how long the best address is left alone after it has failed

	mu        sync.Mutex // guards what follows
	queue     []item
	bytes     int64 // of the queue and of what is being written
	snapshots int   // among them
	connected bool
	address   string    // where, while connected
	failed    bool      // the last connection failed, and none was opened since
	downUntil time.Time // while failed: nothing is taken and nobody dials before then
	retired   bool      // the goroutine has ended or is about to, and takes nothing more
	close     func()    // closes the socket of the connection there is
	waiters   int       // in WaitRoom: a connection is wanted
	changed   chan struct{}
	dropped   bool // a Raft message was: tell the core
	snapLost  bool // a snapshot was: tell the core
	calls     map[uint64]*call
	nextCall  uint64
}

func newLink(p *Peers, peer wire.AgentID, kind Kind, c *counter) *link {
	l := &link{
		p: p, peer: peer, kind: kind, counter: c,
		wake: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	switch kind {
	case Control:
		l.limit = p.limits.MessageQueue
	case Data:
		l.limit = p.limits.FrameQueue
	case Raft:
		l.limit = p.limits.RaftQueue
	case Apply:
		l.limit = int64(p.limits.ApplyCalls) * apply.MaxLength // the calls are bounded by slots already
		l.slots = make(chan struct{}, p.limits.ApplyCalls)
		l.calls = map[uint64]*call{}
	}
	return l
}

func (l *link) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// changedLocked wakes those in WaitRoom.
func (l *link) changedLocked() {
	if l.waiters > 0 {
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

func (l *link) downLocked() bool { return l.failed && time.Now().Before(l.downUntil) }

// putLocked queues an item or says why not. One that is alone may be longer than the queue's limit, and so may one
// snapshot.
func (l *link) putLocked(it item) error {
	switch {
	case l.retired:
		return errRetired
	case l.downLocked():
		return ErrUnreachable
	case it.snapshot && l.snapshots > 0, !it.snapshot && l.bytes > 0 && l.bytes+it.size > l.limit:
		return ErrFull
	}
	if it.snapshot {
		l.snapshots++
	}
	l.queue = append(l.queue, it)
	l.bytes += it.size
	l.signal()
	return nil
}

// run is the link's goroutine.
func (l *link) run(ctx context.Context) {
	backoff := time.Duration(0)
	for l.next != nil || l.waitForWork(ctx) {
		began := time.Now()
		served, err := l.connectAndServe(ctx)
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			continue // closed for being idle
		}
		if l.next != nil {
			l.counter.moves.Add(1)
			l.lose(err, served)
			continue
		}
		if time.Since(began) > l.p.limits.DialTimeout+l.p.limits.BackoffMax {
			backoff = 0 // it had worked for a while
		}
		backoff = min(max(2*backoff, l.p.limits.BackoffMin), l.p.limits.BackoffMax)
		l.fail(err, served, l.p.jitter(backoff))
	}
	if l.next != nil {
		l.next.closeSocket()
	}
	l.p.retire(l, true)
	l.drop(ErrClosed)
}

// waitForWork waits until a connection is wanted and may be tried. It returns false when the link is retired.
func (l *link) waitForWork(ctx context.Context) bool {
	idleAt := time.Now().Add(l.p.limits.Idle)
	for {
		l.notice()
		l.mu.Lock()
		wanted := len(l.queue) > 0 || l.waiters > 0
		until := idleAt
		if wanted {
			until = time.Time{}
			if l.downLocked() {
				until = l.downUntil
			}
		}
		l.mu.Unlock()
		wait := time.Until(until)
		switch {
		case ctx.Err() != nil:
			return false
		case wanted && wait <= 0:
			return true
		case !wanted && wait <= 0:
			if l.p.retire(l, false) {
				return false
			}
			idleAt = time.Now().Add(l.p.limits.Idle)
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// notice tells the core what was dropped since it was told last.
func (l *link) notice() {
	if l.kind != Raft {
		return
	}
	l.mu.Lock()
	dropped, snapLost := l.dropped, l.snapLost
	l.dropped, l.snapLost = false, false
	l.mu.Unlock()
	if snapLost {
		l.p.opts.OnRaftSnapshotSent(l.peer, false)
	}
	if dropped {
		l.p.opts.OnRaftUnreachable(l.peer)
	}
}

// fail ends what a connection had to carry that broke, or (served is false) could not be opened, and lets nobody dial for
// a pause.
func (l *link) fail(err error, served bool, pause time.Duration) {
	l.mu.Lock()
	first := !l.failed
	l.failed, l.downUntil = true, time.Now().Add(pause)
	l.changedLocked()
	l.mu.Unlock()
	l.counter.failures.Add(1)
	if first {
		l.p.log.Info("peer is not reached", "peer", l.peer, "kind", l.kind, "error", err)
	}
	l.lose(err, served)
}

// lose drops what is queued and tells the core what may be lost.
func (l *link) lose(err error, served bool) {
	dropped := l.drop(err)
	switch l.kind {
	case Data:
		if served || dropped > 0 {
			l.p.opts.OnDisconnect(l.peer)
		}
	case Raft:
		l.mu.Lock()
		l.dropped = true
		l.mu.Unlock()
		l.notice()
	}
}

// drop empties the queue and ends all calls. It returns how many items it dropped.
func (l *link) drop(err error) int {
	l.mu.Lock()
	queue, calls := l.queue, l.calls
	l.queue = nil
	if l.calls != nil {
		l.calls = map[uint64]*call{}
	}
	l.mu.Unlock()
	n := len(queue)
	l.written(queue, false)
	for _, c := range calls {
		c.end(errors.Join(ErrUnreachable, err))
	}
	return n
}

// written gives back what was written or dropped.
func (l *link) written(items []item, ok bool) {
	if len(items) == 0 {
		return
	}
	total, snapshots := int64(0), 0
	for i := range items {
		items[i].done()
		total += items[i].size
		if items[i].snapshot {
			snapshots++
		}
	}
	if !ok {
		l.counter.dropped.Add(uint64(len(items)))
	}
	l.mu.Lock()
	l.bytes -= total
	l.snapshots -= snapshots
	l.snapLost = l.snapLost || (snapshots > 0 && !ok)
	l.changedLocked()
	l.mu.Unlock()
	if snapshots > 0 && ok {
		l.p.opts.OnRaftSnapshotSent(l.peer, true)
	}
	clear(items)
}
