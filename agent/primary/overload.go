package primary

import (
	"context"
	"math"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// What happens when a group writes faster than its updates become held:
//
//	async: 1. pace. From PaceMark on each write is delayed, the more the longer the queue, by PaceMax at most.
//	       2. spill. From SpillMark on payloads of what waits to be sent go to the group's spool (spill.go), until PaceMark is
//	          reached again. While that works nothing is delayed below SpillMark. Near the end of the spool the delay comes back,
//	          and where it is full, or its disk fails, it is as without one.
//	       3. suspend. A queue above QueueLimit that has not moved for StallAfter, or one of twice QueueLimit, suspends the group:
//	          its updates are dropped, their bits are set durably, and after SuspendFor, once the captain is heard, it attaches
//	          and resyncs.
//	sync:  nothing of it. A write is not answered before it is held, so the queue is bounded by what the clients may
//	       have in flight. While the group is degraded (core/cluster/degrade.go) it is as in async.
//
// The queue is counted in bytes of memory: a small update counts for the page that its buffer takes, one that was folded for
// nothing but its place, and one that was spilled for what is still known of it.

// bufferMin is what the smallest payload buffer takes, in bytes.
const bufferMin = 4096

// spilledMin is what an update takes whose payload is in a spool, in bytes.
const spilledMin = 256

// captainHeard is how long ago the captain may have answered to count as heard.
const captainHeard = time.Second

// load returns the memory that a group's queue takes, nearly.
func load(v core.GroupView) int64 {
	inMemory := int64(v.Seq-min(v.HeldUpTo, v.Seq)) - v.Folded - v.SpilledUpdates
	return max(v.Queued-v.Spilled, inMemory*bufferMin) + v.SpilledUpdates*spilledMin
}

// step is what is done about a long queue.
type step int

const (
	stepNone  step = iota
	stepPace       // writers are delayed
	stepSpill      // payloads go to the spool, which has room
	stepEnd        // they do, as far as it still takes any, and writers are delayed: it is nearly full, or can not be used
)

func (s step) String() string {
	return map[step]string{stepPace: "pace", stepSpill: "spill", stepEnd: "pace"}[s]
}

// The parts of a spool from which on it is nearly full, and below which it is not any more.
const (
	spoolNear = 7.0 / 8
	spoolFar  = 3.0 / 4
)

// overload is what the watcher follows of a group's queue. It is guarded by group.mu.
type overload struct {
	step      step
	growth    growth
	tryAt     time.Duration // a full spool is not looked at again before
	toldAt    time.Duration // when the node was told
	told      bool          // of something other than nothing
	overSince time.Duration // above QueueLimit and without progress since then, 0 while it is not
	held      wire.Seq      // when that was noted
	inc       wire.Incarnation

	suspended   bool
	suspendedAt time.Duration
	reason      string
}

// delay returns how long a write waits at a load, where the delay begins at a mark.
func (l *Limits) delay(mark, load int64) time.Duration {
	if load <= mark {
		return 0
	}
	over := float64(load-mark) / float64(l.QueueLimit-mark)
	return time.Duration(min(over, 1) * float64(l.PaceMax))
}

// delay returns how long a write waits that comes now.
func (g *group) delay() time.Duration {
	mark := g.p.limits.PaceMark
	if g.spilling.Load() {
		mark = g.p.limits.SpillMark
	}
	return max(g.p.limits.delay(mark, g.load.Load()), time.Duration(g.least.Load()))
}

// pace delays a write of an async group. No lock of a range is held.
func (g *group) pace(ctx context.Context) error {
	d := g.delay()
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

// told is an event that is to be.
type told struct {
	name  string
	attrs []any
}

// judgeLocked looks at the queue and returns why the group is to be suspended, or "".
func (g *group) judgeLocked(now time.Duration) (reason string, events []told) {
	o, l := &g.over, &g.p.limits
	queue := load(g.view)
	if (g.view.Mode != cluster.Async && !g.view.Early) || g.view.Inc == 0 {
		o.overSince = 0
		o.growth.reset()
		if o.step != stepNone {
			o.step, events = stepNone, append(events, told{"overload.over", []any{"queued_bytes", queue}})
		}
		g.applyStepLocked(0)
		return "", events
	}
	room := g.spool.room()
	o.growth.note(now, queue+room.live)
	for next := g.nextStepLocked(now, queue, &room); next != o.step; next = g.nextStepLocked(now, queue, &room) {
		before := o.step
		if o.step = next; before.String() == next.String() {
			continue // nobody sees a difference
		}
		name := "overload.over"
		if next != stepNone {
			name = "overload." + next.String()
		}
		events = append(events, told{name, g.figuresLocked(queue, &room)})
	}
	g.applyStepLocked(room.fill())
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

// nextStepLocked returns the step that follows on the present one, or that itself. Steps are taken one at a time, so that each
// is told, and go up and down at different marks, so that none is left and taken again all the time.
func (g *group) nextStepLocked(now time.Duration, queue int64, room *spoolRoom) step {
	o, l := &g.over, &g.p.limits
	if o.step != stepNone && queue < l.PaceMark/2 && g.view.Spilled == 0 {
		return stepNone
	}
	usable := g.spoolUsableLocked(now, room)
	switch {
	case o.step == stepNone && (queue > l.PaceMark || g.view.Spilled > 0):
		return stepPace
	case o.step == stepPace && usable && room.fill() < spoolNear && (queue > l.SpillMark || g.view.Spilled > 0):
		return stepSpill
	case o.step == stepSpill && (!usable || room.fill() >= spoolNear):
		return stepEnd
	case o.step == stepEnd && usable && room.fill() < spoolFar && g.view.Spilled > 0:
		return stepSpill
	case o.step == stepEnd && g.view.Spilled == 0:
		return stepPace
	}
	return o.step
}

// applyStepLocked has writers delayed as the step and the spool want it.
func (g *group) applyStepLocked(fill float64) {
	o := &g.over
	g.spilling.Store(o.step == stepSpill)
	least := 0.0
	if o.step == stepEnd && g.view.Spilled > 0 {
		least = max(0, fill-spoolNear) / (1 - spoolNear) / 2
	}
	g.least.Store(int64(least * float64(g.p.limits.PaceMax)))
}

// fullInLocked says when the spool is full, while something is spilled, or otherwise when the queue is at its limit and the spool,
// too, so that the group may be suspended.
func (g *group) fullInLocked(queue int64, room *spoolRoom) (time.Duration, bool) {
	left := room.free()
	if g.over.step != stepSpill {
		left += max(0, g.p.limits.QueueLimit-queue)
	}
	return g.over.growth.fullIn(left)
}

// figuresLocked are the attributes of the events of an overload.
func (g *group) figuresLocked(queue int64, room *spoolRoom) []any {
	attrs := []any{"queued_bytes", queue}
	if room.limit > 0 || room.taken > 0 {
		attrs = append(attrs, "spooled_bytes", room.live, "spool_bytes", room.limit)
	}
	if in, ok := g.fullInLocked(queue, room); ok {
		attrs = append(attrs, "full_in_seconds", math.Round(in.Seconds()*10)/10)
	}
	return attrs
}

// tellOverloadEvery is how often the node is told of an overload that goes on.
const tellOverloadEvery = 500 * time.Millisecond

// overloadLocked returns what the node is to be told, and whether it is to be told anything.
func (g *group) overloadLocked(now time.Duration) (*core.Overload, bool) {
	o := &g.over
	if o.step == stepNone && !o.suspended {
		tell := o.told
		o.told = false
		return nil, tell
	}
	if o.told && now-o.toldAt < tellOverloadEvery {
		return nil, false
	}
	o.told, o.toldAt = true, now
	queue, room := load(g.view), g.spool.room()
	out := &core.Overload{Step: o.step.String(), Delay: g.delay(), Spooled: room.live, Spool: room.limit}
	if o.suspended {
		out.Step, out.Delay = "suspend", 0
	} else if in, ok := g.fullInLocked(queue, &room); ok {
		out.FullIn = max(in, 1)
	}
	return out, true
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
	room := g.spool.room()
	attrs := append([]any{"reason", reason}, "queued_bytes", load(g.view))
	if room.limit > 0 || room.taken > 0 {
		attrs = append(attrs, "spooled_bytes", room.live, "spool_bytes", room.limit)
	}
	attrs = append(attrs, "full_in_seconds", 0.0)
	g.mu.Unlock()
	g.p.loop.Do(func(n *core.Node, now time.Duration) { n.Suspend(now, g.id) })
	kick(g.spillNow) // what it had is given back
	g.p.event(g.id, "overload.suspend", attrs...)
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
