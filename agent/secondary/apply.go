package secondary

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flotilla/agent/apply"
	"flotilla/agent/core"
	"flotilla/blockdev"
	"flotilla/wire"
)

// ErrNotReady says that the target is not open here; the status says why. It is tried again.
var ErrNotReady = errors.New("the target is not open")

// ErrClosed is returned after Close.
var ErrClosed = errors.New("the secondary is closed")

// run is what the node lets a request write.
type run struct {
	set     wire.Set
	applied wire.Set
	applyTo wire.Set
	copied  bool
	torn    bool
	size    int64  // of the volume, in bytes
	portion uint64 // of the group, in bytes
}

// OnApply performs a request of an authenticated agent and returns when it is done. It waits for its turn, Options.Wait
// at most, and until ctx ends; a write that has begun is finished. The pieces' data is not used after it has returned.
func (s *Secondary) OnApply(ctx context.Context, from wire.AgentID, req *apply.Request) error {
	if err := req.Validate(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed || s.loop == nil {
		s.mu.Unlock()
		return ErrClosed
	}
	s.calls.Add(1)
	s.mu.Unlock()
	defer s.calls.Done()

	r, err := s.begin(ctx, from, req)
	if err != nil {
		return err
	}
	defer s.loop.Do(func(n *core.Node, _ time.Duration) { n.EndApply(req.Group) })
	return s.perform(ctx, req, r)
}

// begin waits until the node lets the request write. After nil, EndApply must follow.
func (s *Secondary) begin(ctx context.Context, from wire.AgentID, req *apply.Request) (r run, err error) {
	limit := time.NewTimer(s.opt.Wait)
	defer limit.Stop()
	for late := false; ; {
		s.mu.Lock()
		woken := s.woken
		s.mu.Unlock()
		s.loop.Do(func(n *core.Node, _ time.Duration) {
			r, err = look(n, req)
			switch begun := n.BeginApply(from, req.Group, req.View, req.Set); {
			case errors.Is(begun, core.ErrTargetBusy):
				err = begun // this agent may not have heard yet what makes the request right, such as that its volume grows
			case err == nil:
				err = begun
			case begun == nil:
				n.EndApply(req.Group)
			}
		})
		if late || !errors.Is(err, core.ErrTargetBusy) {
			return r, err
		}
		select {
		case <-woken:
		case <-limit.C:
			late = true // the next answer is final
		case <-ctx.Done():
			return r, context.Cause(ctx)
		case <-s.ctx.Done():
			return r, ErrClosed
		}
	}
}

// look returns what the state says of the request's volume, or refuses it.
func look(n *core.Node, req *apply.Request) (run, error) {
	g := n.State().Groups[req.Group]
	if g == nil {
		return run{}, fmt.Errorf("apply: there is no group %d", req.Group)
	}
	v := g.Volumes[req.Volume]
	if v == nil || v.Secondary != n.ID() {
		return run{}, fmt.Errorf("apply set %d of group %q: volume %d has no target on agent %d", req.Set, g.Name, req.Volume, n.ID())
	}
	for i := range req.Pieces {
		if p := &req.Pieces[i]; p.End() > uint64(v.Reach()) {
			return run{}, fmt.Errorf("apply set %d of group %q: %v of %d bytes at offset %d lies behind the end of volume %q, %d bytes: %w",
				req.Set, g.Name, p.Kind, p.Length, p.Offset, v.Name, v.Reach(), apply.ErrInvalid)
		}
	}
	return run{
		set: req.Set, applied: g.Applied, applyTo: g.ApplyTo, copied: v.Copied(g.Applied), torn: g.Torn, size: v.Reach(), portion: g.PortionSize,
	}, nil
}

// perform writes and flushes. The node has let it.
func (s *Secondary) perform(ctx context.Context, req *apply.Request, r run) error {
	s.mu.Lock()
	t := s.targets[req.Volume]
	s.mu.Unlock()
	if t == nil {
		return fmt.Errorf("apply to volume %d: %w", req.Volume, ErrNotReady)
	}
	if req.Checks {
		return s.compare(ctx, t, req, r)
	}
	dev, opening, err := s.announce(ctx, t, r)
	if err != nil {
		return err
	}
	if err := reach(dev, req); err != nil {
		return s.failed(t, req, dev.Size(), err)
	}
	t.begin(req, r)
	for i := range req.Pieces {
		if err := writePiece(dev, &req.Pieces[i]); err != nil {
			return s.failed(t, req, int64(req.Pieces[i].Offset), err)
		}
	}
	if len(req.Pieces) > 0 {
		t.count(opening, req)
	}
	if !req.Flush {
		return nil
	}
	if err := t.covers(opening, req); err != nil {
		return err
	}
	if err := dev.Flush(); err != nil {
		t.mu.Lock()
		t.broken = true
		t.mu.Unlock()
		s.Wake()
		return s.failed(t, req, 0, err)
	}
	// The device may have been opened anew while it was flushed: then the flush was another device's.
	if err := t.covers(opening, req); err != nil {
		return err
	}
	t.mu.Lock()
	t.err = nil
	t.mu.Unlock()
	return nil
}

// announce makes the record say that the run is being written, and returns the device.
func (s *Secondary) announce(ctx context.Context, t *target, r run) (blockdev.Device, uint64, error) {
	if err := t.lock(ctx); err != nil {
		return nil, 0, err
	}
	defer t.unlock()
	if err := t.ready(); err != nil {
		return nil, 0, err
	}
	rec := t.rec
	switch {
	case r.torn:
		rec.Condition, rec.Run = Torn, 0
	case !r.copied:
		rec.Condition, rec.Run = Copying, 0
	case rec.Condition == Applying && rec.Run >= r.set:
	default:
		rec.Condition, rec.Applied, rec.Run = Applying, r.applied, max(r.applyTo, r.set)
	}
	if rec != t.rec {
		if err := s.setRecord(t, rec); err != nil {
			return nil, 0, fmt.Errorf("apply to the target of volume %q: %w", rec.VolumeName, err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun = max(t.begun, r.set)
	return t.dev, t.opening, nil
}

// ready says why the target takes no writes. The turn is held.
func (t *target) ready() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dev != nil && !t.broken && t.exported == nil && t.rec.Condition != Promoted {
		return nil
	}
	err := ErrNotReady
	if t.err != nil {
		err = fmt.Errorf("%w: %w", err, t.err)
	}
	return fmt.Errorf("apply to volume %q: %w", t.assigned.volumeName, err)
}

// reach has the device take in that it was enlarged, where the request goes behind the end that it knows.
func reach(dev blockdev.Device, req *apply.Request) error {
	end := uint64(0)
	for i := range req.Pieces {
		end = max(end, req.Pieces[i].End())
	}
	return blockdev.GrowTo(dev, int64(end))
}

func writePiece(dev blockdev.Device, p *apply.Piece) error {
	switch p.Kind {
	case wire.KindWrite:
		_, err := dev.WriteAt(p.Data, int64(p.Offset))
		return err
	case wire.KindZero:
		return dev.WriteZeroes(int64(p.Offset), int64(p.Length), true)
	default:
		return dev.Trim(int64(p.Offset), int64(p.Length)) // reads as zeroes, as on the source
	}
}

// count notes a request that was written.
func (t *target) count(opening uint64, req *apply.Request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.opening != opening || t.dev == nil {
		return
	}
	if k := (turnKey{req.View, req.Set}); t.wroteFor != k || len(t.written) >= maxAttempts {
		t.written, t.wroteFor = map[uint64]uint32{}, k
	}
	t.written[req.Attempt]++
}

// covers reports whether a flush of the device makes durable what the component believes was written.
func (t *target) covers(opening uint64, req *apply.Request) error {
	want := req.Writes
	if len(req.Pieces) > 0 {
		want++
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var have uint32
	if t.opening == opening && t.dev != nil && t.wroteFor == (turnKey{req.View, req.Set}) {
		have = t.written[req.Attempt]
	}
	if have < want {
		return fmt.Errorf("flush volume %q: %d of %d requests of this attempt are known since the device was opened: %w",
			t.assigned.volumeName, have, want, apply.ErrUnwritten)
	}
	return nil
}

// failed shows that a device refused a write.
func (s *Secondary) failed(t *target, req *apply.Request, off int64, err error) error {
	t.mu.Lock()
	again := t.err != nil && t.err.Error() == err.Error()
	t.setErrorLocked(err, s.loop.Now())
	a := t.assigned
	t.mu.Unlock()
	if !again {
		s.opt.Logger.Error("a target failed", "volume", a.volumeName, "path", a.path, "error", err)
		s.event(req.Group, "target.failed", "volume", a.volumeName, "path", a.path, "set", req.Set, "offset", off, "error", err.Error())
	}
	return fmt.Errorf("apply set %d to volume %q: %w", req.Set, a.volumeName, err)
}
