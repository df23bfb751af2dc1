package core

import (
	"slices"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// cutter calls the cuts of one group with several primaries, and moves primaries to the first set of a new grant.
//
// An attempt pauses every live incarnation that the next set is granted to. When all have answered, RESUME(m) goes out,
// with m above every open set; when all have confirmed that they stood still from their PAUSED to that RESUME, the
// boundary below m is a cut. Boundaries that no attempt confirmed are void.
type cutter struct {
	attempt uint64
	stage   cutStage
	at      time.Duration // of the stage
	nextAt  time.Duration // of the next attempt
	sendAt  time.Duration
	failed  int // attempts in a row that not all primaries answered
	forced  bool
	target  wire.Set
	paused  map[wire.Incarnation]wire.Set
	stood   map[wire.Incarnation]bool
}

type cutStage uint8

const (
	cutIdle cutStage = iota
	cutPausing
	cutResuming
)

// Limits of a cut.
const (
	cutFailures     = 3 // attempts that a silent primary may spoil before the sets are closed without a cut
	cutConfirmWaits = 4 // times RetryEvery that the captain waits for all confirmations
)

// cutIncs returns the live incarnations that write in set n.
func cutIncs(g *cluster.Group, n wire.Set) []*cluster.Incarnation {
	gr := g.Grant(n)
	if gr == nil {
		return nil
	}
	var incs []*cluster.Incarnation
	for _, id := range gr.Incs {
		if inc := g.Inc(id); inc != nil && !inc.Ended {
			incs = append(incs, inc)
		}
	}
	return incs
}

// callCut drives the attempts.
func (c *captain) callCut(g *cluster.Group, w *groupWatch) {
	if len(g.Grants) == 0 {
		return
	}
	k := &w.cut
	newest := &g.Grants[len(g.Grants)-1]
	open := c.maxOpen(g)
	// target: the next set, or the first of the newest grant when the primaries or members have changed.
	target := max(open+1, 1)
	if early := firstOfNewest(g); early > open {
		target = early
	}
	incs := cutIncs(g, newest.Last)
	if len(incs) == 0 || g.Grant(target) == nil {
		k.stage = cutIdle
		return
	}
	single := len(newest.Incs) == 1 && (g.Grant(open) == nil || len(g.Grant(open).Incs) <= 1)
	if single {
		k.stage = cutIdle
		// The boundary is the primary's own; it is only hurried to a new grant.
		if gs := c.groupStatus(incs[0]); gs != nil && (gs.Open == 0 || target > open+1) && w.once(c.n, "hurry") {
			k.attempt++
			c.n.send(incs[0].Primary, &Resume{Group: g.ID, Term: c.term, Attempt: k.attempt, Set: target})
		}
		return
	}
	switch k.stage {
	case cutIdle:
		early := target > open+1 || c.someUnopened(incs)
		if c.n.now < k.nextAt && !early || c.n.now < k.at+c.n.cfg.HoldMax {
			return
		}
		k.attempt++
		k.stage, k.at, k.sendAt = cutPausing, c.n.now, 0
		k.paused, k.stood, k.forced = map[wire.Incarnation]wire.Set{}, map[wire.Incarnation]bool{}, false
		for _, inc := range incs {
			c.n.send(inc.Primary, &Pause{Group: g.ID, Term: c.term, Attempt: k.attempt})
		}
	case cutPausing:
		if c.n.now-k.at < c.n.cfg.PauseWait {
			return
		}
		// The primaries that stand still go on by themselves.
		k.failed++
		k.stage, k.at = cutIdle, c.n.now
		k.nextAt = c.n.now + time.Duration(g.PeriodMS)*time.Millisecond/4
		if k.failed >= cutFailures {
			c.force(g, w, target)
		}
	case cutResuming:
		if c.n.now-k.at >= cutConfirmWaits*c.n.cfg.RetryEvery {
			c.settleCut(g, w, false)
			return
		}
		if c.n.now >= k.sendAt {
			c.sendResume(g, w)
		}
	}
}

// firstOfNewest is the first set of the newest grant that has other incarnations or another assignment than the one
// before.
func firstOfNewest(g *cluster.Group) wire.Set {
	first := g.Grants[0].First
	for i := 1; i < len(g.Grants); i++ {
		a, b := &g.Grants[i-1], &g.Grants[i]
		if !slices.Equal(a.Incs, b.Incs) || !a.SameAssignment(b) {
			first = b.First
		}
	}
	return first
}

// someUnopened reports whether an incarnation waits for its first set.
func (c *captain) someUnopened(incs []*cluster.Incarnation) bool {
	for _, inc := range incs {
		if gs := c.groupStatus(inc); gs != nil && gs.Open == 0 {
			return true
		}
	}
	return false
}

// force closes the sets without a cut, so that a chain can go on while a primary is silent.
func (c *captain) force(g *cluster.Group, w *groupWatch, target wire.Set) {
	k := &w.cut
	k.attempt++
	k.failed, k.forced, k.target = 0, true, target
	k.stood = map[wire.Incarnation]bool{}
	c.resumeStage(g, w)
	c.n.event(g.ID, "cut.forced", "set", target-1)
}

func (c *captain) resumeStage(g *cluster.Group, w *groupWatch) {
	w.cut.stage, w.cut.at = cutResuming, c.n.now
	c.sendResume(g, w)
}

func (c *captain) sendResume(g *cluster.Group, w *groupWatch) {
	k := &w.cut
	k.sendAt = c.n.now + c.n.cfg.RetryEvery/4
	for _, inc := range cutIncs(g, k.target) {
		if _, ok := k.stood[inc.ID]; !ok {
			c.n.send(inc.Primary, &Resume{Group: g.ID, Term: c.term, Attempt: k.attempt, Set: k.target})
		}
	}
}

func (c *captain) paused(g *cluster.Group, w *groupWatch, from wire.AgentID, m *Paused) {
	k := &w.cut
	inc := g.Inc(m.Inc)
	if k.stage != cutPausing || m.Term != c.term || m.Attempt != k.attempt || inc == nil || inc.Primary != from || len(g.Grants) == 0 {
		return // of another attempt, or everything was given up since
	}
	k.paused[m.Inc] = m.Open
	open := wire.Set(0)
	for _, o := range k.paused {
		open = max(open, o)
	}
	target := max(open+1, firstOfNewest(g))
	incs := cutIncs(g, target)
	if len(incs) == 0 {
		return
	}
	for _, inc := range incs {
		if _, ok := k.paused[inc.ID]; !ok {
			return
		}
	}
	// An incarnation that writes in the set before but not in the next has ended: its seal says what counts of it.
	k.failed, k.target = 0, target
	c.resumeStage(g, w)
}

func (c *captain) confirm(g *cluster.Group, w *groupWatch, from wire.AgentID, m *Confirm) {
	k := &w.cut
	inc := g.Inc(m.Inc)
	if k.stage != cutResuming || m.Term != c.term || m.Attempt != k.attempt || m.Set != k.target || inc == nil || inc.Primary != from {
		return
	}
	k.stood[m.Inc] = m.Stood
	for _, inc := range cutIncs(g, k.target) {
		if _, ok := k.stood[inc.ID]; !ok {
			return
		}
	}
	c.settleCut(g, w, true)
}

// settleCut records the verdicts below the target. Only where every incarnation stood still is the boundary a cut: that
// holds for the sets from the highest one that was open, whose ends coincide, as far as nobody else has closed them
// before; those below are void.
func (c *captain) settleCut(g *cluster.Group, w *groupWatch, confirmed bool) {
	k := &w.cut
	cut := confirmed && !k.forced
	highest := wire.Set(0)
	for _, inc := range cutIncs(g, k.target) {
		cut = cut && k.stood[inc.ID]
	}
	for _, o := range k.paused {
		highest = max(highest, o)
	}
	for n := g.Committed + 1; n < k.target; n++ {
		if _, decided := g.Verdict(n); !decided {
			one := cut && n >= highest && k.together(g, n)
			c.n.Propose(cluster.Command{Verdict: &cluster.Verdict{Group: g.ID, Set: n, Cut: one}})
			if !one {
				c.n.event(g.ID, "cut.void", "set", n)
			}
		}
	}
	k.stage, k.at = cutIdle, c.n.now
	k.nextAt = c.n.now + time.Duration(g.PeriodMS)*time.Millisecond
}

// together reports whether the end of set n is one moment for all that write in it: they stood still in this attempt, or
// have ended inside n or before. One that ended after it had closed n closed it at another time, and one whose seal is not
// recorded may have.
func (k *cutter) together(g *cluster.Group, n wire.Set) bool {
	gr := g.Grant(n)
	if gr == nil {
		return false
	}
	for _, id := range gr.Incs {
		inc := g.Inc(id)
		ended := inc == nil || (inc.Sealed && (n > inc.Last || (n == inc.Last && !inc.Marked)))
		if !ended && !k.stood[id] {
			return false
		}
	}
	return true
}
