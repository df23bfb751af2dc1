package sim

import (
	"fmt"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// rolled is the content of all volumes of a group after a roll-forward.
type rolled struct {
	im      image
	blocks  []uint64 // of im, of all volumes
	holders []uint64 // of each block: who holds the update that it comes from, 0 when that was on the target before
}

// checkRoll rolls the targets forward from recovery point to recovery point with what the members' journals hold, without
// one of them if it is named, and compares at each. The order of updates is that of (set, incarnation, seq), so the frames of
// a set may be taken in any order. It returns who alone holds what some block's content comes from, and false when there is
// nothing to roll.
func (o *groupOracle) checkRoll(st *cluster.State, g *cluster.Group, points []wire.Set, without wire.AgentID) (alone uint64, ok bool) {
	w := o.w
	if len(points) == 0 || w.failure != nil {
		return 0, false
	}
	last := points[len(points)-1]
	o.resetRoll(w.power)
	var members []*host
	mask := uint64(0)
	for _, m := range st.Members {
		if h := w.host(m); m != without && !h.journal.lost {
			members = append(members, h)
			mask |= h.holder()
		}
	}
	o.look(g)
	sets, ok := o.stock.heldBy(mask, last)
	what := "P1"
	if without != 0 {
		what = fmt.Sprintf("P2 without component %d", without)
	}
	if !ok {
		sets = o.foldJournals(g, members, last)
	}
	want := replay{o: o, g: g, cursors: map[wire.Incarnation]*cursor{}}
	for _, n := range points {
		if without == 0 {
			w.stats.Points++
		}
		for len(sets) > 0 && sets[0].set <= n {
			for _, x := range sets[0].writes {
				o.roll.blocks[x.block], o.roll.holders[x.block] = x.value, x.holders&mask
			}
			sets = sets[1:]
		}
		o.compare(what, g, n, o.roll.im, want.to(n))
		if w.failure != nil {
			break
		}
	}
	for _, holders := range o.roll.holders {
		alone |= sole(holders)
	}
	return alone, true
}

// resetRoll takes the targets as they read, after a power cut when durable is set.
func (o *groupOracle) resetRoll(durable bool) {
	if o.roll.im == nil {
		o.roll = rolled{blocks: make([]uint64, o.blocks), holders: make([]uint64, o.blocks)}
		o.roll.im = o.imageOf(o.roll.blocks)
	}
	clear(o.roll.holders)
	for _, h := range o.w.hosts {
		for id, d := range h.targets {
			im, now := o.roll.im[id], d.now
			if durable {
				now = d.durable
			}
			copy(im, now) // of another group's volume there is none
		}
	}
}
