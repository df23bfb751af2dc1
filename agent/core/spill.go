package core

import (
	"sort"
	"time"

	"flotilla/wire"
)

// Spilling. The payloads of what waits to be sent need not be in memory: the shell writes them elsewhere and gives the node a
// handle to that place in exchange. Nothing else of an update changes. It keeps seq, set, pair and place in its queue, and goes
// out as it would have; whoever sends it brings its data back before. So nobody but this primary can tell, and what is
// promised is as it was: the content of a seq is fixed, and what can not be brought back is what a suspend drops, too.

// spilling is what of a source's pending updates lies outside memory.
type spilling struct {
	next    wire.Seq // what is below was looked at
	bytes   int64    // of data
	updates int64
}

// spillLooks bounds how many updates one call looks at.
const spillLooks = 4096

// Spill is an update whose payload is wanted elsewhere.
type Spill struct {
	Update wire.Update // with its data; Sum not yet made
	Handle any         // to be kept from reuse until the data are written, whatever Release says
}

// Spilled says where a payload is now.
type Spilled struct {
	Seq    wire.Seq
	Handle any // what is to be released in place of the payload's
}

// Spillable returns payloads of writes that wait to be sent, the oldest first, at least one and up to maxBytes of them; none when
// there are no more. What is among the first keep bytes of the queue will be sent soon and stays. So does the open set, where a
// write may still be superseded, unless open is set: then that is as well, for want of anything else.
func (n *Node) Spillable(g wire.GroupID, keep, maxBytes int64, open bool) (inc wire.Incarnation, out []Spill) {
	s := n.sources[g]
	if s == nil || s.inc == 0 || len(s.pending) == 0 {
		return 0, nil
	}
	first := s.pending[0]
	at := sort.Search(len(s.pending), func(i int) bool { return s.pending[i].at-first.at >= keep })
	if s.spill.next > first.u.Seq {
		at = max(at, int(s.spill.next-first.u.Seq)) // pending is dense
	}
	for looks := 0; at < len(s.pending) && looks < spillLooks; at, looks = at+1, looks+1 {
		it := s.pending[at]
		if it.set >= s.open && s.open != 0 && !open {
			break
		}
		if it.u.Kind == wire.KindWrite && it.waits() && it.handle != nil && it.spilled == 0 {
			if n := it.cost(); len(out) > 0 && n > maxBytes {
				break
			}
			maxBytes -= it.cost()
			out = append(out, Spill{Update: it.u, Handle: it.handle})
		}
		s.spill.next = it.u.Seq + 1
		if len(out) > 0 && maxBytes <= 0 {
			break
		}
	}
	return s.inc, out
}

// waits reports whether the update is in a queue.
func (it *item) waits() bool { return !it.held && it.flight == 0 }

// Spilled exchanges payloads of an incarnation for the places that they were written to. What was sent, superseded or dropped
// meanwhile stays as it is. Of each exchange the handle that is not needed is released: the payload's, or the one given.
func (n *Node) Spilled(now time.Duration, g wire.GroupID, inc wire.Incarnation, places []Spilled) {
	n.now = max(n.now, now)
	s := n.sources[g]
	for _, p := range places {
		drop := p.Handle
		if it := s.spillable(inc, p.Seq); it != nil {
			drop, it.handle = it.handle, p.Handle
			it.u.Data, it.spilled = nil, uint32(len(it.u.Data))
			s.spill.bytes += int64(it.spilled)
			s.spill.updates++
		}
		n.eff.Release = append(n.eff.Release, drop)
	}
	n.eff.Wake = true
}

// spillable returns the update of a seq while its payload may be exchanged.
func (s *source) spillable(inc wire.Incarnation, seq wire.Seq) *item {
	if s == nil || inc == 0 || s.inc != inc || len(s.pending) == 0 || seq < s.pending[0].u.Seq || seq >= s.next {
		return nil
	}
	it := s.pending[seq-s.pending[0].u.Seq]
	if it.u.Kind != wire.KindWrite || it.handle == nil || it.spilled != 0 || !it.waits() {
		return nil
	}
	return it
}

// unspill says that a payload is not needed any more.
func (s *source) unspill(it *item) {
	if it.spilled != 0 {
		s.spill.bytes -= int64(it.spilled)
		s.spill.updates--
		it.spilled = 0
	}
}

// SetOverload tells the node what the shell does about a long queue, nil for nothing, for the status. It is not changed afterwards.
func (n *Node) SetOverload(g wire.GroupID, o *Overload) {
	if s := n.sources[g]; s != nil {
		s.load = o
	}
}
