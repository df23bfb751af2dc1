package primary

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"flotilla/agent/core"
	"flotilla/blockdev"
	"flotilla/wire"
)

// errBehind says that a piece is to be copied before it can be compared.
var errBehind = errors.New("the range is to be copied")

// runChecker asks for pieces whenever there is something to check, until the context ends. It reads no faster than the
// check's rate, and, as the copier, only while the queue is under half of the mark at which writers are delayed.
func (g *group) runChecker(ctx context.Context) {
	var t throttle
	var buf []byte // checkPiece bytes, once there was something to check
	for {
		for ctx.Err() == nil {
			it, j := g.nextCheck()
			if j == nil && it.seed == nil {
				break
			}
			if buf == nil {
				buf = blockdev.AlignedBuffer(checkPiece)
			}
			at, seq, err := g.checkPiece(ctx, j, &it, &t, buf)
			g.asked(j, it, at, seq, err)
		}
		select {
		case <-ctx.Done():
			return
		case <-g.checkNow:
		}
	}
}

// nextCheck takes the next piece into the checker's hands; asked gives it back. It is of a comparison (see seed.go), or else
// of the check that is returned, which is nil when there is nothing to do now.
func (g *group) nextCheck() (checkItem, *checkJob) {
	now := g.p.loop.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if it, ok := g.nextSeedLocked(now); ok {
		it.inc = it.seed.inc
		return it, nil
	}
	j := g.check
	if j == nil || j.ended || j.inc == 0 || j.inc != g.view.Inc {
		return checkItem{}, nil
	}
	if n := len(j.mends); n > 0 {
		it := j.mends[n-1]
		it.inc = j.inc
		j.mends = j.mends[:n-1]
		j.asking++
		return it, j
	}
	ready := func(v *volume) bool { return v.inc == j.inc && v.whole && v.ctx.Err() == nil }
	if !slices.ContainsFunc(j.cursors, func(c checkCursor) bool { return ready(c.v) }) {
		return checkItem{}, nil
	}
	for i := range j.again {
		if it := &j.again[i]; it.after > now || !ready(it.v) || !it.landed(g.view.Applied) {
			continue
		}
		it := j.again[i]
		it.inc = j.inc
		j.again = slices.Delete(j.again, i, i+1)
		j.asking++
		return it, j
	}
	if len(j.flying)+len(j.again) >= maxChecking {
		return checkItem{}, nil
	}
	for i := range j.cursors {
		if c := &j.cursors[i]; c.next < c.end && ready(c.v) {
			it := checkItem{v: c.v, inc: j.inc, off: c.next, length: min(checkPiece, c.end-c.next)}
			c.next += it.length
			j.asking++
			return it, j
		}
	}
	return checkItem{}, nil
}

// checkPiece asks for one piece, or marks it to be copied.
func (g *group) checkPiece(ctx context.Context, j *checkJob, it *checkItem, t *throttle, buf []byte) (placed, wire.Seq, error) {
	if err := g.awaitRoom(ctx); err != nil {
		return placed{}, 0, err
	}
	if t.rate = g.copyCeiling(); it.seed == nil {
		t.rate = j.order.rate
	}
	if err := t.take(ctx, it.length); err != nil {
		return placed{}, 0, err
	}
	v := it.v
	if !v.ops.enter() {
		return placed{}, 0, errStopped
	}
	defer v.ops.leave()
	if it.mend {
		return placed{}, 0, v.mend(it.off, it.length)
	}
	var at placed
	var seq wire.Seq
	err := g.whileFull(v.ctx, it.inc, func() (err error) {
		at, seq, err = g.ask(v, it.inc, it.off, it.length, it.seed != nil, buf)
		return err
	})
	return at, seq, err
}

// landed reports whether what was copied to repair the piece is on the target. A check in the set of the copy would compare
// with the copy itself.
func (it *checkItem) landed(applied wire.Set) bool {
	if it.copied == unknownSet && !it.v.marks.mayDiffer(it.off, it.length) {
		it.copied = it.v.marks.newest(it.off, it.length)
	}
	return it.copied <= applied
}

// newest returns the newest set with an update of a range's extents that may not be applied yet.
func (a *activity) newest(off, length int64) wire.Set {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ext.Newest(off, length)
}

// mend marks a range, so that the copier copies it. It breaks no set: until then the target is what it was, and so is every
// recovery point.
func (v *volume) mend(off, length int64) error {
	guard, err := v.io.Lock(v.ctx, off, length)
	if err != nil {
		return errStopped
	}
	defer guard.Unlock()
	err = v.marks.touch(off, length)
	v.dirtied(off, length)
	if err != nil {
		return v.noted(fmt.Errorf("remember a range to repair: %w", err))
	}
	return nil
}

// ask numbers the digest of a range. Readers share the range meanwhile, writers wait. seed says that the range is to be
// copied, and compared instead.
func (g *group) ask(v *volume, inc wire.Incarnation, off, length int64, seed bool, buf []byte) (placed, wire.Seq, error) {
	guard, err := v.io.RLock(v.ctx, off, length)
	if err != nil {
		return placed{}, 0, errStopped
	}
	defer guard.Unlock()
	if !seed && v.marks.mayDiffer(off, length) {
		return placed{}, 0, errBehind
	}
	content := buf[:length]
	if _, err := v.dev.ReadAt(content, off); err != nil {
		return placed{}, 0, v.noted(err)
	}
	digest := wire.Digest(content)
	s := newSubmission(g.id)
	defer s.free()
	s.ups = append(s.ups, wire.Update{
		Volume: v.id, Portion: uint32(uint64(off) / g.portion), Kind: wire.KindCheck, Offset: uint64(off), Length: uint32(length), Data: digest[:],
	})
	for {
		changed := g.changed.wait()
		g.p.loop.Do(s.run)
		switch {
		case s.err == nil && s.at.inc != inc:
			return placed{}, 0, errIncGone // whatever it is answered does not count
		case s.err == nil:
			g.load.Store(s.queued)
			return s.at, s.at.seq, nil
		case errors.Is(s.err, core.ErrDetached) || g.incGone(inc):
			return placed{}, 0, errIncGone
		case !errors.Is(s.err, core.ErrPaused):
			return placed{}, 0, s.err
		}
		select {
		case <-changed:
		case <-v.ctx.Done():
			return placed{}, 0, errStopped
		}
	}
}

// mayDiffer reports whether the target may differ in a range, because something of it is to be copied. The range is locked.
func (a *activity) mayDiffer(off, length int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ext.Behind(off, length)
}

// asked puts a piece where it belongs.
func (g *group) asked(j *checkJob, it checkItem, at placed, seq wire.Seq, err error) {
	now := g.p.loop.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if it.seed != nil {
		it.seed.asked(it, at, seq, err, now)
		return
	}
	j.asking--
	switch {
	case err == nil && it.mend:
		it.mend, it.copied = false, unknownSet
		j.again = append(j.again, it)
	case err == nil && at.inc == j.inc:
		it.set, it.overdue = at.set, 0
		j.flying[seq] = it
	case err == nil || errors.Is(err, errIncGone) || errors.Is(err, errBehind) || errors.Is(err, errStopped):
		it.after = now + 100*time.Millisecond
		j.again = append(j.again, it)
	default: // the source can not be read
		j.retry(it, now)
		if n := len(j.again); n > 0 {
			j.again[n-1].after = max(j.again[n-1].after, now+time.Second)
		}
	}
}
