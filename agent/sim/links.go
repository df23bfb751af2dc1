package sim

import (
	"time"

	"flotilla/wire"
)

// link is one direction between two hosts.
type link struct{ from, to wire.AgentID }

// cut loses what goes from one host to another.
func (w *World) cut(from, to *host, until time.Duration) {
	if from != to {
		w.trace("nothing goes from %d to %d until %v", from.id, to.id, until)
		w.cuts[link{from.id, to.id}] = until
	}
}

// knows reports whether the host lets an agent in: the shells refuse one that was removed, and not one that the host's
// state has not got to yet.
func (h *host) knows(from wire.AgentID) bool {
	st := h.node.State()
	return st.Agents[from] != nil || from >= st.NextAgent
}

// isolate makes a live host one that nobody reaches.
func (w *World) isolate(h *host, d time.Duration) {
	h.awayUntil = w.now + d
	for _, o := range w.hosts {
		w.cut(h, o, h.awayUntil)
		w.cut(o, h, h.awayUntil)
	}
}

// lastingCut leaves a link cut when the faults end, one way or both: everything must come to rest all the same. It
// reports whether it did.
func (w *World) lastingCut() bool {
	r := w.lasting
	if r == nil {
		return false
	}
	a, b := w.hosts[r.IntN(len(w.hosts))], w.hosts[r.IntN(len(w.hosts))]
	if a == b || a.doomed || b.doomed || w.stats.Components < 2 || !w.mayPart(a, b) {
		return false
	}
	w.happened(lastingCut)
	w.cut(a, b, maxVirtual)
	if r.Float64() < 0.6 {
		w.cut(b, a, maxVirtual)
	}
	return true
}

// deliver carries something from one host to another, late, twice or never. Each message has a delay of its own, so that
// later ones come earlier, on one connection too.
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
	if src == nil {
		return
	}
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
			if h := w.host(to); h != nil && h.node != nil && (h.run == run || name == "raft") && h.knows(from) && w.meet(src, said, h) {
				f(h)
			}
		})
	}
}

// mayPart reports whether two hosts may stay apart: updates find a way over another component that stays.
// Of two that are left one is declared lost, unless they hold the only copies of something: then they wait for the link.
func (w *World) mayPart(a, b *host) bool {
	eligible := 0
	for _, id := range w.newest().Eligible() {
		if h := w.host(id); h != nil && !h.doomed {
			eligible++
		}
	}
	switch {
	case a.backup && b.backup:
		return eligible >= 3
	case a.backup || b.backup:
		return eligible >= 2
	}
	return true
}

// deliverOver carries something over a third host, or straight where hop is one of the ends.
func (w *World) deliverOver(from, hop, to wire.AgentID, name string, f func(*host)) {
	if hop == from || hop == to {
		w.deliver(from, to, name, f)
		return
	}
	w.deliver(from, hop, name, func(*host) { w.deliver(hop, to, name, f) })
}
