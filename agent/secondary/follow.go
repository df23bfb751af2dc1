package secondary

import (
	"fmt"
	"slices"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/blockdev"
	"flotilla/wire"
)

// follow is the follower's goroutine.
func (s *Secondary) follow() {
	retry := time.NewTicker(s.opt.Retry)
	defer retry.Stop()
	pause := time.NewTimer(followEvery)
	defer pause.Stop()
	for {
		due := false
		select {
		case <-s.ctx.Done():
			return
		case <-s.wake:
		case <-retry.C:
			due = true
		}
		s.look(due)
		pause.Reset(followEvery)
		select {
		case <-s.ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// look brings the targets to what the replicated state says. Those that could not be opened are tried again when due.
func (s *Secondary) look(due bool) {
	assigned, gone := s.assignments()
	for _, v := range gone {
		s.giveBack(v)
	}
	for _, a := range assigned {
		if s.ctx.Err() != nil {
			return
		}
		s.lookAt(a, due)
	}
}

// assignments returns what is assigned to this agent, ascending by volume, and the volumes of targets and records that
// the state does not know any more.
func (s *Secondary) assignments() (out []assignment, gone []wire.VolumeID) {
	known := func(v wire.VolumeID) bool {
		return slices.ContainsFunc(out, func(a assignment) bool { return a.volume == v })
	}
	var id string
	var next wire.VolumeID
	s.loop.View(func(n *core.Node) {
		st := n.State()
		id, next = st.Cluster, st.NextVolume
		for _, g := range st.Groups {
			for _, v := range g.Volumes {
				if v.Secondary != s.self {
					continue
				}
				a := assignment{
					cluster: st.Cluster, group: g.ID, groupName: g.Name, volume: v.ID, volumeName: v.Name,
					path: v.Target, size: v.Size, phase: g.Phase, quiet: n.Quiet(g.ID),
					applied: g.Applied, applyTo: g.ApplyTo, copiedAt: v.CopiedAt, torn: g.Torn,
					seeded: v.Seeded, overwrite: v.Overwrite,
				}
				if r := v.Removed; r != nil { // what is applied since has nothing of it
					a.applied, a.applyTo = min(g.Applied, r.Point.Set), min(g.ApplyTo, r.Point.Set)
					a.torn, a.removed = r.Torn, g.Done(v)
				}
				out = append(out, a)
			}
		}
	})
	slices.SortFunc(out, func(a, b assignment) int { return int(int64(a.volume) - int64(b.volume)) })
	s.mu.Lock()
	for v := range s.targets {
		if !known(v) {
			gone = append(gone, v)
		}
	}
	s.mu.Unlock()
	for v, r := range s.found {
		// A number that was never given out here is not of this state: the state is behind, or the record is foreign.
		if !known(v) && r.Cluster == id && v < next {
			gone = append(gone, v)
		}
	}
	slices.Sort(gone)
	return out, slices.Compact(gone)
}

// giveBack closes the target of a deleted volume. Its record goes too, unless users have written to it.
func (s *Secondary) giveBack(v wire.VolumeID) {
	s.mu.Lock()
	t := s.targets[v]
	delete(s.targets, v)
	s.mu.Unlock()
	r, ok := s.found[v]
	if t != nil {
		if err := s.shut(s.ctx, t); err != nil {
			s.opt.Logger.Warn("cannot close a target", "path", t.assigned.path, "error", err)
		}
		r, ok = t.rec, t.hasRec
		s.event(r.Group, "target.closed", "volume", r.VolumeName, "path", r.Path)
	}
	if !ok {
		return
	}
	if r.Condition == Promoted {
		s.found[v] = r // it goes on protecting what is there
		return
	}
	if err := s.records.remove(v); err != nil {
		s.opt.Logger.Warn("cannot remove the record of a target", "error", err)
		s.found[v] = r
		return
	}
	delete(s.found, v)
}

// lookAt brings one target to what the state says.
func (s *Secondary) lookAt(a assignment, due bool) {
	s.mu.Lock()
	t := s.targets[a.volume]
	fresh := t == nil
	if fresh {
		t = newTarget(a)
		t.rec, t.hasRec = s.found[a.volume]
		delete(s.found, a.volume)
		s.targets[a.volume] = t
	}
	s.mu.Unlock()
	if t.lock(s.ctx) != nil {
		return
	}
	defer t.unlock()
	t.mu.Lock()
	t.assigned = a
	waiting, reopen := t.dev == nil && t.err != nil, t.broken
	t.mu.Unlock()
	if reopen && t.exported == nil {
		if err := t.closeDevice(); err != nil {
			s.opt.Logger.Warn("cannot close a target after a failed flush", "path", a.path, "error", err)
		}
	}
	if waiting && !due && !fresh {
		return
	}
	s.settle(t, a)
}

// settle opens the target and makes its record and its export follow the state. The turn is held.
func (s *Secondary) settle(t *target, a assignment) {
	if a.removed {
		if err := s.release(t, a); err != nil && s.ctx.Err() == nil {
			s.setError(t, err)
		}
		return
	}
	opened := t.dev == nil
	err := s.open(t, a, s.otherRecords(a.volume))
	if err == nil && opened {
		s.setError(t, nil)
		s.opt.Logger.Info("a target is open", "volume", a.volumeName, "path", a.path, "condition", t.rec.Condition)
		attrs := []any{"volume", a.volumeName, "path", a.path}
		if t.overwrites != "" {
			attrs = append(attrs, "overwrites", t.overwrites)
		}
		s.event(a.group, "target.open", attrs...)
	}
	if err == nil {
		err = s.followSize(t, a)
	}
	if err == nil {
		err = s.followRecord(t, a)
	}
	if err == nil {
		switch promoted := a.phase == cluster.Promoted && a.quiet; {
		case promoted && !a.copied() && t.rec.Condition != Promoted:
			err = fmt.Errorf("serve the promoted target of volume %q: its first copy was not finished, so no recovery point has it: what is on %s is not consistent",
				a.volumeName, a.path)
		case promoted && t.exported == nil:
			err = s.offer(t, a)
		case a.phase != cluster.Promoted && t.exported != nil:
			err = s.withdraw(s.ctx, t)
		}
	}
	if err != nil && s.ctx.Err() == nil {
		s.setError(t, err)
	}
}

// release closes the target of a volume whose primary was taken out of the group: it is the operator's. Its record says
// what is on it and protects it until the volume is deleted. The turn is held.
func (s *Secondary) release(t *target, a assignment) error {
	if t.hasRec && t.rec.names(a) {
		if err := s.followRecord(t, a); err != nil {
			return err
		}
	}
	if t.dev == nil {
		return nil
	}
	if err := t.closeDevice(); err != nil {
		return fmt.Errorf("close the target of volume %q, which was taken out of its group: %w", a.volumeName, err)
	}
	s.setError(t, nil)
	s.event(a.group, "target.released", "volume", a.volumeName, "path", a.path, "condition", string(t.rec.Condition), "set", a.applied)
	return nil
}

// followRecord notes what the state has come to since the record was written. The turn is held.
func (s *Secondary) followRecord(t *target, a assignment) error {
	r := t.rec
	switch {
	case r.Condition == Promoted:
		return nil
	case r.Condition == Claimed && !a.copied():
		return nil // nothing was written yet, nor was all found to be there
	case a.torn:
		r.Condition = Torn
	case !a.copied():
		r.Condition = Copying
	case max(t.begun, r.Run) > a.applied:
		return nil // what was seen of the state is older than the writes, or these are still under way
	default:
		r.Condition, r.Run = Consistent, 0
	}
	if r.Condition == t.rec.Condition {
		return nil // a target that nobody writes to is as it was, whatever sets are applied elsewhere
	}
	if r.Condition == Consistent {
		r.Applied = a.applied
	}
	return s.setRecord(t, r)
}

// followSize notes that the volume has grown. The writes of its new range have made the device take in what it was given;
// here it is looked for in one that was opened before. The turn is held.
func (s *Secondary) followSize(t *target, a assignment) error {
	if err := blockdev.GrowTo(t.dev, a.size); err != nil {
		return fmt.Errorf("grow the target of volume %q on %s: %w", a.volumeName, a.path, err)
	}
	r := t.rec
	if r.Size >= a.size || r.Condition == Promoted {
		return nil
	}
	r.Size = a.size
	return s.setRecord(t, r)
}

// otherRecords returns the records of all volumes but one. Only the follower calls it.
func (s *Secondary) otherRecords(v wire.VolumeID) []record {
	var out []record
	for _, r := range s.found {
		out = append(out, r)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, t := range s.targets {
		if id == v {
			continue
		}
		t.mu.Lock()
		if t.hasRec {
			out = append(out, t.rec)
		}
		t.mu.Unlock()
	}
	return out
}

// setError keeps a target's state of health, and shows a change of it.
func (s *Secondary) setError(t *target, err error) {
	t.mu.Lock()
	changed := err != nil && (t.err == nil || t.err.Error() != err.Error())
	t.setErrorLocked(err, s.loop.Now())
	a := t.assigned
	t.mu.Unlock()
	if changed {
		s.opt.Logger.Error("a target is not usable", "volume", a.volumeName, "path", a.path, "error", err)
		s.event(a.group, "target.unavailable", "volume", a.volumeName, "path", a.path, "error", err.Error())
	}
}

// TargetStatus is what a user sees of one target.
type TargetStatus struct {
	Group     string
	Volume    string
	VolumeID  wire.VolumeID
	Path      string
	Size      int64 // of the volume, in bytes
	Open      bool
	Condition Condition
	Applied   wire.Set // the target is at the end of this set, or was before what Condition says
	Export    string   // the name under which it is served, "" if it is not
	Error     string   // why it is not open, or what failed last
}

// Targets returns all targets, ascending by volume.
func (s *Secondary) Targets() []TargetStatus {
	s.mu.Lock()
	targets := make([]*target, 0, len(s.targets))
	for _, t := range s.targets {
		targets = append(targets, t)
	}
	s.mu.Unlock()
	out := make([]TargetStatus, 0, len(targets))
	for _, t := range targets {
		out = append(out, t.status())
	}
	slices.SortFunc(out, func(a, b TargetStatus) int { return int(int64(a.VolumeID) - int64(b.VolumeID)) })
	return out
}

func (t *target) status() TargetStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := &t.assigned
	st := TargetStatus{
		Group: a.groupName, Volume: a.volumeName, VolumeID: a.volume, Path: a.path, Size: a.size,
		Open: t.dev != nil, Condition: t.rec.Condition, Applied: t.rec.Applied,
	}
	if t.rec.Condition == Consistent {
		st.Applied = max(st.Applied, a.applied)
	}
	if t.exported != nil {
		st.Export = a.export()
	}
	if t.err != nil {
		st.Error = t.err.Error()
	}
	return st
}
