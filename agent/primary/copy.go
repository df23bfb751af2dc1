package primary

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"flotilla/agent/core"
	"flotilla/blockdev"
	"flotilla/nbd"
	"flotilla/wire"
)

// The copier walks what a group's volumes are to copy, extent by extent. It holds a range only while it reads and numbers
// it, and waits whenever the queue is over half of the mark at which writers are delayed: so it takes what the link
// leaves, and never makes a writer wait longer than for one piece.

const (
	// copyPiece is the largest range that the copier holds at a time, in bytes.
	copyPiece = 1 << 20
	// zeroUnit is the grain in which zeroes are looked for, and zeroRun how long a run must be to travel as zeroes;
	// shorter ones are left to compression.
	zeroUnit = 4096
	zeroRun  = 16 << 10
	// tellEvery is how often the node is told of a copy's progress.
	tellEvery = 200 * time.Millisecond
)

// zeroes is never written.
var zeroes [zeroUnit]byte

// copyBuffer is the payload of a copied piece.
type copyBuffer struct {
	mem  []byte // copyPiece bytes, page-aligned for direct I/O
	refs atomic.Int32
	idle chan *copyBuffer
}

// newCopyBuffers returns room for buffers of so many bytes together, two at least. A piece that is nearly all zeroes keeps
// its buffer until it is held, though it counts little in the queue; so it is their number that bounds memory.
func newCopyBuffers(bytes int64) chan *copyBuffer {
	n := int(max(bytes/copyPiece, 2))
	c := make(chan *copyBuffer, n)
	for range n {
		c <- nil
	}
	return c
}

// copyBuffer waits for a buffer. No range is held.
func (g *group) copyBuffer(ctx context.Context) (*copyBuffer, error) {
	select {
	case b := <-g.buffers:
		if b == nil {
			b = &copyBuffer{mem: nbd.NewBuffer(copyPiece).Bytes(), idle: g.buffers}
		}
		b.refs.Store(1)
		return b, nil
	case <-ctx.Done():
		return nil, errStopped
	}
}

// Retain implements payload.
func (b *copyBuffer) Retain() { b.refs.Add(1) }

// Release implements payload.
func (b *copyBuffer) Release() {
	switch n := b.refs.Add(-1); {
	case n < 0:
		panic("primary: copy buffer released more often than retained")
	case n == 0:
		b.idle <- b // there is room for every one
	}
}

// Reasons for which the copier leaves an extent.
var (
	errIncGone = errors.New("the incarnation is gone")
	errStopped = errors.New("the copier is stopped")
)

// runCopier copies whenever there is something to copy, until the context ends.
func (g *group) runCopier(ctx context.Context) {
	throttle := throttle{rate: g.p.limits.CopyRate}
	for {
		for ctx.Err() == nil && g.copyOne(&throttle) {
		}
		select {
		case <-ctx.Done():
			return
		case <-g.copyNow:
		}
	}
}

// copyOne copies one extent and reports whether it should be called again at once.
func (g *group) copyOne(t *throttle) bool {
	v, inc := g.nextToCopy()
	if v == nil || !v.ops.enter() {
		return false
	}
	defer v.ops.leave()
	ctx := v.ctx
	i, off, length, ok := v.marks.nextCopy()
	if !ok {
		g.copyEnded(v, inc)
		v.wait(g.p.loop.Now())
		return true
	}
	var at placed
	for pos := off; pos < off+length; {
		n := min(copyPiece, off+length-pos)
		err := g.awaitRoom(ctx)
		if err == nil {
			err = t.take(ctx, n)
		}
		if err == nil {
			last := pos+n == off+length
			at, err = g.copyRange(ctx, v, inc, pos, n, func(at placed) {
				if last {
					v.marks.copied(i, at.set)
				}
			})
		}
		if err != nil {
			if errors.Is(err, errIncGone) || errors.Is(err, errStopped) {
				v.marks.skip()
				return !errors.Is(err, errIncGone)
			}
			v.putAside(i, off, length, err)
			return true
		}
		pos += n
	}
	g.progress(v, inc, length, at.seq)
	if left, _ := v.marks.toCopy(); left == 0 {
		g.copyEnded(v, inc)
	}
	return true
}

// nextToCopy returns a volume that has something to copy and the incarnation that it is copied for.
func (g *group) nextToCopy() (*volume, wire.Incarnation) {
	now := g.p.loop.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	ids := make([]wire.VolumeID, 0, len(g.volumes))
	for id, v := range g.volumes {
		if v.unread.waits(now) {
			continue
		}
		if v.inc != 0 && v.inc == g.view.Inc && !v.whole && v.ctx.Err() == nil {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil, 0
	}
	v := g.volumes[slices.Min(ids)]
	return v, v.inc
}

// copyEnded notes that nothing of a volume is left to be copied, and tells the node, whose next manifest will say so.
func (g *group) copyEnded(v *volume, inc wire.Incarnation) {
	g.mu.Lock()
	left, _ := v.marks.toCopy()
	ended := left == 0 && v.inc == inc && !v.whole
	if ended {
		v.whole, v.wasWhole, v.unread = true, true, unread{}
	}
	total := v.copyTotal
	g.mu.Unlock()
	if ended {
		g.tellCopies()
		g.p.event(g.id, "copy.whole", "volume", v.name, "incarnation", inc, "bytes", total)
		g.p.kick()
	}
}

// progress counts what was copied and tells the node from time to time.
func (g *group) progress(v *volume, inc wire.Incarnation, n int64, seq wire.Seq) {
	now := g.p.loop.Now()
	g.mu.Lock()
	v.rate.add(now, n)
	if v.inc == inc {
		v.wholeSeq = max(v.wholeSeq, seq)
	}
	tell := now-g.toldAt >= tellEvery
	g.mu.Unlock()
	if tell {
		g.tellCopies()
	}
}

// awaitRoom waits until the queue is under half of the mark at which writers are delayed.
func (g *group) awaitRoom(ctx context.Context) error {
	for g.load.Load() > g.p.limits.PaceMark/2 {
		changed := g.changed.wait()
		if g.load.Load() <= g.p.limits.PaceMark/2 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errStopped
		}
	}
	return nil
}

// copyRange reads a range and numbers its content. numbered is called while the range is still held.
func (g *group) copyRange(ctx context.Context, v *volume, inc wire.Incarnation, off, length int64, numbered func(placed)) (placed, error) {
	buf, err := g.copyBuffer(ctx)
	if err != nil {
		return placed{}, err
	}
	defer buf.Release()
	guard, err := v.io.Lock(ctx, off, length)
	if err != nil {
		return placed{}, errStopped
	}
	defer guard.Unlock()
	s := newSubmission(g.id)
	defer s.free()
	if err := v.readCopy(s, off, length, buf.mem); err != nil {
		return placed{}, err
	}
	if hasData(s.ups) {
		s.handle = buf
	}
	for {
		// Unlike a write, a copy that finds the open set full waits: it is what can be done without.
		changed := g.changed.wait()
		s.retain()
		g.p.loop.Do(s.run)
		if s.err != nil {
			s.release()
		}
		switch {
		case s.err == nil && s.at.inc != inc:
			return s.at, errIncGone // it is in the stream, and will be copied again
		case s.err == nil:
			g.load.Store(s.queued)
			numbered(s.at)
			return s.at, nil
		case errors.Is(s.err, core.ErrDetached):
			return placed{}, errIncGone
		case errors.Is(s.err, core.ErrSetFull):
			if g.incGone(inc) {
				return placed{}, errIncGone
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return placed{}, errStopped
		}
	}
}

func (g *group) incGone(inc wire.Incarnation) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.view.Inc != inc
}

func hasData(ups []wire.Update) bool {
	return slices.ContainsFunc(ups, func(u wire.Update) bool { return u.Data != nil })
}

// readCopy reads a range into mem and appends updates with its content: holes and runs of zeroes without data.
func (v *volume) readCopy(s *submission, off, length int64, mem []byte) error {
	for e, err := range blockdev.Extents(v.dev, off, length) {
		if err != nil {
			return err
		}
		if e.Hole {
			s.ups = appendPieces(s.ups, v.id, wire.KindZero, e.Offset, e.Length, nil, v.g.portion)
			continue
		}
		data := mem[e.Offset-off : e.Offset-off+e.Length]
		if _, err := v.dev.ReadAt(data, e.Offset); err != nil {
			return err
		}
		for pos := int64(0); pos < e.Length; {
			n, zero := leadingRun(data[pos:])
			kind, content := wire.KindWrite, data[pos:pos+n]
			if zero {
				kind, content = wire.KindZero, nil
			}
			s.ups = appendPieces(s.ups, v.id, kind, e.Offset+pos, n, content, v.g.portion)
			pos += n
		}
	}
	return nil
}

// leadingRun returns the length of the first part of data, which is not empty, that is to travel as one kind.
func leadingRun(data []byte) (n int64, zero bool) {
	if run := zeroPrefix(data); run >= zeroRun || run == len(data) {
		return int64(run), true
	}
	for pos := 0; pos < len(data); {
		run := zeroPrefix(data[pos:])
		if run >= zeroRun {
			return int64(pos), false
		}
		pos += max(run, zeroUnit)
	}
	return int64(len(data)), false
}

// zeroPrefix returns how many bytes at the start of data are zero, in whole units but for the end.
func zeroPrefix(data []byte) int {
	n := 0
	for n < len(data) {
		unit := data[n:min(n+zeroUnit, len(data))]
		if !bytes.Equal(unit, zeroes[:len(unit)]) {
			break
		}
		n += len(unit)
	}
	return n
}

// throttle keeps copies below a number of bytes a second; 0 lets everything through.
type throttle struct {
	rate int64
	next time.Time // when the bytes taken so far will have been due
}

func (t *throttle) take(ctx context.Context, n int64) error {
	if t.rate == 0 {
		return nil
	}
	now := time.Now()
	if t.next.Before(now) {
		t.next = now
	}
	wait := t.next.Sub(now)
	t.next = t.next.Add(time.Duration(float64(n) / float64(t.rate) * float64(time.Second)))
	return sleep(ctx, wait)
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

// copyRate is bytes a second over about the last second.
type copyRate struct {
	since time.Duration
	bytes int64
	last  float64
}

func (r *copyRate) add(now time.Duration, n int64) {
	if r.since == 0 {
		r.since = now
	}
	r.bytes += n
	if d := now - r.since; d >= time.Second {
		r.last = float64(r.bytes) / d.Seconds()
		r.since, r.bytes = now, 0
	}
}
