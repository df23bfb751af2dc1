package core

import (
	"cmp"
	"slices"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// ackWait is a frame whose sender waits for an ack. It stands on the list of the first of its entries that is not settled,
// and is looked at again when something becomes of that.
type ackWait struct {
	order   uint64 // in which they came
	to      wire.AgentID
	no      uint64
	entries []*entry
	next    int      // entries before it are settled
	beside  *ackWait // the next on the list of the same entry
	mirror  bool     // the sender is an owner: durable here is enough
	forward bool     // this is the mirror, and the sender a primary: durable at the owner, too
	back    *holding // forward, but nobody waits for an ack: the owner lost what is here
	dead    bool
	due     bool // it stands in acks.due
	over    bool // nobody waits any more
}

// ackWaits are the frames whose senders wait.
type ackWaits struct {
	all      []*ackWait // in their order, and some that are over
	due      []*ackWait // to be looked at
	last     uint64     // order given
	over     int        // of all
	forwards int        // of all, those with forward that are not over
}

// add takes a frame whose sender waits from now on.
func (a *ackWaits) add(w *ackWait) {
	a.last++
	w.order = a.last
	a.all = append(a.all, w)
	if w.forward {
		a.forwards++
	}
	a.look(w)
}

// look has a wait looked at.
func (a *ackWaits) look(w *ackWait) {
	if !w.due {
		w.due = true
		a.due = append(a.due, w)
	}
}

// changed has the waits that an entry keeps back looked at: it is durable, mirrored or gone.
func (a *ackWaits) changed(e *entry) {
	for w := e.waits; w != nil; w = w.beside {
		a.look(w)
	}
	e.waits = nil
}

// changedAll has all waits looked at.
func (a *ackWaits) changedAll() {
	for _, w := range a.all {
		if !w.over && w.next < len(w.entries) {
			w.entries[w.next].waits = nil
		}
		a.look(w)
	}
}

// end ends a wait. Who has it on a list finds out when it is looked at.
func (a *ackWaits) end(w *ackWait) {
	if w.over {
		return
	}
	w.over = true
	a.over++
	if w.forward {
		a.forwards--
	}
}

// endAll ends those that which returns true for.
func (a *ackWaits) endAll(which func(*ackWait) bool) {
	for _, w := range a.all {
		if which(w) {
			a.end(w)
		}
	}
	a.sweep()
}

// sweep forgets those that are over.
func (a *ackWaits) sweep() {
	if a.over > 0 {
		a.all = slices.DeleteFunc(a.all, func(w *ackWait) bool { return w.over })
		a.over = 0
	}
}

// acknowledge tells the senders of frames that all have what they wait for.
func (c *component) acknowledge() {
	a := &c.acking
	if len(a.due) == 0 {
		return
	}
	slices.SortFunc(a.due, func(x, y *ackWait) int { return cmp.Compare(x.order, y.order) })
	acks := map[wire.AgentID][]uint64{}
	for _, w := range a.due {
		w.due = false
		if w.over {
			continue
		}
		for w.next < len(w.entries) && c.settled(w.entries[w.next], w.mirror || (w.forward && c.n.mutant("forward-held-once"))) {
			w.next++
		}
		switch {
		case w.dead || (w.next < len(w.entries) && w.entries[w.next].gone):
			a.end(w) // applied, given up or cut off by a seal: the sender is told what holds when it asks again
		case w.next == len(w.entries):
			acks[w.to] = append(acks[w.to], w.no)
			a.end(w)
		default:
			e := w.entries[w.next]
			e.waits, w.beside = w, e.waits
		}
	}
	clear(a.due)
	a.due = a.due[:0]
	if a.over > len(a.all)/2 {
		a.sweep()
	}
	for _, to := range cluster.SortedKeys(acks) {
		c.n.send(to, &FrameAck{Nos: acks[to]})
	}
}

// settled reports whether an entry is durable where its sender wants it.
func (c *component) settled(e *entry, mirror bool) bool {
	if e.gone {
		return false
	}
	if !e.durable && !c.n.mutant("journal-not-synced") {
		return false
	}
	return mirror || e.h.mirror == 0 || e.mirrored
}
