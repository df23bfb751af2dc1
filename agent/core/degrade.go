package core

import (
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// Sync groups that do not block when their writes can not be held; what is promised meanwhile stands in cluster/degrade.go.
//
//  1. A primary says for how long its oldest write has waited, each StatusEvery. Beyond the group's limit the captain asks
//     to degrade, and once every primary is known to have stopped it records that the group is degraded.
//  2. A primary that has applied that record acknowledges what it has numbered. Who is cut off from the majority never does.
//  3. When each primary's incarnation is whole and its writes have been held in half of the limit, for as long as the limit
//     without a break, the captain records that it is ending. A primary that has applied this acknowledges only what is held,
//     so all that it acknowledged early is at or below the last seq that it had given: its fence.
//  4. When all primaries have everything up to their fences held, in whole incarnations, the captain records the end.

// promise is what a primary follows of P3 in one of its sync groups.
type promise struct {
	phase  cluster.DegradePhase
	ending uint64        // the Degradation.At that fence is of
	fence  wire.Seq      // of this incarnation: what was acknowledged early is not above it
	open   bool          // writes are numbered in an incarnation that is whole
	shutAt time.Duration // since when they are not

	waiting bool // clients wait, as the shell says
	waitAt  time.Duration
}

// SetWaiting tells the node whether clients wait for a sync group that is not attached, or not whole.
func (n *Node) SetWaiting(now time.Duration, g wire.GroupID, waiting bool) {
	n.now = max(n.now, now)
	if s := n.sources[g]; s != nil && s.promise.waiting != waiting {
		s.promise.waiting, s.promise.waitAt = waiting, n.now
	}
}

// followDegraded takes the group's degradation as it is recorded now.
func (s *source) followDegraded(g *cluster.Group) {
	p := &s.promise
	if g == nil || g.Mode != cluster.Sync {
		return
	}
	if d := g.Degraded; d != nil && d.Phase == cluster.DegradeEnding && p.ending != d.At {
		p.ending, p.fence = d.At, s.next-1
	}
	was, now := p.phase, g.DegradedPhase()
	p.phase = now
	switch {
	case now == cluster.Degraded && was != now:
		s.n.event(s.group, "group.degraded", "waited", s.lag().Round(time.Millisecond).String(), "queued_bytes", s.queued)
	case now == cluster.DegradeEnding && was != now:
		s.n.event(s.group, "group.degraded-ending", "up_to", p.fence, "held_up_to", s.heldUpTo())
	case now == 0 && was >= cluster.Degraded:
		s.n.event(s.group, "group.synchronous-again")
	}
	if was != now {
		s.n.eff.Wake = true
	}
}

// promiseTick notes since when nothing can be acknowledged as held, whatever is written.
func (s *source) promiseTick(g *cluster.Group) {
	p := &s.promise
	inc := g.Inc(s.inc)
	if open := !s.ready || (s.open != 0 && inc != nil && inc.Whole != 0); open != p.open || p.shutAt == 0 {
		p.open, p.shutAt = open, max(s.n.now, 1)
	}
}

// lag is for how long the oldest update has waited to be held, or clients for a group that can hold none.
func (s *source) lag() time.Duration {
	p := &s.promise
	switch {
	case p.shutAt != 0 && !p.open && p.waiting:
		return s.n.now - max(p.shutAt, p.waitAt)
	case !p.open:
	case len(s.pending) > 0:
		return s.n.now - s.pending[0].since
	}
	return 0
}

// early reports whether writes are acknowledged without being held.
func (s *source) early(g *cluster.Group) bool {
	if s.n.mutant("degrade-unrecorded") && g.OnDegraded == cluster.AsyncDegraded && s.lag() >= g.DegradeAfter() {
		return true
	}
	return g.Phase == cluster.Replicating && g.DegradedPhase() == cluster.Degraded
}

// covers returns the Degradation.At of the ending, if all that was acknowledged before it is committed, or held here.
func (s *source) covers(g *cluster.Group) uint64 {
	d, inc := g.Degraded, g.Inc(s.inc)
	if d == nil || d.Phase != cluster.DegradeEnding || d.At != s.promise.ending || inc == nil || inc.Whole == 0 {
		return 0
	}
	if s.heldUpTo() < s.promise.fence && !s.n.mutant("synchronous-unheld") {
		return 0
	}
	return d.At
}

// degrade takes a sync group through its degradation.
func (c *captain) degrade(g *cluster.Group, w *groupWatch) {
	if g.Mode != cluster.Sync || (g.Degraded == nil && g.OnDegraded == cluster.BlockDegraded) {
		return
	}
	phase := g.DegradedPhase()
	if phase != cluster.Degraded || !c.inTime(g) {
		w.calm = 0
	} else if w.calm == 0 {
		w.calm = max(c.n.now, 1)
	}
	switch phase {
	case 0:
		if c.late(g) {
			c.degradeTo(g, w, cluster.DegradeAsked, nil)
		}
	case cluster.DegradeAsked:
		if c.stopped(g) {
			c.degradeTo(g, w, cluster.Degraded, nil)
		}
	case cluster.Degraded:
		if w.calm != 0 && c.n.now-w.calm >= g.DegradeAfter() {
			c.degradeTo(g, w, cluster.DegradeEnding, nil)
		}
	case cluster.DegradeEnding:
		if incs, ok := c.covered(g); ok {
			c.degradeTo(g, w, 0, incs)
		} else if g.OnDegraded == cluster.AsyncDegraded && c.late(g) {
			c.degradeTo(g, w, cluster.Degraded, nil)
		}
	}
}

func (c *captain) degradeTo(g *cluster.Group, w *groupWatch, to cluster.DegradePhase, incs []wire.Incarnation) {
	if !w.once(c.n, "degrade"+to.String()) {
		return
	}
	cmd := &cluster.Degrade{Group: g.ID, To: to, Label: c.n.Label(), Incs: incs}
	if g.Degraded != nil {
		cmd.At = g.Degraded.At
	}
	c.n.Propose(cluster.Command{Degrade: cmd})
}

// degradable returns what a primary has last said of a group, nil where it is not heard.
func (c *captain) degradable(g *cluster.Group, p wire.AgentID) *GroupStatus {
	if !c.hears(p, c.n.cfg.LossAfter) {
		return nil
	}
	for i := range c.heard[p].st.Groups {
		if gs := &c.heard[p].st.Groups[i]; gs.Group == g.ID {
			return gs
		}
	}
	return nil
}

// late reports whether a primary's oldest write has waited for too long.
func (c *captain) late(g *cluster.Group) bool {
	for _, p := range g.Primaries() {
		if gs := c.degradable(g, p); gs != nil && gs.Lag >= g.DegradeAfter() {
			return true
		}
	}
	return false
}

// stopped reports whether no primary numbers anything more in the incarnations that were ended when the group was asked to
// degrade.
func (c *captain) stopped(g *cluster.Group) bool {
	for _, p := range g.Primaries() {
		if h := c.heard[p]; h != nil && h.st.Applied >= g.Degraded.At>>8 {
			continue
		}
		for _, inc := range g.Incs {
			if inc.Primary == p && !inc.Sealed && uint64(inc.ID) < g.Degraded.At {
				return false
			}
		}
	}
	return true
}

// inTime reports whether the writes of all primaries are held in time now.
func (c *captain) inTime(g *cluster.Group) bool {
	for _, p := range g.Primaries() {
		inc, gs := g.Live(p), c.degradable(g, p)
		if inc == nil || inc.Whole == 0 || gs == nil || gs.Inc != inc.ID || gs.Lag > g.DegradeAfter()/2 {
			return false
		}
	}
	return true
}

// covered returns the incarnations in which all primaries cover what was acknowledged.
func (c *captain) covered(g *cluster.Group) ([]wire.Incarnation, bool) {
	var incs []wire.Incarnation
	for _, p := range g.Primaries() {
		inc, gs := g.Live(p), c.degradable(g, p)
		if inc == nil || gs == nil || gs.Inc != inc.ID || gs.Covers != g.Degraded.At {
			return nil, false
		}
		incs = append(incs, inc.ID)
	}
	return incs, true
}
