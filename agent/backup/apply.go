package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"flotilla/agent/apply"
	"flotilla/agent/core"
	"flotilla/wire"
)

// An Apply passes these stages:
//
//  0. check has the secondaries compare what its checks say, and comes to nothing when that fails: see check.go.
//  1. makePlan folds its parts by their headers and cuts them into windows. (no data is read yet)
//  2. fill reads each frame of a window once, checks the sum of every update that is used, and copies what is left of it
//     to its place in the window's arena. (sequential)
//  3. send has the secondaries write the window, several requests at a time, while the next one is filled.
//  4. When all is written, flush makes every volume durable, and the node is told.
//
// An error anywhere fails the whole: the node asks again, and everything is written again, which changes nothing.

var (
	errNotStored = errors.New("apply: a part is not stored here")
	// errStale says that the view of an Apply is over. The node has forgotten it.
	errStale = errors.New("apply: its view is over")
)

// applies are the sets that wait to be written, and those being written. The node asks for one at a time of each
// (group, incarnation), and what is of an older view is dropped unread: that bounds the queue.
type applies struct {
	mu      sync.Mutex
	queue   []core.Apply                            // guarded by mu
	running map[*core.Apply]context.CancelCauseFunc // guarded by mu
	more    chan struct{}                           // capacity 1: the queue is not empty

	mismatch string // the last sum that did not match, guarded by mu: the node asks again and again
}

func (a *applies) init() {
	a.running = map[*core.Apply]context.CancelCauseFunc{}
	a.more = make(chan struct{}, 1)
}

func (a *applies) signal() {
	select {
	case a.more <- struct{}{}:
	default:
	}
}

// Apply is a sink of the loop.
func (b *Backup) Apply(list []core.Apply) {
	b.applys.mu.Lock()
	defer b.applys.mu.Unlock()
	b.applys.queue = append(b.applys.queue, list...)
	b.applys.signal()
}

// next takes the oldest Apply and makes a context for it.
func (a *applies) next(parent context.Context) (*core.Apply, context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 {
		return nil, nil
	}
	ap := new(core.Apply)
	*ap, a.queue[0] = a.queue[0], core.Apply{}
	if a.queue = a.queue[1:]; len(a.queue) > 0 {
		a.signal()
	} else {
		a.queue = nil
	}
	ctx, cancel := context.WithCancelCause(parent)
	a.running[ap] = cancel
	return ap, ctx
}

func (a *applies) end(ap *core.Apply) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running[ap](nil)
	delete(a.running, ap)
}

// cancelStale stops what is of another view.
func (a *applies) cancelStale(v wire.View) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for ap, cancel := range a.running {
		if ap.View != v {
			cancel(errStale)
		}
	}
}

// watch cancels what the view has left behind.
func (b *Backup) watch() {
	poll := time.NewTicker(b.opt.Poll)
	defer poll.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-poll.C:
			b.applys.cancelStale(b.view())
		}
	}
}

// applier is one worker's memory.
type applier struct {
	b      *Backup
	raw    []byte // a frame as stored
	data   []byte // and unpacked
	arenas [2][]byte
}

func (b *Backup) applyWorker() {
	w := &applier{b: b}
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-b.applys.more:
		}
		for b.ctx.Err() == nil {
			a, ctx := b.applys.next(b.ctx)
			if a == nil {
				break
			}
			err := w.apply(ctx, a)
			b.applys.end(a)
			if b.stopped(err) {
				return
			}
			if err == nil {
				b.stats.applied.Add(1)
			} else {
				b.stats.applyFailed.Add(1)
			}
			b.loop.Do(func(n *core.Node, now time.Duration) { n.ApplyDone(now, a.Token, err) })
		}
	}
}

// targets returns the secondaries of the group's volumes, or errStale.
func (b *Backup) targets(a *core.Apply) (targets map[wire.VolumeID]wire.AgentID, err error) {
	b.loop.View(func(n *core.Node) {
		st := n.State()
		g := st.Groups[a.Group]
		if st.View != a.View || g == nil {
			err = errStale
			return
		}
		targets = make(map[wire.VolumeID]wire.AgentID, len(g.Volumes))
		for id, v := range g.Volumes {
			targets[id] = v.Secondary
		}
	})
	return targets, err
}

// apply writes one owner's share of a set and makes it durable.
func (w *applier) apply(ctx context.Context, a *core.Apply) error {
	if _, err := w.b.targets(a); err != nil {
		return err
	}
	plan, err := makePlan(a.Parts, w.b.opt.ApplyWindow)
	if err != nil {
		return err
	}
	s := &sending{
		b: w.b, slots: make(chan struct{}, w.b.opt.ApplyCalls), written: map[wire.VolumeID]uint32{},
		head: apply.Request{Group: a.Group, Inc: a.Inc, Set: a.Set, View: a.View, Attempt: w.b.opt.Random()},
	}
	w.check(ctx, a, s.head)
	// Whatever happens, nobody uses the arenas any more when this returns.
	defer s.wait()
	for i := range plan {
		targets, err := w.b.targets(a)
		if err != nil {
			return err
		}
		reqs, err := w.fill(ctx, a, &plan[i], &w.arenas[i%2], s.head, targets)
		if err != nil {
			return err
		}
		// The window before this one; it used the other arena.
		if err := s.wait(); err != nil {
			return err
		}
		s.start(ctx, reqs, targets)
	}
	if err := s.wait(); err != nil {
		return err
	}
	targets, err := w.b.targets(a)
	if err != nil {
		return err
	}
	s.start(ctx, s.flushes(targets), targets)
	return s.wait()
}

// fill reads a window and makes its requests. Their data lies in the arena.
func (w *applier) fill(ctx context.Context, a *core.Apply, win *window, arena *[]byte, head apply.Request, targets map[wire.VolumeID]wire.AgentID) ([]*apply.Request, error) {
	at, err := w.read(ctx, a, win, arena)
	if err != nil {
		return nil, err
	}
	return win.requests(a.Parts, at, *arena, head, targets), nil
}

// read puts the data of a window's pieces into the arena and returns their places by the index of the piece. The piece of
// a check whose digest is of an unknown length gets length 0.
func (w *applier) read(ctx context.Context, a *core.Apply, win *window, arena *[]byte) ([]int, error) {
	at := win.layout(a.Parts)
	*arena = slices.Grow((*arena)[:0], win.bytes)[:win.bytes]
	byPart := map[int][]int{} // pieces of each part
	for i := range win.pieces {
		byPart[win.pieces[i].Part] = append(byPart[win.pieces[i].Part], i)
	}
	for _, f := range win.frames {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		var body *wire.Body
		var err error
		if body, w.raw, err = w.b.load(f.ref, w.raw); err != nil {
			return nil, err
		}
		if w.data, err = body.Decompress(w.data, w.b.decoder); err != nil {
			return nil, err
		}
		for _, k := range f.parts {
			u, err := w.b.checked(a, body, &a.Parts[k])
			if err != nil {
				return nil, err
			}
			for _, i := range byPart[k] {
				p := &win.pieces[i]
				switch {
				case u.Kind == wire.KindWrite:
					copy((*arena)[at[i]:], u.Data[p.From:p.From+p.Length])
				case u.Kind == wire.KindCheck && len(u.Data) == wire.DigestLength:
					copy((*arena)[at[i]:], u.Data)
				case u.Kind == wire.KindCheck:
					p.Length = 0
				}
			}
		}
	}
	return at, nil
}

// checked returns the update of a part out of its frame, with its data, after comparing it with the index and with the
// sum that its primary made (P8).
func (b *Backup) checked(a *core.Apply, body *wire.Body, p *core.Part) (*wire.Update, error) {
	if body.Group != a.Group || body.Incarnation != a.Inc || body.Set != a.Set || p.Index >= len(body.Updates) {
		return nil, fmt.Errorf("apply set %d: the stored frame is of group %d, incarnation %d, set %d: not what the index says",
			a.Set, body.Group, body.Incarnation, body.Set)
	}
	u, want := &body.Updates[p.Index], p.Update
	if u.Seq != want.Seq || u.Kind != want.Kind || u.Volume != want.Volume || u.Offset != want.Offset || u.Length != want.Length {
		return nil, fmt.Errorf("apply set %d: update %d of the stored frame has seq %d, and the index says %d", a.Set, p.Index, u.Seq, want.Seq)
	}
	if err := u.Verify(body.Group, body.Incarnation); err != nil {
		b.tellMismatch(a, err)
		return nil, err
	}
	return u, nil
}

// tellMismatch shows a sum that does not match, once.
func (b *Backup) tellMismatch(a *core.Apply, err error) {
	b.applys.mu.Lock()
	known := b.applys.mismatch == err.Error()
	b.applys.mismatch = err.Error()
	b.applys.mu.Unlock()
	if !known {
		b.opt.Logger.Error("an update is not what its primary sealed: its set is not applied", "group", a.Group, "set", a.Set, "error", err)
		b.event(a.Group, "update.damaged", "set", a.Set, "incarnation", a.Inc, "error", err.Error())
	}
}
