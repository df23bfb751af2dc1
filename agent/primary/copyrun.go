package primary

import (
	"math"
	"time"

	"flotilla/agent/core"
	"flotilla/wire"
)

// rateOver is the time over which a copy's rate is averaged, and restedAfter the time without progress after which the node
// is told again how a copy stands.
const (
	rateOver    = 5 * time.Second
	restedAfter = time.Second
)

// copyRun is how one copy of a volume goes on, in one incarnation. group.mu guards it.
type copyRun struct {
	first  bool // a first copy
	began  time.Duration
	total  int64 // bytes: of a first copy the volume, for what an earlier run has done is done; of a resync what it began with, and what is kept
	kept   int64 // bytes that an earlier incarnation has copied of a resync
	done   int64 // in this run, bytes
	read   int64 // of these from the source
	tenths int64 // that were told
	toldAt time.Duration
	rate   average
}

// newCopyRun begins a copy of todo bytes, beside kept ones that were copied before.
func newCopyRun(now time.Duration, size, todo, kept int64, first bool) copyRun {
	r := copyRun{first: first, began: now, total: todo + kept, kept: kept, toldAt: now, rate: average{since: now, last: now}}
	if first {
		r.total = size
	}
	r.tenths = r.tenth(todo)
	return r
}

// tenth returns how many tenths of the copy are done when so much is left.
func (r *copyRun) tenth(left int64) int64 {
	if r.total == 0 {
		return 10
	}
	return int64(10 * float64(r.total-left) / float64(r.total))
}

func (r *copyRun) kind() string {
	if r.first {
		return "first copy"
	}
	return "resync"
}

// begun returns what is told of the copy's beginning.
func (r *copyRun) begun(name string, inc wire.Incarnation) []any {
	attrs := []any{"volume", name, "incarnation", inc, "kind", r.kind(), "bytes", r.total}
	if r.kept > 0 {
		attrs = append(attrs, "kept_bytes", r.kept)
	}
	return attrs
}

// progress notes that n bytes were copied. It returns what is to be told when another tenth is done, or nil.
func (r *copyRun) progress(now time.Duration, name string, n, left int64) []any {
	r.done += n
	r.rate.add(now, n)
	tenths := r.tenth(left)
	if tenths <= r.tenths || tenths >= 10 || now-r.toldAt < restedAfter {
		return nil
	}
	r.tenths, r.toldAt = tenths, now
	attrs := []any{"volume", name, "kind", r.kind(), "percent", 10 * tenths, "left_bytes", left, "total_bytes", r.total}
	if rate := r.rate.at(now); rate >= 1 {
		attrs = append(attrs, "bytes_per_second", int64(rate), "seconds_left", int64(math.Ceil(float64(left)/rate)))
	}
	return attrs
}

// ended returns what is told of the copy's end.
func (r *copyRun) ended(now time.Duration, name string, inc wire.Incarnation) []any {
	return []any{
		"volume", name, "incarnation", inc, "kind", r.kind(), "bytes", r.done, "read_bytes", r.read,
		"seconds", math.Round((now-r.began).Seconds()*1000) / 1000,
	}
}

// status returns how the copy stands when so much is left.
func (r *copyRun) status(now time.Duration, left int64) core.CopyStatus {
	return core.CopyStatus{Left: left, Total: max(r.total, left), Rate: int64(r.rate.at(now)), First: r.first}
}

// average is a rate over about rateOver, in which what is longer ago counts less.
type average struct {
	since time.Duration // nothing was counted before
	last  time.Duration
	sum   float64 // weighed, at last
}

func (r *average) add(now time.Duration, n int64) {
	r.sum = r.sum*math.Exp(-float64(now-r.last)/float64(rateOver)) + float64(n)
	r.last = now
}

// at returns units a second.
func (r *average) at(now time.Duration) float64 {
	weight := 1 - math.Exp(-float64(now-r.since)/float64(rateOver)) // of the time that has been
	if weight <= 0 {
		return 0
	}
	return r.sum * math.Exp(-float64(now-r.last)/float64(rateOver)) / (rateOver.Seconds() * weight)
}

// count notes what was copied of a volume: read, and found to be holes.
func (g *group) count(v *volume, read, hole int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v.copyRead += read
	v.copyZeroed += hole
	v.run.read += read
}

// progress notes that a run of extents is numbered, and tells from time to time.
func (g *group) progress(c *copying) {
	v, now := c.v, g.p.loop.Now()
	left, _ := v.marks.toCopy()
	g.mu.Lock()
	var told []any
	if v.inc == c.inc {
		v.wholeSeq = max(v.wholeSeq, c.at.seq)
		told = v.run.progress(now, v.name, c.length, min(left, v.size()))
	}
	tell := now-g.toldAt >= tellEvery
	g.mu.Unlock()
	if told != nil {
		g.p.event(g.id, "copy.progress", told...)
	}
	if tell {
		g.tellCopies()
	}
}

// copyEnded notes that nothing of a volume is left to be copied, and tells the node, whose next manifest will say so.
func (g *group) copyEnded(v *volume, inc wire.Incarnation) {
	now := g.p.loop.Now()
	g.mu.Lock()
	left, _ := v.marks.toCopy()
	ended := left == 0 && v.inc == inc && !v.whole
	var told []any
	if ended {
		v.whole, v.wasWhole, v.unread = true, true, unread{}
		told = v.run.ended(now, v.name, inc)
	}
	g.mu.Unlock()
	if ended {
		g.tellCopies()
		g.p.event(g.id, "copy.whole", told...)
		g.p.kick()
	}
}

// chainLocked reports whether a resync is under way, so that the sets are broken. g.mu is held.
func (g *group) chainLocked() bool {
	for _, v := range g.volumes {
		if v.inc != 0 && v.inc == g.view.Inc && !v.run.first && !v.wasWhole {
			return true
		}
	}
	return false
}

// tellAgainLocked reports whether the node should be told of a copy that makes no progress. g.mu is held.
func (g *group) tellAgainLocked(now time.Duration) bool {
	if now-g.toldAt < restedAfter {
		return false
	}
	for _, v := range g.volumes {
		if v.inc != 0 && v.inc == g.view.Inc && !v.whole {
			return true
		}
	}
	return false
}
