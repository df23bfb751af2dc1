package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// promote asks for it through any living host.
func (w *World) promote() {
	if w.promoted {
		return
	}
	for _, h := range w.hosts {
		if h.node != nil {
			w.promoted = true
			w.stats.Promotes++
			w.trace("promote asked of %d", h.id)
			h.do(func(n *core.Node) {
				n.Propose(cluster.Command{Promote: &cluster.Promote{Group: w.group, Label: int64(w.now), Force: true}})
			})
			// A proposal may be lost; an operator repeats it.
			w.after(time.Second, "promote again", func() {
				if g := w.newest().Groups[w.group]; g.Phase == cluster.Replicating {
					w.promoted = false
					w.promote()
				}
			})
			return
		}
	}
	w.after(500*time.Millisecond, "promote later", w.promote)
}

// removed reports whether a host knows that its volumes were taken out of the group.
func (w *World) removed(h *host) bool {
	for _, v := range h.node.State().Groups[w.group].Volumes {
		if v.Primary == h.id && v.Removed != nil {
			return true
		}
	}
	return false
}

// removePrimary asks any living host to take a primary's volumes out of the group, until it is so or is refused for good.
func (w *World) removePrimary(p *host) {
	g := w.newest().Groups[w.group]
	if !slices.Contains(g.Primaries(), p.id) || len(g.Primaries()) < 2 || g.Phase != cluster.Replicating {
		return
	}
	for _, h := range w.hosts {
		if h.node != nil {
			w.trace("asked of %d: remove primary %d", h.id, p.id)
			h.do(func(n *core.Node) {
				n.Propose(cluster.Command{RemovePrimary: &cluster.RemovePrimary{Group: w.group, Primary: p.id, Force: true}})
			})
			break
		}
	}
	w.after(time.Second, "remove again", func() { w.removePrimary(p) })
}

// scheduleRemoval takes a primary of several out in the middle of some runs, dead or alive. It has a generator of its own,
// so that the runs without one are what they were.
func (w *World) scheduleRemoval(length time.Duration) {
	r := rand.New(rand.NewPCG(w.opt.Seed, 0x72656d6f7665))
	var ps []*host
	for _, h := range w.hosts {
		if len(h.sources) > 0 {
			ps = append(ps, h)
		}
	}
	if len(ps) < 2 || w.opt.Keep || r.Float64() >= 0.2 {
		return
	}
	p := ps[r.IntN(len(ps))]
	w.after(length/4+time.Duration(r.Int64N(int64(length/2))), "remove primary", func() { w.removePrimary(p) })
}

// scheduleFault kills, restarts and slows hosts.
func (w *World) scheduleFault() {
	w.after(w.between(50*time.Millisecond, 1500*time.Millisecond), "fault", func() {
		if !w.faults {
			return
		}
		w.fault()
		w.scheduleFault()
	})
}

func (w *World) fault() {
	h := w.hosts[w.rng.IntN(len(w.hosts))]
	switch {
	case h.node == nil:
		h.start()
	case w.chance(0.55):
		if h.backup && !w.mayLose(h) {
			return
		}
		w.stats.Kills++
		w.oracle.checkPoints()
		power := w.power && w.chance(0.6)
		if power {
			w.stats.PowerCuts++
		}
		h.kill(power)
		back := w.between(20*time.Millisecond, 5*time.Second)
		w.after(back, "restart", func() {
			if h.node == nil {
				h.start()
			}
		})
	case w.chance(0.3):
		h.slowUntil = w.now + w.between(10*time.Millisecond, 800*time.Millisecond)
		w.trace("host %d is slow until %v", h.id, h.slowUntil)
	case w.chance(0.3):
		w.stall(h)
	case h.backup && w.chance(0.3):
		w.drain(h)
	case h.backup && w.chance(0.3):
		w.relabel(h)
	case w.chance(0.4):
		h.fullUntil = w.now + w.between(50*time.Millisecond, 1500*time.Millisecond)
		w.trace("the journal of host %d is full until %v", h.id, h.fullUntil)
	case w.chance(0.5):
		// One link, one way or both.
		o := w.hosts[w.rng.IntN(len(w.hosts))]
		until := w.now + w.between(20*time.Millisecond, 4*time.Second)
		w.cut(h, o, until)
		if w.chance(0.6) {
			w.cut(o, h, until)
		}
	default:
		// A live host that nobody reaches, perhaps for so long that it is declared lost.
		if h.backup && !w.mayLose(h) {
			return
		}
		w.isolate(h, w.between(20*time.Millisecond, 4*time.Second))
	}
}

// isolate makes a live host one that nobody reaches.
func (w *World) isolate(h *host, d time.Duration) {
	h.awayUntil = w.now + d
	for _, o := range w.hosts {
		w.cut(h, o, h.awayUntil)
		w.cut(o, h, h.awayUntil)
	}
}

// isolateSurvivor cuts off, for less than the long loss limit, a component that may just have become the only one to
// hold something: nothing of it may be given up for that.
func (w *World) isolateSurvivor() {
	var live []*host
	for _, h := range w.hosts {
		if h.backup && h.node != nil && h.node.Heard() == nil { // the captain declares losses
			live = append(live, h)
		}
	}
	if len(live) > 0 {
		w.isolate(live[w.rng.IntN(len(live))], w.between(time.Second, 5*time.Second))
	}
}

// lastingCut leaves a link cut when the faults end, one way or both: everything must come to rest all the same.
func (w *World) lastingCut() bool {
	a, b := w.hosts[w.rng.IntN(len(w.hosts))], w.hosts[w.rng.IntN(len(w.hosts))]
	if a == b || w.stats.Components < 2 || !w.chance(0.4) {
		return false
	}
	w.stats.LastingCuts++
	w.cut(a, b, maxVirtual)
	if w.chance(0.6) {
		w.cut(b, a, maxVirtual)
	}
	return true
}

// drain asks a component to leave, or one that was asked to stay.
func (w *World) drain(h *host) {
	for _, o := range w.hosts {
		if o.node == nil {
			continue
		}
		undo := w.newest().Agents[h.id].Drain
		w.trace("asked of %d: drain %d, undo %v", o.id, h.id, undo)
		o.do(func(n *core.Node) {
			n.Propose(cluster.Command{Drain: &cluster.Drain{Agent: h.id, Undo: undo, Force: w.chance(0.3)}})
		})
		return
	}
}

// relabel gives a component another weight, or another failure domain.
func (w *World) relabel(h *host) {
	set := &cluster.SetAgent{Agent: h.id}
	if w.chance(0.5) {
		set.Weight = new(uint8(1 + w.rng.IntN(cluster.MaxWeight)))
	} else {
		set.Domain = new(domains[w.rng.IntN(len(domains))])
	}
	for _, o := range w.hosts {
		if o.node != nil {
			w.trace("asked of %d: weight and domain of %d", o.id, h.id)
			o.do(func(n *core.Node) { n.Propose(cluster.Command{SetAgent: set}) })
			return
		}
	}
}

// stall makes a component stand still, as a paused virtual machine does: it may be declared lost, and then what it was
// about to send arrives.
func (w *World) stall(h *host) {
	if h.backup && len(h.sources) == 0 && w.now >= h.stalledUntil && w.mayLose(h) {
		w.standStill(h, w.between(time.Second, 5*time.Second))
	}
}

func (w *World) standStill(h *host, d time.Duration) {
	h.stalledUntil = w.now + d
	h.slowUntil, h.awayUntil = h.stalledUntil, h.stalledUntil
	w.trace("host %d stands still until %v", h.id, h.stalledUntil)
}

// mayLose reports whether a component may go now: as a rule one at a time, when everything has its second copy; now and
// then more, and then what needs the second copy is excused.
func (w *World) mayLose(h *host) bool {
	down := 0
	for _, o := range w.hosts {
		if o.backup && o != h && (o.node == nil || w.now < o.awayUntil) {
			down++
		}
	}
	if down == 0 && w.oracle.allMirrored() {
		return true
	}
	if !w.chance(0.1) {
		return false
	}
	w.doubleLoss = true
	return true
}

// link is one direction between two hosts.
type link struct{ from, to wire.AgentID }

// cut loses what goes from one host to another.
func (w *World) cut(from, to *host, until time.Duration) {
	if from != to {
		w.trace("nothing goes from %d to %d until %v", from.id, to.id, until)
		w.cuts[link{from.id, to.id}] = until
	}
}

func (w *World) scheduleCheck() {
	w.after(w.between(50*time.Millisecond, 400*time.Millisecond), "check", func() {
		w.oracle.checkPoints()
		if w.failure == nil {
			w.scheduleCheck()
		}
	})
}

// deliver carries something from one host to another, late, twice or never.
func (w *World) deliver(from, to wire.AgentID, name string, f func(*host)) {
	if to == from {
		w.after(0, name, func() {
			if h := w.host(to); h.node != nil {
				f(h)
			}
		})
		return
	}
	times := 1
	w.sent++
	if w.sent == w.lose || w.chance(w.lossy) || w.now < w.cuts[link{from, to}] {
		times = 0
	} else if w.chance(w.dupes) {
		times = 2
	}
	src := w.host(from)
	said := src.greeting()
	run := 0
	if dst := w.host(to); dst != nil {
		run = dst.run
	}
	for range times {
		d := w.between(20*time.Microsecond, w.maxDelay+30*time.Microsecond)
		if w.now < src.stalledUntil {
			d += src.stalledUntil - w.now
		} else if w.now < src.slowUntil {
			d += w.between(0, src.slowUntil-w.now+1)
		}
		w.after(d, name, func() {
			// What was on its way to a process that died does not reach the next one, as a rule.
			if h := w.host(to); h != nil && h.node != nil && (h.run == run || name == "raft") && w.meet(src, said, h) {
				f(h)
			}
		})
	}
}

// deliverOver carries something over a third host, or straight where hop is one of the ends.
func (w *World) deliverOver(from, hop, to wire.AgentID, name string, f func(*host)) {
	if hop == from || hop == to {
		w.deliver(from, to, name, f)
		return
	}
	w.deliver(from, hop, name, func(*host) { w.deliver(hop, to, name, f) })
}
