//go:build nettest

package nettest

import (
	"fmt"
	"time"

	"flotilla/agent/api"
)

// primaryFault cuts one of two primaries off from everything. No set can be cut without it, so that the recovery point
// freezes; the other goes on in sets that only wait for that. When the first is back they are committed in a chain, and
// after a disaster both volumes are what they were together at one moment.
func primaryFault(r *run) {
	gone, stays := r.primaries[1], r.primaries[0]
	r.say("%s, one of two primaries, is cut off from everything; its clients go on", gone.Name)
	r.must(r.net.SetLink(r.ctx, gone.node, mainLAN, false))
	r.pass(lossAfter) // in which the sets are committed that were cut before
	before, at := r.standing(stays)
	took := r.until(inTime, stays.Name+" goes on", func(_ *api.Status, g *api.Group) bool {
		p := source(g, stays)
		return p != nil && p.Open >= before.source.Open+frozenSets && p.HeldUpTo > before.source.Seq
	})
	r.pass(lossAfter)
	after, _ := r.standing(stays)
	if after.point != before.point || after.committed != before.committed {
		r.must(fmt.Errorf("the recovery point was set %d and is set %d, committed %d and %d, without %s", before.point, after.point,
			before.committed, after.committed, gone.Name))
	}
	r.say("the recovery point is set %d for %.1f s; %s needed %.1f s for %d more sets, and what it wrote is held; %s", after.point,
		time.Since(at).Seconds(), stays.Name, took.Seconds(), frozenSets, r.slowest())

	r.must(r.net.SetLink(r.ctx, gone.node, mainLAN, true))
	open := after.source.Open
	again := r.until(inTime, "a cut is committed that both primaries are part of", func(_ *api.Status, g *api.Group) bool {
		return g.Point != nil && g.Point.Set > open
	})
	r.say("%s is back: the recovery point was newer than the fault after %.1f s; %s", gone.Name, again.Seconds(), r.slowest())
	r.say("as before after %.1f s", r.calm(stepTime).Seconds())
	r.strike()
	r.promote(false)
}

// frozenSets is how many sets a primary must open without the other.
const frozenSets = 5

// standing is where a group and one of its primaries are.
type standing struct {
	point, committed uint64
	source           api.Source
}

// standing asks for it, and returns when it was asked.
func (r *run) standing(h *host) (x standing, at time.Time) {
	r.t.Helper()
	at = time.Now()
	r.until(stepTime, "the captain has heard of "+h.Name, func(_ *api.Status, g *api.Group) bool {
		p := source(g, h)
		if p == nil || g.Point == nil {
			return false
		}
		x = standing{g.Point.Set, g.Committed, *p}
		return true
	})
	return x, at
}

// source returns where a primary stands, nil while that is not known.
func source(g *api.Group, h *host) *api.Source {
	for i := range g.Primaries {
		if p := &g.Primaries[i]; p.Agent == h.Name && p.Known {
			return p
		}
	}
	return nil
}
