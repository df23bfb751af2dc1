package backup

import (
	"sync"
	"time"

	"flotilla/agent/core"
	"flotilla/wire"
)

// notes are results on their way to the node. They are bounded by the frames that are on their way to the disk.
type notes struct {
	mu      sync.Mutex
	results []result
	closed  bool          // guarded by mu: nothing comes any more
	wake    chan struct{} // capacity 1: something came, or closed
}

// result is what came of a store, or a frame that did not go to its mirror.
type result struct {
	id  uint64
	ref any
	err error

	unsent wire.AgentID // the mirror; 0 for a store
	no     uint64
}

func (s *notes) init() { s.wake = make(chan struct{}, 1) }

func (s *notes) put(r result) {
	s.mu.Lock()
	s.results = append(s.results, r)
	s.mu.Unlock()
	s.signal()
}

func (s *notes) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *notes) stored(id uint64, at any, err error) { s.put(result{id: id, ref: at, err: err}) }

// unsent says that a frame did not leave for its mirror.
func (s *notes) unsent(to wire.AgentID, no uint64) { s.put(result{unsent: to, no: no}) }

// close ends the notifier once it has told what it has.
func (s *notes) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.signal()
}

// notify is the notifier's goroutine: all results of one flush go to the node in one call.
func (b *Backup) notify() {
	s := &b.notes
	for range s.wake {
		s.mu.Lock()
		results, closed := s.results, s.closed
		s.results = nil
		s.mu.Unlock()
		if len(results) > 0 {
			b.loop.Do(func(n *core.Node, now time.Duration) { tell(n, now, results) })
		}
		if closed {
			return
		}
	}
}

func tell(n *core.Node, now time.Duration, results []result) {
	for _, r := range results {
		if r.unsent != 0 {
			// For the owner it is the same as if the mirror had refused it: it asks, and sends out of the journal.
			n.Receive(now, r.unsent, &core.FrameNack{No: r.no, Reason: core.NackFull, View: n.State().View})
			continue
		}
		n.Stored(now, r.id, r.ref, r.err)
	}
}
