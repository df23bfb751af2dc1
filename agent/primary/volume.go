package primary

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"flotilla/agent/core"
	"flotilla/blockdev"
	"flotilla/nbd"
	"flotilla/wire"
)

// volume is one open source volume. It is an nbd.Export.
type volume struct {
	p     *Primary
	g     *group
	id    wire.VolumeID
	name  string // "group/volume"
	path  string
	bytes atomic.Int64 // size: what clients are offered. It only rises, and not above what the marks are of
	dev   blockdev.Device
	marks *activity

	// io orders requests of one range: a write holds it over the write of the source and its numbering, so that both
	// agree on the order of overlapping writes; a copy holds it over reading and numbering.
	io blockdev.RangeLock
	// unheld hides what is not held yet from reads, in sync groups of several primaries: a write holds its range shared
	// until it is held, a read holds it exclusively for its moment. It is taken before io, and not by copies: a write
	// whose incarnation has ended becomes held by being copied.
	unheld blockdev.RangeLock

	ops admission

	cached                bool // the source is in the page cache, see inline.go
	readHaste, writeHaste haste
	ended                 context.Context // has ended

	applied chan struct{}   // capacity 1: wakes the cleaner
	ctx     context.Context // ends when the volume, or the Primary, begins to close: waits of requests end with it
	stop    context.CancelFunc
	done    sync.WaitGroup // the cleaner and the grower
	growth  growing

	// The fields below are guarded by g.mu.

	closing              bool
	inc                  wire.Incarnation // for which the copy was begun, 0 for none
	run                  copyRun          // how that copy goes on
	whole                bool             // nothing is left to be copied for inc
	wholeSeq             wire.Seq         // and the copy's updates are up to this seq
	said                 bool             // inc's first copy was reported as whole
	wasWhole             bool             // whole was true once: what is copied since is what failed writes left, and breaks no set
	unread               unread
	copyRead, copyZeroed int64            // bytes since the volume was opened
	seed                 *seedJob         // nil unless its first copy is being compared
	seededInc            wire.Incarnation // the newest one for which it was

	lastError error
	toldError time.Duration // when it was last an event
	failing   failing
}

// admission counts the requests inside a volume, so that closing it can wait for them.
type admission struct {
	mu   sync.Mutex
	n    int
	shut bool
	idle chan struct{} // closed when shut and nobody is inside
}

func (a *admission) enter() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.shut {
		return false
	}
	a.n++
	return true
}

func (a *admission) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n--
	if a.shut && a.n == 0 {
		close(a.idle)
	}
}

// close lets nobody in any more and waits until nobody is inside.
func (a *admission) close() {
	a.mu.Lock()
	if !a.shut {
		a.shut, a.idle = true, make(chan struct{})
		if a.n == 0 {
			close(a.idle)
		}
	}
	idle := a.idle
	a.mu.Unlock()
	<-idle
}

// size returns how many bytes clients are offered.
func (v *volume) size() int64 { return v.bytes.Load() }

// Info implements nbd.Export.
func (v *volume) Info() nbd.Info {
	sizes := v.dev.BlockSizes()
	info := nbd.Info{
		Size:           v.size(),
		MinBlock:       uint32(sizes.Logical),
		PreferredBlock: uint32(max(sizes.Physical, 4096)),
		Description:    v.name,
		Features:       nbd.CanFlush | nbd.CanFUA | nbd.CanTrim | nbd.CanWriteZeroes | nbd.CanExtents | nbd.CanMultiConn,
	}
	if info.Size%int64(info.MinBlock) != 0 || info.MinBlock > 1<<16 {
		info.MinBlock = 1 // a device takes any range; the client should not lose the tail
	}
	return info
}

// Serve implements nbd.Export.
func (v *volume) Serve(r *nbd.Request) {
	v.g.requests.Add(1)
	if !v.ops.enter() {
		r.Done(errClosing)
		return
	}
	switch r.Op {
	case nbd.OpWrite, nbd.OpTrim, nbd.OpWriteZeroes:
		v.change(r) // completes it, perhaps later
		return
	case nbd.OpRead:
		r.Done(v.read(r))
	case nbd.OpFlush:
		r.Done(v.flush())
	case nbd.OpBlockStatus:
		r.Done(v.extents(r))
	default:
		r.Done(fmt.Errorf("serve %v: %w", r.Op, nbd.EINVAL))
	}
	v.ops.leave()
}

// errClosing completes what comes, or still waits, while the volume is being closed.
var errClosing = fmt.Errorf("the volume is being closed: %w", nbd.ESHUTDOWN)

func (v *volume) read(r *nbd.Request) error {
	if err := v.g.awaitServed(v.ctx); err != nil {
		return err
	}
	if v.g.hidesUnheld() {
		veil, err := v.unheld.Lock(v.ctx, r.Offset, r.Length)
		if err != nil {
			return closingOr(err)
		}
		defer veil.Unlock()
	}
	guard, err := v.io.RLock(v.ctx, r.Offset, r.Length)
	if err != nil {
		return closingOr(err)
	}
	defer guard.Unlock()
	_, err = v.dev.ReadAt(r.Data(), r.Offset)
	return v.noted(err)
}

func (v *volume) flush() error { return v.noted(v.dev.Flush()) }

func (v *volume) extents(r *nbd.Request) error {
	for e, err := range blockdev.Extents(v.dev, r.Offset, r.Length) {
		if err != nil {
			return v.noted(err)
		}
		flags := nbd.ExtentFlags(0)
		if e.Hole {
			flags = nbd.ExtentHole | nbd.ExtentZero
		}
		if !r.AddExtent(e.Length, flags) {
			break
		}
	}
	return nil
}

// closingOr makes the end of the Primary's context what the client is to see.
func closingOr(err error) error {
	if errors.Is(err, context.Canceled) {
		return errClosing
	}
	return err
}

// errorEvery is the least time between two events about one source's errors.
const errorEvery = 10 * time.Second

// noted keeps an error of the source for the status, and makes it an event unless there was one just before.
func (v *volume) noted(err error) error {
	if err == nil {
		return nil
	}
	now := v.p.loop.Now()
	v.g.mu.Lock()
	tell := v.lastError == nil || now-v.toldError >= errorEvery
	v.failing.note(now)
	if v.lastError = err; tell {
		v.toldError = now
	}
	v.g.mu.Unlock()
	if tell {
		v.p.event(v.g.id, "source.failed", "volume", v.name, "error", err.Error())
	}
	return err
}

// runCleaner clears bits of extents that are applied, and notes what is kept of a resync, until the volume begins to close.
func (v *volume) runCleaner() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	<-pause.C
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-v.applied:
		}
		v.cleanOnce(v.p.limits.KeepExtents)
		v.keepOnce()
		pause.Reset(v.p.limits.CleanEvery)
		select {
		case <-v.ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// cleanOnce clears what may be cleared but for keep extents, and makes that durable.
func (v *volume) cleanOnce(keep int) {
	applied, ok := v.g.appliedFor(v)
	if !ok {
		return
	}
	cleared, err := v.marks.clean(applied, keep, maxExtents, v.dev.Flush)
	if err == nil && cleared > 0 {
		err = v.marks.commit()
	}
	_ = v.noted(err)
}

// keepOnce notes what a resync has copied and is held, and makes that durable.
func (v *volume) keepOnce() {
	inc, held, ok := v.g.heldFor(v)
	if !ok {
		return
	}
	kept, err := v.marks.keep(inc, held, v.dev.Flush)
	if err == nil && kept > 0 {
		err = v.marks.commit()
	}
	_ = v.noted(err)
}

// close ends the volume, which its group has forgotten. What is at work is finished, what waits is not.
func (v *volume) close(gone bool) error {
	v.stop()
	v.ops.close()
	v.done.Wait()
	if gone {
		return errors.Join(v.marks.remove(), v.dev.Close())
	}
	err := v.dev.Flush()
	if err == nil {
		v.marks.settle()
		v.cleanOnce(0)
		v.keepOnce()
		err = v.marks.commit()
	}
	return errors.Join(err, v.marks.close(), v.dev.Close())
}

// volumeWanted is a volume that the cluster state gives to this agent.
type volumeWanted struct {
	id   wire.VolumeID
	name string
	path string
	size int64
	grow int64 // the size that it is to have, 0 while it does not grow
	// copy is the number of the target's copy, see cluster.Volume.
	copy        uint64
	bitmapAtEnd bool
}

// groupWanted is a group in which this agent has volumes.
type groupWanted struct {
	cluster string // its ID
	id      wire.GroupID
	name    string
	portion uint64
	shared  bool // several primaries
	spool   int64
	volumes []volumeWanted
}

// wanted lists the groups and volumes whose primary this agent is.
func wanted(n *core.Node) []groupWanted {
	st := n.State()
	var out []groupWanted
	for _, gid := range sortedGroups(st) {
		g := st.Groups[gid]
		w := groupWanted{cluster: st.Cluster, id: gid, name: g.Name, portion: g.PortionSize, shared: len(g.Primaries()) > 1, spool: g.SpoolBytes()}
		for _, vid := range sortedVolumes(g) {
			if v := g.Volumes[vid]; v.Primary == n.ID() && v.Removed == nil {
				w.volumes = append(w.volumes, volumeWanted{
					id: vid, name: g.Name + "/" + v.Name, path: v.Source, size: v.Size, grow: v.Grow, copy: v.Copy, bitmapAtEnd: v.BitmapAtEnd,
				})
			}
		}
		if len(w.volumes) > 0 {
			out = append(out, w)
		}
	}
	return out
}
