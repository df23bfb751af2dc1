package secondary

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/export"
	"flotilla/blockdev"
	"flotilla/nbd"
	"flotilla/wire"
)

// assignment is what the replicated state says of one volume whose target is here.
type assignment struct {
	cluster    string
	group      wire.GroupID
	groupName  string
	volume     wire.VolumeID
	volumeName string
	path       string
	size       int64

	phase    cluster.Phase
	quiet    bool // no write to the group's targets is under way here
	applied  wire.Set
	applyTo  wire.Set
	copiedAt wire.Set
	torn     bool
	seeded   bool // it was filled by hand, so it holds something
	// overwrite says that the operator lets what the target holds be overwritten.
	overwrite bool
	removed   bool // its primary was taken out of the group, and the target has got all that it will ever get
}

// export is the name under which the target is served.
func (a *assignment) export() string { return a.groupName + "/" + a.volumeName }

// copied reports whether the volume belongs to the recovery points.
func (a *assignment) copied() bool { return a.copiedAt != 0 && a.copiedAt <= a.applied }

// target is one volume's target device.
//
// turn is taken by whoever changes the record or opens and closes the device; it is held over I/O, and no lock is taken
// while waiting for it.
type target struct {
	turn chan struct{} // capacity 1, full while taken

	// rec is guarded by turn, but may be read with mu held as well: it changes with both held.
	mu       sync.Mutex
	assigned assignment // as last seen
	rec      record
	hasRec   bool
	dev      blockdev.Device // nil while not open
	// overwrites names what the target held when it was claimed by force, in this run. Guarded by turn alone.
	overwrites string
	broken     bool              // a flush failed: the device is to be opened anew
	begun      wire.Set          // newest set that writes of this run began for
	opening    uint64            // rises with each opening of the device
	written    map[uint64]uint32 // requests of each attempt that were written since dev was opened
	wroteFor   turnKey           // the (view, set) that written speaks of
	fresh      wire.Set          // nothing of this set, nor of a later one, was written before the device was opened
	begunIn    core.Begun        // what writes of one set began in since then
	err        error             // why it is not open, or what failed last
	errSince   time.Duration     // when it was nil before
	exported   nbd.Export        // set while it is served
}

type turnKey struct {
	view wire.View
	set  wire.Set
}

// maxAttempts bounds target.written: attempts of one set beyond it have to write again.
const maxAttempts = 1024

func newTarget(a assignment) *target {
	return &target{turn: make(chan struct{}, 1), assigned: a}
}

// lock takes the target's turn, or returns the context's error.
func (t *target) lock(ctx context.Context) error {
	select {
	case t.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t *target) unlock() { <-t.turn }

// setRecord makes a record durable. The turn is held.
func (s *Secondary) setRecord(t *target, r record) error {
	if err := s.records.write(r); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rec, t.hasRec = r, true
	return nil
}

// open opens the device if it is not. The turn is held. others are the records of other volumes.
func (s *Secondary) open(t *target, a assignment, others []record) error {
	if t.dev != nil {
		return nil
	}
	if err := s.mayClaim(t, a, others); err != nil {
		return err
	}
	dev, err := s.opt.Open(a.path)
	if err != nil {
		return fmt.Errorf("open the target of volume %q: %w", a.volumeName, err)
	}
	if dev.Size() < a.size {
		return errors.Join(fmt.Errorf("open the target of volume %q: %s has %d bytes and the volume %d: make the target at least as large",
			a.volumeName, a.path, dev.Size(), a.size), dev.Close())
	}
	if !t.hasRec || !t.rec.names(a) {
		if t.overwrites, err = s.mayOverwrite(dev, a); err != nil {
			return errors.Join(fmt.Errorf("open the target of volume %q: %w", a.volumeName, err), dev.Close())
		}
		// What a seeded volume's copy finds to be there must be there for good.
		if err := dev.Flush(); err != nil {
			return errors.Join(fmt.Errorf("flush the target of volume %q: %w", a.volumeName, err), dev.Close())
		}
		if err := errors.Join(s.adopt(a, others), s.setRecord(t, newRecord(a))); err != nil {
			return errors.Join(err, dev.Close())
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dev, t.broken = dev, false
	t.opening++
	// The replicated state, which never falls behind what this agent has acted upon, says which set may have been written
	// in part; begun knows of what this agent has begun since a was looked up, and the record says it again.
	t.fresh, t.begunIn = max(a.applied+1, t.begun, t.rec.Run)+1, core.Begun{}
	t.written, t.wroteFor = map[uint64]uint32{}, turnKey{}
	return nil
}

// mayOverwrite refuses a target that holds something, unless that is wanted, and returns what it holds then. Only the first
// claim asks: with the record the target is the volume's, and so is the file system that was replicated to it.
func (s *Secondary) mayOverwrite(dev blockdev.Device, a assignment) (held string, err error) {
	if a.seeded {
		return "", nil
	}
	found, err := blockdev.Signatures(dev)
	forced := a.overwrite || s.opt.Adopt
	switch {
	case err != nil && !forced:
		return "", err
	case len(found) == 0 || forced:
		return strings.Join(found, ", "), nil
	}
	return "", fmt.Errorf("%s holds something: %s: if it is not needed, delete the volume and make it again with --force, or clear the device (wipefs -a); with --seeded it is compared with the source instead",
		a.path, strings.Join(found, ", "))
}

func newRecord(a assignment) record {
	return record{
		Cluster: a.cluster, Group: a.group, GroupName: a.groupName, Volume: a.volume, VolumeName: a.volumeName,
		Path: a.path, Size: a.size, Condition: Claimed,
	}
}

// names reports whether the record is that of the assigned volume on the assigned target.
func (r *record) names(a assignment) bool {
	return r.Cluster == a.cluster && r.Group == a.group && r.Volume == a.volume && r.Path == a.path
}

// adopt removes the records of earlier owners of the target.
func (s *Secondary) adopt(a assignment, others []record) error {
	for _, r := range others {
		if r.Path != a.path {
			continue
		}
		s.opt.Logger.Warn("a target is taken over", "path", a.path, "from_volume", r.VolumeName, "from_cluster", r.Cluster, "condition", r.Condition)
		if err := s.records.remove(r.Volume); err != nil {
			return err
		}
		delete(s.found, r.Volume)
	}
	return nil
}

// mayClaim refuses a target that another volume's record names, or that of another cluster.
func (s *Secondary) mayClaim(t *target, a assignment, others []record) error {
	if s.opt.Adopt {
		return nil
	}
	if t.hasRec {
		if t.rec.names(a) {
			return nil
		}
		others = append(others, t.rec)
	}
	for _, r := range others {
		if r.Path == a.path || r.Volume == a.volume {
			return fmt.Errorf("open the target of volume %q: %s is recorded as the target of volume %q (number %d) of group %q in cluster %s, %s: choose another target, or remove %s to give up what is on it",
				a.volumeName, r.Path, r.VolumeName, r.Volume, r.GroupName, r.Cluster, r.Condition, s.records.name(r.Volume))
		}
	}
	return nil
}

// shut withdraws the target's export and closes its device.
func (s *Secondary) shut(ctx context.Context, t *target) error {
	t.turn <- struct{}{}
	defer t.unlock()
	return errors.Join(s.withdraw(ctx, t), t.closeDevice())
}

// closeDevice waits for the calls under way. The turn is held.
func (t *target) closeDevice() error {
	t.mu.Lock()
	dev := t.dev
	t.dev = nil
	t.mu.Unlock()
	if dev == nil {
		return nil
	}
	return dev.Close()
}

// offer serves a promoted target. The turn is held.
func (s *Secondary) offer(t *target, a assignment) error {
	if t.rec.Condition != Promoted {
		// What was applied is flushed already; this covers what the opening may have found in the cache.
		if err := t.dev.Flush(); err != nil {
			return fmt.Errorf("flush the promoted target %s: %w", a.path, err)
		}
		r := t.rec
		r.Condition, r.Applied, r.Run = Promoted, a.applied, 0
		if err := s.setRecord(t, r); err != nil {
			return err
		}
	}
	e := export.New(t.dev, export.Options{Size: a.size, Description: fmt.Sprintf("promoted volume %s", a.export())})
	if s.opt.Exports != nil {
		if err := s.opt.Exports.AddExport(a.export(), e); err != nil {
			return fmt.Errorf("serve the promoted target %s: %w", a.path, err)
		}
	}
	t.mu.Lock()
	t.exported = e
	t.mu.Unlock()
	s.opt.Logger.Info("a promoted target is served", "export", a.export(), "path", a.path)
	s.event(a.group, "target.served", "volume", a.volumeName, "export", a.export(), "path", a.path)
	return nil
}

// withdraw ends serving. The turn is held.
func (s *Secondary) withdraw(ctx context.Context, t *target) error {
	t.mu.Lock()
	served, name := t.exported != nil, t.assigned.export()
	t.exported = nil
	t.mu.Unlock()
	if !served || s.opt.Exports == nil {
		return nil
	}
	return s.opt.Exports.RemoveExport(ctx, name)
}
