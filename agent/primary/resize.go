package primary

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/blockdev"
	"flotilla/wire"
)

// How a volume grows, while it is in use (cluster/resize.go says what the state has of it):
//
//  1. The source, which the operator has enlarged, is made zero behind the volume's end, and flushed. Nobody has served, or
//     serves, what is there.
//  2. Zeroes for the same range are numbered. When their set is applied, in the incarnation that they were numbered in, the
//     target reads as zeroes there, durably: as with bits that are cleared, see core.Extents.
//  3. So the new extents' bits are clear. They become durable, with the new size, in one step.
//  4. The state is told, and when it has the new size clients get it.
//
// A crash in 1 or 2 has it begin anew, one in 3 finds the bits of the old size or of the new one, and one in 4 those of the new
// one. Nothing is in the new range but zeroes until 4 is done, so nothing can be lost in it. The end of the incarnation has
// the zeroes numbered again. Nothing is copied for it, and no set is broken.

// growPiece is how much of the source is made zero at a time, in bytes.
const growPiece = 16 << 20

// errOtherCopy says that the target has become another device meanwhile.
var errOtherCopy = errors.New("the target was replaced")

// growing is what a volume's grower is told.
type growing struct {
	to  atomic.Int64  // bytes to grow to, 0 for none
	now chan struct{} // capacity 1: wakes the grower
}

// follow takes in what the state says of the volume's size.
func (v *volume) follow(w *volumeWanted) {
	if w.size > v.size() {
		v.bytes.Store(w.size)
		v.p.event(v.g.id, "volume.grown", "volume", v.name, "size", w.size)
		if r, ok := v.p.exporter.(Resizer); ok {
			r.ResizeExport(v.name)
		}
	}
	if v.growth.to.Swap(w.grow) != w.grow || w.grow != 0 {
		kick(v.growth.now)
	}
}

// runGrower grows the volume when it is asked for, until the volume begins to close.
func (v *volume) runGrower() {
	again := time.NewTimer(0)
	defer again.Stop()
	<-again.C
	backoff, failed, told := v.p.limits.OpenAgain, false, ""
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-v.growth.now:
			if failed {
				continue // what it failed at is tried again in time
			}
		case <-again.C:
		}
		failed = false
		to := v.growth.to.Load()
		if to <= v.size() {
			continue
		}
		err := v.grow(to)
		if err == nil {
			backoff, told = v.p.limits.OpenAgain, ""
			continue
		}
		if v.ctx.Err() != nil {
			return
		}
		failed = true
		if text := err.Error(); text != told {
			v.p.event(v.g.id, "volume.not-grown", "volume", v.name, "size", to, "error", text)
			told = text
		}
		again.Reset(backoff)
		backoff = min(2*backoff, maxBackoff*v.p.limits.OpenAgain)
	}
}

// grow returns when the state has the new size, or another one is wanted.
func (v *volume) grow(to int64) error {
	if from := v.marks.size(); from < to {
		if err := v.zeroSource(from, to); err != nil {
			return fmt.Errorf("grow volume %s to %d bytes: source %s: %w", v.name, to, v.path, err)
		}
	}
	for v.marks.size() < to {
		z, err := v.numberZeroes(v.marks.size(), to)
		if err == nil {
			err = v.awaitApplied(&z)
		}
		if err == nil {
			err = v.marks.grow(to, z.copy)
		}
		switch {
		case errors.Is(err, errIncGone), errors.Is(err, errOtherCopy): // what was numbered may be lost: again, in the next one
		case err != nil:
			return fmt.Errorf("grow volume %s to %d bytes: %w", v.name, to, err)
		}
	}
	if err := v.marks.commit(); err != nil { // also what an earlier try has left to be written
		return fmt.Errorf("grow volume %s to %d bytes: %w", v.name, to, err)
	}
	for v.size() < to && v.growth.to.Load() == to {
		v.p.loop.Do(func(n *core.Node, _ time.Duration) {
			n.Propose(cluster.Command{GrowVolume: &cluster.GrowVolume{Volume: v.id, Size: to}})
		})
		if err := v.growPause(time.Second); err != nil {
			return err
		}
	}
	return nil
}

// zeroSource makes the new range of the source read as zeroes, durably.
func (v *volume) zeroSource(from, to int64) error {
	if err := blockdev.GrowTo(v.dev, to); err != nil {
		return err
	}
	for pos := from; pos < to; pos += growPiece {
		if v.ctx.Err() != nil {
			return errStopped
		}
		if err := v.dev.WriteZeroes(pos, min(growPiece, to-pos), true); err != nil {
			return err
		}
	}
	return v.dev.Flush()
}

// zeroed is where the zeroes of a new range stand in the stream.
type zeroed struct {
	copying
	copy uint64 // of the target for which they were numbered
}

// numberZeroes waits for an incarnation, and numbers zeroes for the new range in it. Nobody else numbers anything there, so no
// range is locked.
func (v *volume) numberZeroes(from, to int64) (z zeroed, err error) {
	g := v.g
	z.v = v
	for {
		g.mu.Lock()
		if v.inc != 0 && v.inc == g.view.Inc {
			z.inc, z.copy = v.inc, v.marks.copyNumber()
		}
		g.mu.Unlock()
		if z.inc != 0 {
			break
		}
		if err := v.growPause(time.Minute); err != nil {
			return z, err
		}
	}
	step := holePortions * int64(g.portion)
	for pos := from; pos < to; pos += step {
		if err := g.awaitTurn(v.ctx, holePortions*bufferMin); err != nil {
			return z, err
		}
		if err := g.whileFull(v.ctx, z.inc, func() error { return g.numberZero(v.ctx, &z.copying, pos, min(step, to-pos)) }); err != nil {
			return z, err
		}
	}
	return z, nil
}

func (g *group) numberZero(ctx context.Context, c *copying, off, length int64) error {
	s := newSubmission(g.id)
	defer s.free()
	s.ups = appendPieces(s.ups, c.v.id, wire.KindZero, off, length, nil, g.portion)
	return g.numberCopy(ctx, s, c)
}

// awaitApplied returns when the zeroes are on the target for good, or errIncGone when they may never be.
func (v *volume) awaitApplied(z *zeroed) error {
	for {
		v.g.mu.Lock()
		gone := v.inc != z.inc || v.g.view.Inc != z.inc
		applied := v.g.view.Applied >= z.at.set
		v.g.mu.Unlock()
		switch {
		case gone:
			return errIncGone
		case applied:
			return nil
		}
		if err := v.growPause(time.Minute); err != nil {
			return err
		}
	}
}

// growPause waits until something has changed, at most for a while.
func (v *volume) growPause(most time.Duration) error {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-v.growth.now:
	case <-t.C:
	case <-v.ctx.Done():
		return errStopped
	}
	return nil
}

// grow makes the bits those of a larger volume, with clear ones for what is new: source and target of this copy read as zeroes
// there. It returns when that is durable. After an error commit does the rest.
func (a *activity) grow(size int64, copy uint64) error {
	a.mu.Lock()
	if a.copy != copy {
		a.mu.Unlock()
		return errOtherCopy
	}
	if size > a.grown {
		a.ext.Grow(size)
		a.grown = size
		larger := bitShape{size: size, extent: a.shape.extent}
		a.onDisk = a.onDisk.grown(larger.extents())
		a.stale = a.stale.grown(larger.sectors())
		k := &a.kept
		k.by = append(k.by, make([]keptFor, larger.keptSectors()-len(k.by))...)
		k.onDisk = k.onDisk.grown(larger.extents())
		k.stale = k.stale.grown(larger.keptSectors())
	}
	a.mu.Unlock()
	return a.commit()
}

// grown returns the set with room for n extents.
func (b bitset) grown(n int) bitset {
	return append(b, make(bitset, len(newBitset(n))-len(b))...)
}

// size returns the size of the volume that the bits are of, in bytes.
func (a *activity) size() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.grown
}

func (a *activity) copyNumber() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.copy
}

// span returns the byte range of an extent.
func (a *activity) span(i int) (off, length int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ext.Span(i)
}
