package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
)

// span draws a duration from [lo, hi).
func span(r *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(r.Int64N(int64(hi-lo)))
}

// scheduleFaults has the planned faults happen, but for those that the reduction leaves out.
func (w *World) scheduleFaults(planned []fault, length time.Duration) {
	red := w.opt.Reduce
	next := 0
	for i, f := range planned {
		if red.Chosen {
			if next >= len(red.Faults) || red.Faults[next] != i {
				continue
			}
			next++
		}
		if f.at >= length {
			continue
		}
		r := rand.New(rand.NewPCG(f.seed, 0))
		happen := func() {
			if w.faults && w.failure == nil {
				w.trace("fault %d: %s", i, f.kind)
				w.stats.Happened = append(w.stats.Happened, i)
				w.happen(f.kind, r)
			}
		}
		if f.at == 0 {
			happen()
		} else {
			w.after(f.at, "fault", happen)
		}
	}
}

// happened counts a fault that took effect.
func (w *World) happened(k kind) { w.stats.Faults[k]++ }

// happen makes a fault take effect, if it can now.
func (w *World) happen(k kind, r *rand.Rand) {
	switch k {
	case lossyLinks:
		w.lossy = []float64{0.01, 0.05}[r.IntN(2)]
	case repeatedSends:
		w.dupes = 0.02
	case survivorAway:
		w.survivors = r
		return
	case applyStalls:
		w.applyStalls = r
		return
	case lastingCut:
		w.lasting = r
		return
	case clocksDrift:
		for _, h := range w.hosts {
			h.clock.adjust(w.now, 0.2*(r.Float64()-0.5), 0)
		}
	case promoteGroup:
		w.promote(w.oracle.groups[w.drawGroup(r)])
	case allowInPlace:
		if !w.oracle.groups[w.drawGroup(r)].allowInconsistent() {
			return
		}
	case growVolume:
		if !w.enlarge(r) {
			return
		}
	case joinCluster:
		w.join(r)
		return
	case removeLost:
		w.removeForGood(r)
		return
	case loseMajority:
		w.loseMajority(r)
		return
	case flipBits:
		if !w.flipBits(r) {
			return
		}
	case checkGroup:
		if !w.startCheck(r) {
			return
		}
	case recopyVolume:
		if w.generation != 0 || !w.recopy(r) {
			return
		}
	case siteOutage, targetOutage:
		if !w.outage(k, r) {
			return
		}
	case takeOutPrimary:
		h := w.pick(k, r)
		if !w.takeOut(w.groupOf(h, r), h) {
			return
		}
	default:
		if h := w.pick(k, r); h == nil || !w.strike(h, k, r) {
			return
		}
	}
	w.happened(k)
}

// pick draws the host that a fault hits, nil when there is none of that kind.
func (w *World) pick(k kind, r *rand.Rand) *host {
	var hs []*host
	for _, h := range w.hosts {
		switch k {
		case stallHost:
			if h.removed || !h.backup || len(h.sources) > 0 {
				continue
			}
		case drainHost, relabelHost, fullJournal, journalRots, journalFails:
			if h.removed || !h.backup {
				continue
			}
		case sourceFails, takeOutPrimary:
			if len(h.sources) == 0 {
				continue
			}
		case siteOutage:
			if h.removed || h.backup || len(h.sources) == 0 {
				continue
			}
		case targetFails, targetOutage:
			if len(h.targets) == 0 {
				continue
			}
		default:
			if h.removed {
				continue
			}
		}
		hs = append(hs, h)
	}
	if len(hs) == 0 {
		return nil
	}
	return hs[r.IntN(len(hs))]
}

// strike lets a fault hit a host, and reports whether it did. A host that is down is started instead.
func (w *World) strike(h *host, k kind, r *rand.Rand) bool {
	if h.node == nil {
		if !h.doomed {
			h.start()
		}
		return false
	}
	switch k {
	case kill, isolateHost:
		if h.backup && !w.mayLose(h, r) {
			return false
		}
	case stallHost, journalRots, journalFails:
		if !w.mayLose(h, r) {
			return false
		}
	case clockJumps: // the captain may take the silence that it sees for that of a component
		if !w.mayLose(nil, r) {
			return false
		}
	}
	switch k {
	case kill:
		w.stats.Kills++
		w.oracle.checkPoints()
		power := w.power && r.Float64() < 0.6
		if power {
			w.stats.PowerCuts++
		}
		h.kill(power)
		back := span(r, 20*time.Millisecond, 5*time.Second)
		if r.IntN(8) == 0 {
			back = span(r, 5*time.Second, 15*time.Second)
		}
		w.restartAfter(h, back)
	case slowHost:
		h.slowUntil = w.now + span(r, 10*time.Millisecond, 800*time.Millisecond)
		w.trace("host %d is slow until %v", h.id, h.slowUntil)
	case stallHost:
		w.standStill(h, span(r, time.Second, 5*time.Second))
	case drainHost:
		w.drain(h, r)
	case relabelHost:
		w.relabel(h, r)
	case fullJournal:
		h.fullUntil = w.now + span(r, 50*time.Millisecond, 1500*time.Millisecond)
		w.trace("the journal of host %d is full until %v", h.id, h.fullUntil)
	case cutLink:
		o := w.hosts[r.IntN(len(w.hosts))]
		until := w.now + span(r, 20*time.Millisecond, 4*time.Second)
		w.cut(h, o, until)
		if r.Float64() < 0.6 {
			w.cut(o, h, until)
		}
		return o != h
	case isolateHost: // perhaps for so long that it is declared lost
		w.isolate(h, span(r, 20*time.Millisecond, 4*time.Second))
	case clockJumps:
		d := span(r, 10*time.Millisecond, 5*time.Second)
		h.clock.adjust(w.now, h.clock.drift, d)
		w.trace("the clock of host %d jumps ahead by %v", h.id, d)
	default:
		return w.strikeDisk(h, k, r)
	}
	return true
}

// restartAfter starts a host that is down, unless it is gone for good.
func (w *World) restartAfter(h *host, d time.Duration) {
	w.after(d, "restart", func() {
		if h.node == nil && !h.doomed {
			h.start()
		}
	})
}

// outage cuts a primary or a secondary off for long. Queues that do not move suspend their groups from then on, the bits
// take what is written, and a resync follows, in whose middle there may be a promote.
func (w *World) outage(k kind, r *rand.Rand) bool {
	h := w.pick(k, r)
	if h == nil || h.node == nil || h.backup {
		return false
	}
	w.overload = true
	d := span(r, 3*time.Second, 6*time.Second)
	w.isolate(h, d)
	if o, at := w.oracle.groups[w.drawGroup(r)], d+span(r, 0, 1500*time.Millisecond); r.IntN(2) == 0 {
		w.after(at, "promote after an outage", func() {
			if w.faults && w.failure == nil && o.now().Phase == cluster.Replicating {
				w.promote(o)
			}
		})
	}
	return true
}

// isolateSurvivor cuts off, for less than the long loss limit, a component that may just have become the only one to
// hold something: nothing of it may be given up for that.
func (w *World) isolateSurvivor(r *rand.Rand) {
	var live []*host
	for _, h := range w.hosts {
		if h.backup && h.node != nil && !h.node.Leads() { // the captain declares losses
			live = append(live, h)
		}
	}
	if len(live) > 0 {
		w.happened(survivorAway)
		w.isolate(live[r.IntN(len(live))], span(r, time.Second, 5*time.Second))
	}
}

// drain asks a component to leave, or one that was asked to stay.
func (w *World) drain(h *host, r *rand.Rand) {
	force := r.Float64() < 0.3
	w.ask(func(n *core.Node) {
		undo := w.newest().Agents[h.id].Drain
		w.trace("asked of %d: drain %d, undo %v", n.ID(), h.id, undo)
		n.Propose(cluster.Command{Drain: &cluster.Drain{Agent: h.id, Undo: undo, Force: force}})
	})
}

// relabel gives a component another weight, or another failure domain.
func (w *World) relabel(h *host, r *rand.Rand) {
	set := &cluster.SetAgent{Agent: h.id}
	if r.IntN(2) == 0 {
		set.Weight = new(uint8(1 + r.IntN(cluster.MaxWeight)))
	} else {
		set.Domain = new(domains[r.IntN(len(domains))])
	}
	w.ask(func(n *core.Node) {
		w.trace("asked of %d: weight and domain of %d", n.ID(), h.id)
		n.Propose(cluster.Command{SetAgent: set})
	})
}

// ask calls the first node that is alive.
func (w *World) ask(f func(n *core.Node)) bool {
	for _, h := range w.hosts {
		if h.node != nil && !h.removed {
			h.do(f)
			return true
		}
	}
	return false
}

// drawGroup draws the number of a group, from 0.
func (w *World) drawGroup(r *rand.Rand) int {
	if len(w.oracle.groups) == 1 {
		return 0
	}
	return r.IntN(len(w.oracle.groups))
}

// groupOf draws a group that a host has volumes of.
func (w *World) groupOf(h *host, r *rand.Rand) *groupOracle {
	for k := w.drawGroup(r); ; k++ {
		g := w.oracle.groups[k%len(w.oracle.groups)]
		for id := range h.sources {
			if g.sizes[id] > 0 {
				return g
			}
		}
	}
}

// promote asks for it through any living host. A proposal may be lost; an operator repeats it.
func (w *World) promote(o *groupOracle) {
	if !o.asked {
		o.asked = w.ask(func(n *core.Node) {
			w.stats.Promotes++
			w.trace("promote of group %d asked of %d", o.id, n.ID())
			n.Propose(cluster.Command{Promote: &cluster.Promote{Group: o.id, Label: int64(w.now), Force: true}})
		})
	}
	w.after(time.Second, "promote again", func() {
		if o.now().Phase == cluster.Replicating {
			o.asked = false
			w.promote(o)
		}
	})
}

// stallApply makes a component stand still at the worst moment: what it writes to the targets comes late.
func (w *World) stallApply(h *host) {
	r := w.applyStalls
	if w.faults && r != nil && r.Float64() < 0.01 && h.backup && len(h.sources) == 0 && w.now >= h.stalledUntil && w.mayLose(h, r) {
		w.happened(applyStalls)
		w.standStill(h, span(r, time.Second, 5*time.Second))
	}
}

func (w *World) standStill(h *host, d time.Duration) {
	h.stalledUntil = w.now + d
	h.slowUntil, h.awayUntil = h.stalledUntil, h.stalledUntil
	w.trace("host %d stands still until %v", h.id, h.stalledUntil)
}

// mayLose reports whether a component may go now: as a rule one at a time, when everything has its second copy; now and
// then more, and then what needs the second copy is excused.
func (w *World) mayLose(h *host, r *rand.Rand) bool {
	if w.othersWell(h) && w.oracle.allMirrored(h) {
		return true
	}
	if r.Float64() >= 0.06 {
		return false
	}
	w.excuse()
	return true
}

// othersWell reports whether all other components are up, can be reached, and have a whole journal.
func (w *World) othersWell(h *host) bool {
	for _, o := range w.hosts {
		if o.backup && o != h && !o.removed && (o.node == nil || w.now < o.awayUntil || o.journal.ails()) {
			return false
		}
	}
	return true
}

// excuse says that more than one component may be gone at a time from here on.
func (w *World) excuse() {
	if !w.doubleLoss {
		w.doubleLoss = true
		w.stats.Excused++
	}
	for _, h := range w.hosts {
		if h.backup && h.journal.ails() {
			w.unreadable()
		}
	}
}

// unreadable notes that what a journal held can not be read any more. Where more than one may be gone at a time no
// recovery point among the sets granted by now can be counted on, until they were applied or given up.
func (w *World) unreadable() {
	if w.doubleLoss {
		for _, o := range w.oracle.groups {
			o.lostUpTo = max(o.lostUpTo, o.now().Granted)
		}
	}
}

// peace ends all faults, and the dead come back.
func (w *World) peace() {
	w.faults = false
	w.trace("peace")
	w.lossy, w.dupes = 0, 0
	clear(w.cuts)
	for _, h := range w.hosts {
		h.fullUntil, h.diskUntil, h.brokenUntil, h.journal.failing = 0, 0, 0, false
		if h.node == nil && !h.doomed {
			h.start()
		}
	}
}

// removed reports whether a host knows that its volumes were taken out of the group.
func (s *sourceGroup) removed() bool {
	st := s.h.node.State()
	if s.looked == st.Index {
		return false
	}
	s.looked = st.Index
	for _, v := range st.Groups[s.id].Volumes {
		if v.Primary == s.h.id && v.Removed != nil {
			return true
		}
	}
	return false
}

// takeOut asks for a primary's volumes to be taken out of the group, it being dead or alive, until it is so or is refused
// for good. It reports whether there are others.
func (w *World) takeOut(o *groupOracle, p *host) bool {
	g := o.now()
	if !slices.Contains(g.Primaries(), p.id) || len(g.Primaries()) < 2 || g.Phase != cluster.Replicating {
		return false
	}
	w.ask(func(n *core.Node) {
		w.trace("asked of %d: take out primary %d of group %d", n.ID(), p.id, o.id)
		n.Propose(cluster.Command{RemovePrimary: &cluster.RemovePrimary{Group: o.id, Primary: p.id, Force: true}})
	})
	w.after(time.Second, "take out again", func() { w.takeOut(o, p) })
	return true
}
