package core

import (
	"cmp"
	"slices"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// The queues of a source hold what is numbered, not held and on no way, one queue for each (owner, mirror). None is empty,
// each ascends by seq, and updates that are sent again go back to their places. What is oldest goes out first, whatever its
// pair: an update that becomes held above a gap completes no set and frees nothing.

// enqueue puts an item into the queue of its pair.
func (s *source) enqueue(it *item) {
	g := s.n.state.Groups[s.group]
	p := it.u.PortionID()
	var pair cluster.Pair
	if it.set == s.open {
		var ok bool
		if pair, ok = s.pairs[p]; !ok {
			pair = s.n.state.Pair(g, it.set, p)
			s.pairs[p] = pair
		}
	} else {
		pair = s.n.state.Pair(g, it.set, p)
	}
	it.pair, it.flight = pair, 0
	q := s.queues[pair]
	at := len(q)
	if at > 0 && q[at-1].u.Seq > it.u.Seq { // it is sent again
		at, _ = slices.BinarySearchFunc(q, it.u.Seq, func(x *item, seq wire.Seq) int { return cmp.Compare(x.u.Seq, seq) })
	}
	s.queues[pair] = slices.Insert(q, at, it)
	s.n.eff.Wake = true
}

// dequeue takes the first n items from a queue.
func (s *source) dequeue(pair cluster.Pair, n int) {
	if q := s.queues[pair]; n < len(q) {
		s.queues[pair] = q[n:]
	} else {
		delete(s.queues, pair)
	}
}

// unqueueHeld takes from the queues what has become held without being sent: a prefix of each.
func (s *source) unqueueHeld() {
	for pair, q := range s.queues {
		n := 0
		for n < len(q) && q[n].held {
			n++
		}
		s.dequeue(pair, n)
	}
}

// oldest returns the pair whose queue begins with the lowest seq of those that may go out to a component now.
func (s *source) oldest(to wire.AgentID) (best cluster.Pair, found bool) {
	var first *item
	for pair, q := range s.queues {
		if pair.Owner == 0 || (found && q[0].u.Seq > first.u.Seq) {
			continue
		}
		// A pipe that is full goes on when something is acknowledged.
		if way := s.way(pair); way.hop == to && !s.pipe(way.acks).full() {
			best, first, found = pair, q[0], true
		}
	}
	return best, found && first.at-s.pending[0].at < s.spread()
}

// spread is how far what goes out may be ahead of the oldest update that is not held, in bytes. A component that is ahead of
// another, because its links carry more or its share is smaller, would otherwise keep the other's links busy with its
// mirroring, and so stay ahead until nothing is queued for it any more.
func (s *source) spread() int64 {
	sizes := int64(0)
	for _, m := range s.n.state.Members {
		sizes += s.pipe(m).size
	}
	return 2 * sizes
}
