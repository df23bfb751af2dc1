package primary

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/nbd"
	"flotilla/wire"
)

// The way of a write.
//
//  1. nbd reads the request; its data lie in a reference-counted buffer, which is retained until nobody needs it and
//     never copied. (parallel, bounded by nbd's limits)
//  2. admit: a sync group that may not serve yet waits, an async or degraded group whose queue is long delays it. (parallel)
//  3. lock: io exclusively over the range, until 6; in sync groups of several primaries unheld before it, until 8.
//     (sequential where ranges overlap)
//  4. touch: the extents' bits are durable. (a look at a map in the working set; else one fdatasync for all that wait)
//  5. source: the device is written. (parallel)
//  6. number: the request's pieces get consecutive seqs in one set and enter the send queue. (sequential in the loop)
//  7. source flush, for FUA. (parallel, shared by those that come together)
//  8. reply: in async now; in sync when it is held, without a goroutine (the watcher), or when the group is degraded.
//  9. a sender takes what is queued for its component, a frame for each set and pair, while others queue; in async it
//     lets some gather. (sequential in the loop)
//     Where they wait for long, a spiller takes their data out of memory and into the group's spool. (one goroutine for each group)
//  10. it reads back what was spilled, seals, compresses and encodes the frame. (parallel, one goroutine for each component)
//  11. the Sender writes it. (at most Limits.Window bytes for each component)
//  12. held: the node releases the payload, once for each piece. (the loop's dispatch)
//
// Where none of this waits, 2 to 8 happen at once on the goroutine that has read the request: see inline.go.
//
// A write that finds no incarnation (detached, suspended) ends at 6 as dirty: its bits stay until it was copied. In sync
// it then waits at 8 for a later incarnation that has copied it.

// placed is where a write stands in the stream.
type placed struct {
	inc wire.Incarnation // 0: it is in no set, and dirty
	seq wire.Seq
	set wire.Set

	early bool   // the group was degraded then: it need not be held
	index uint64 // of the state then
}

// change serves writes, trims and zeroes.
func (v *volume) change(r *nbd.Request) {
	w := heldWait{v: v, r: r}
	ctx := v.ctx
	mode, err := v.g.admit(ctx)
	if err != nil {
		w.complete(err)
		return
	}
	if mode == cluster.Sync && v.g.hidesUnheld() {
		if w.veil, err = v.unheld.RLock(ctx, r.Offset, r.Length); err != nil {
			w.complete(closingOr(err))
			return
		}
		w.veiled = true
	}
	guard, err := v.io.Lock(ctx, r.Offset, r.Length)
	if err != nil {
		w.complete(closingOr(err))
		return
	}
	w.at, err = v.store(r, mode)
	guard.Unlock()
	if err == nil && r.FUA {
		err = v.flush()
	}
	if err != nil || mode != cluster.Sync || w.at.early {
		w.complete(err)
		return
	}
	v.g.awaitHeld(w)
}

// store does stages 4 to 6 under the range lock.
func (v *volume) store(r *nbd.Request, mode cluster.Mode) (placed, error) {
	if err := v.marks.touch(r.Offset, r.Length); err != nil {
		v.dirtied(r.Offset, r.Length)
		return placed{}, v.noted(fmt.Errorf("remember a write: %w", err))
	}
	var err error
	switch r.Op {
	case nbd.OpTrim:
		err = v.dev.Trim(r.Offset, r.Length)
	case nbd.OpWriteZeroes:
		err = v.dev.WriteZeroes(r.Offset, r.Length, !r.NoHole)
	default:
		_, err = v.dev.WriteAt(r.Data(), r.Offset)
	}
	if err != nil {
		// What the range holds now is not known: it is copied as it is.
		v.dirtied(r.Offset, r.Length)
		return placed{}, v.noted(err)
	}
	s := newSubmission(v.g.id)
	defer s.free()
	s.ups = appendPieces(s.ups, v.id, kindOf(r.Op), r.Offset, r.Length, r.Data(), v.g.portion)
	if buf := r.Buffer(); buf != nil {
		s.handle = buf
	}
	err = v.g.number(v.ctx, s, mode)
	switch {
	case err == nil:
		v.marks.numbered(r.Offset, r.Length, s.at.set)
		return s.at, nil
	case errors.Is(err, core.ErrDetached):
		v.dirtied(r.Offset, r.Length)
		return s.at, nil
	}
	v.dirtied(r.Offset, r.Length)
	return placed{}, err
}

// dirtied ends a write that is in no set, and has it copied.
func (v *volume) dirtied(off, length int64) {
	if v.marks.dirtied(off, length) {
		v.g.mu.Lock()
		v.whole, v.unread.until = false, 0 // the copy has something to do
		v.g.mu.Unlock()
		v.g.kickCopier()
	}
}

// submission is one call of core's Submit. It is reused, together with the function that the loop calls, so that a write
// allocates nothing for it.
type submission struct {
	group  wire.GroupID
	ups    []wire.Update
	handle payload // nil for updates without data

	at     placed
	queued int64
	err    error
	run    func(n *core.Node, now time.Duration)
}

// submissions is a pool, and a pool has no state that anybody could see.
var submissions = sync.Pool{New: func() any {
	s := new(submission)
	s.run = s.submit
	return s
}}

func newSubmission(g wire.GroupID) *submission {
	s := submissions.Get().(*submission)
	s.group = g
	return s
}

func (s *submission) free() {
	clear(s.ups)
	s.ups, s.handle, s.at, s.err = s.ups[:0], nil, placed{}, nil
	submissions.Put(s)
}

// submit runs in the loop.
func (s *submission) submit(n *core.Node, now time.Duration) {
	var handle any
	if s.handle != nil {
		handle = s.handle // a nil payload must not become a handle
	}
	inc, seq, err := n.Submit(now, s.group, s.ups, handle)
	view, _ := n.View(s.group)
	s.at, s.err = placed{early: view.Early, index: view.Index}, err
	if err != nil {
		return
	}
	s.at.inc, s.at.seq = inc, seq
	s.at.set = view.Open // Submit closes a set only before it numbers
	s.queued = load(view)
}

// number gives a write its place in the stream. It waits while the group stands still for a cut, which the node bounds
// (Config.HoldMax). When the open set is full and can not be closed, an async or degraded group is suspended and a sync
// group waits. It fails with core.ErrDetached, or because the Primary is closing.
func (g *group) number(ctx context.Context, s *submission, mode cluster.Mode) error {
	s.retain()
	err := g.tryNumber(ctx, s, mode)
	if err != nil {
		s.release()
	}
	return err
}

// retain takes a reference for each update: that many times core gives the handle back.
func (s *submission) retain() {
	if s.handle != nil {
		for range s.ups {
			s.handle.Retain()
		}
	}
}

func (s *submission) release() {
	if s.handle != nil {
		for range s.ups {
			s.handle.Release()
		}
	}
}

func (g *group) tryNumber(ctx context.Context, s *submission, mode cluster.Mode) error {
	var changed <-chan struct{}
	var err error
	for {
		g.p.loop.Do(s.run)
		switch {
		case s.err == nil:
			g.load.Store(s.queued)
			return nil
		case errors.Is(s.err, core.ErrPaused):
		case errors.Is(s.err, core.ErrSetFull) && mode == cluster.Sync && !s.at.early:
		case errors.Is(s.err, core.ErrSetFull):
			g.suspend("the open set is full and can not be closed")
			return core.ErrDetached
		default:
			return s.err
		}
		// The channel must be older than the try that is refused, or the wake-up between the two would be missed.
		if changed == nil {
			changed = g.changed.wait()
			continue
		}
		g.blocked.Add(1)
		select {
		case <-changed:
			changed = nil
		case <-ctx.Done():
			err = errClosing
		}
		g.blocked.Add(-1)
		if err != nil {
			return err
		}
	}
}
