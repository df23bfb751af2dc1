package primary

import (
	"context"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// What happens when a group writes faster than its updates become held:
//
//	async: from PaceMark on each write is delayed, the more the longer the queue, by PaceMax at most. A queue above
//	       QueueLimit that has not moved for StallAfter, or one of twice QueueLimit, suspends the group: its updates are
//	       dropped, their bits are set durably, and after SuspendFor, once the captain is heard, it attaches and resyncs.
//	sync:  nothing of it. A write is not answered before it is held, so the queue is bounded by what the clients may
//	       have in flight; and on-degraded is "block", so the group is never suspended for its load.
//
// The queue is counted in bytes of memory: a small update counts for the page that its buffer takes,
// and one that was folded for nothing but its place.

// bufferMin is what the smallest payload buffer takes, in bytes.
const bufferMin = 4096

// captainHeard is how long ago the captain may have answered to count as heard.
const captainHeard = time.Second

// load returns the memory that a group's queue takes, nearly.
func load(v core.GroupView) int64 {
	return max(v.Queued, (int64(v.Seq-min(v.HeldUpTo, v.Seq))-v.Folded)*bufferMin)
}

// overload is what the watcher follows of a group's queue. It is guarded by group.mu.
type overload struct {
	pacing    bool
	overSince time.Duration // above QueueLimit and without progress since then, 0 while it is not
	held      wire.Seq      // when that was noted
	inc       wire.Incarnation

	suspended   bool
	suspendedAt time.Duration
	reason      string
}

// delay returns how long a write waits at a load.
func (l *Limits) delay(load int64) time.Duration {
	if load <= l.PaceMark {
		return 0
	}
	over := float64(load-l.PaceMark) / float64(l.QueueLimit-l.PaceMark)
	return time.Duration(min(over, 1) * float64(l.PaceMax))
}

// pace delays a write of an async group. No lock of a range is held.
func (g *group) pace(ctx context.Context) error {
	d := g.p.limits.delay(g.load.Load())
	if d == 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return errClosing
	}
}

// judgeLocked looks at the queue and returns why the group is to be suspended, or "".
func (g *group) judgeLocked(now time.Duration) (reason string, events []string) {
	o, l := &g.over, &g.p.limits
	queue := load(g.view)
	if g.view.Mode != cluster.Async || g.view.Inc == 0 {
		o.overSince = 0
		if o.pacing {
			o.pacing, events = false, append(events, "overload.over")
		}
		return "", events
	}
	switch {
	case queue > l.PaceMark && !o.pacing:
		o.pacing, events = true, append(events, "overload.pace")
	case queue < l.PaceMark/2 && o.pacing:
		o.pacing, events = false, append(events, "overload.over")
	}
	switch {
	case queue <= l.QueueLimit:
		o.overSince = 0
	case queue > 2*l.QueueLimit:
		return "the queue is at twice its limit", events
	case o.overSince == 0 || o.held != g.view.HeldUpTo || o.inc != g.view.Inc:
		o.overSince, o.held, o.inc = max(now, 1), g.view.HeldUpTo, g.view.Inc
	case now-o.overSince >= l.StallAfter:
		return "the queue is above its limit and does not move", events
	}
	return "", events
}

// suspend ends the group's incarnation until unsuspend. The bits of what was queued are durable already: that is what
// the activity log is for.
func (g *group) suspend(reason string) {
	g.mu.Lock()
	if g.over.suspended {
		g.mu.Unlock()
		return
	}
	g.over.suspended, g.over.suspendedAt, g.over.reason = true, g.p.loop.Now(), reason
	g.over.overSince = 0
	g.load.Store(0)
	g.mu.Unlock()
	g.p.loop.Do(func(n *core.Node, now time.Duration) { n.Suspend(now, g.id) })
	g.p.event(g.id, "overload.suspend", "reason", reason)
}

// maybeUnsuspend lets the group attach again when it has been suspended long enough and the captain is heard.
func (g *group) maybeUnsuspend(now time.Duration, heard bool) {
	g.mu.Lock()
	due := g.over.suspended && heard && now-g.over.suspendedAt >= g.p.limits.SuspendFor
	if due {
		g.over.suspended, g.over.reason = false, ""
	}
	g.mu.Unlock()
	if due {
		g.p.loop.Do(func(n *core.Node, now time.Duration) { n.Unsuspend(now, g.id) })
	}
}
