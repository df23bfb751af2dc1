package primary

import (
	"context"
	"errors"
	"slices"
	"time"

	"flotilla/agent/core"
	"flotilla/wire"
)

// The copier walks what a group's volumes are to copy, what is at rest before what is being written. It holds a range only
// while it reads and numbers it, so it never makes a writer wait longer than for one piece; copypace.go says when the next
// one may go. What has no storage on the source is not read: it travels as one zero for each portion.

const (
	// copyPiece is the largest range that the copier reads at a time, in bytes.
	copyPiece = 1 << 20
	// holePortions bounds the hole that is numbered at a time, in portions.
	holePortions = 16
	// tellEvery is how often the node is told of a copy's progress.
	tellEvery = 200 * time.Millisecond
)

// Reasons for which the copier leaves an extent.
var (
	errIncGone = errors.New("the incarnation is gone")
	errStopped = errors.New("the copier is stopped")
)

// runCopier copies whenever there is something to copy, until the context ends.
func (g *group) runCopier(ctx context.Context) {
	for {
		for ctx.Err() == nil && g.copyOne() {
		}
		select {
		case <-ctx.Done():
			return
		case <-g.copyNow:
		}
	}
}

// copying is one run of extents that is being copied.
type copying struct {
	v      *volume
	inc    wire.Incarnation
	first  int // the extents [first, first+n)
	n      int
	off    int64 // their bytes
	length int64
	at     placed // of what was numbered last
}

// copyOne copies an extent, or those of a hole, and reports whether it should be called again at once.
func (g *group) copyOne() bool {
	v, inc := g.nextToCopy()
	if v == nil || !v.ops.enter() {
		return false
	}
	defer v.ops.leave()
	c := copying{v: v, inc: inc}
	var ok bool
	most := max(holePortions*int64(g.portion)/v.marks.shape.extent, 1)
	if c.first, c.n, c.off, c.length, ok = v.marks.nextCopy(int(most)); !ok {
		g.copyEnded(v, inc)
		v.wait(g.p.loop.Now())
		return true
	}
	if err := g.copyExtents(v.ctx, &c); err != nil {
		if errors.Is(err, errIncGone) || errors.Is(err, errStopped) {
			v.marks.skip()
			return !errors.Is(err, errIncGone)
		}
		v.putAside(c.first, err)
		return true
	}
	g.progress(&c)
	if left, _ := v.marks.toCopy(); left == 0 {
		g.copyEnded(v, inc)
	}
	return true
}

// copyExtents copies what begins the run: the extents that are a hole, or else the first extent. It shortens c to these.
func (g *group) copyExtents(ctx context.Context, c *copying) error {
	hole, err := c.v.holeAt(c.off, c.length)
	if err != nil {
		return err
	}
	if hole > 0 {
		var done bool
		err := g.whileFull(ctx, c.inc, func() (err error) {
			done, err = g.copyHole(ctx, c, hole)
			return err
		})
		if done || err != nil {
			return err
		}
	}
	c.n = 1
	_, c.length = c.v.marks.span(c.first)
	for pos := c.off; pos < c.off+c.length; pos += copyPiece {
		n := min(copyPiece, c.off+c.length-pos)
		if err := g.awaitTurn(ctx, n); err != nil {
			return err
		}
		if err := g.whileFull(ctx, c.inc, func() error { return g.copyPiece(ctx, c, pos, n, pos+n == c.off+c.length) }); err != nil {
			return err
		}
	}
	return nil
}

// nextToCopy returns a volume that has something to copy and the incarnation that it is copied for. First copies wait while
// a resync is under way, also for what it can not read: what they send meanwhile would be a part of its chain, for which
// nobody has looked whether the journals have room.
func (g *group) nextToCopy() (*volume, wire.Incarnation) {
	now := g.p.loop.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	ids := make([]wire.VolumeID, 0, len(g.volumes))
	chain := g.chainLocked()
	for id, v := range g.volumes {
		if v.unread.waits(now) || (chain && v.run.first) {
			continue
		}
		if v.inc != 0 && v.inc == g.view.Inc && !v.whole && v.seed == nil && v.ctx.Err() == nil {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil, 0
	}
	v := g.volumes[slices.Min(ids)]
	return v, v.inc
}

// copyHole numbers zeroes for the extents at the start of the run that are wholly in a hole of so many bytes, and makes
// the run these. It is not done when somebody has just written into the first of them.
func (g *group) copyHole(ctx context.Context, c *copying, hole int64) (done bool, err error) {
	if err := g.awaitTurn(ctx, holePortions*bufferMin); err != nil {
		return false, err
	}
	v := c.v
	guard, err := v.io.Lock(ctx, c.off, hole)
	if err != nil {
		return false, errStopped
	}
	defer guard.Unlock()
	if hole, err = v.holeAt(c.off, hole); err != nil || hole == 0 {
		return false, err
	}
	s := newSubmission(g.id)
	defer s.free()
	s.ups = appendPieces(s.ups, v.id, wire.KindZero, c.off, hole, nil, g.portion)
	if err := g.numberCopy(ctx, s, c); err != nil {
		return false, err
	}
	c.length = hole
	last := int((c.off + hole - 1) / v.marks.shape.extent)
	c.n = last + 1 - c.first
	v.marks.copied(c.first, c.n, c.at.set)
	g.count(v, 0, hole)
	return true, nil
}

// copyPiece reads a range and numbers its content. last says that the extent ends with it.
func (g *group) copyPiece(ctx context.Context, c *copying, off, length int64, last bool) error {
	buf, err := g.copyBuffer(ctx)
	if err != nil {
		return err
	}
	defer buf.Release()
	v := c.v
	guard, err := v.io.Lock(ctx, off, length)
	if err != nil {
		return errStopped
	}
	defer guard.Unlock()
	began, requests := g.p.loop.Now(), g.requests.Load()
	s := newSubmission(g.id)
	defer s.free()
	read, err := v.readCopy(s, off, length, buf.mem)
	if err != nil {
		return err
	}
	if hasData(s.ups) {
		s.handle = buf
	}
	if err := g.numberCopy(ctx, s, c); err != nil {
		return err
	}
	if last {
		v.marks.copied(c.first, c.n, c.at.set)
	}
	g.count(v, read, length-read)
	now := g.p.loop.Now()
	g.mu.Lock()
	g.tempo.took(now, now-began, g.requests.Load() != requests)
	g.mu.Unlock()
	return nil
}

// whileFull tries again for as long as the open set is full and can not be closed. Unlike a write a copy waits then: it is what
// can be done without. A try must not leave a range held: without a captain that may last, and nobody's requests wait for it.
func (g *group) whileFull(ctx context.Context, inc wire.Incarnation, try func() error) error {
	for {
		changed := g.changed.wait() // older than the try that is refused
		err := try()
		if !errors.Is(err, core.ErrSetFull) {
			return err
		}
		if g.incGone(inc) {
			return errIncGone
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errStopped
		}
	}
}

// numberCopy gives a copy its place in the stream. The range is held, so it waits for no more than a cut.
func (g *group) numberCopy(ctx context.Context, s *submission, c *copying) error {
	for {
		changed := g.changed.wait()
		s.retain()
		g.p.loop.Do(s.run)
		if s.err != nil {
			s.release()
		}
		switch {
		case s.err == nil && s.at.inc != c.inc:
			return errIncGone // it is in the stream, and will be copied again
		case s.err == nil:
			g.load.Store(s.queued)
			c.at = s.at
			now := g.p.loop.Now()
			g.mu.Lock()
			g.tempo.numbered(now, s.at.seq)
			g.mu.Unlock()
			return nil
		case errors.Is(s.err, core.ErrDetached):
			return errIncGone
		case !errors.Is(s.err, core.ErrPaused):
			return s.err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errStopped
		}
	}
}

func (g *group) incGone(inc wire.Incarnation) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.view.Inc != inc
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return errStopped
	}
}
