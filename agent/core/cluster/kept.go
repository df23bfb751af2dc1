package cluster

import (
	"slices"

	"flotilla/wire"
)

// What an incarnation of a primary wrote before it ended outlives it: up to its seal it is committed, in order, together
// with the first point of a later incarnation of that primary. So a resync need not begin again with each incarnation
// (core.Extents says what of it need not be copied again, and why).
//
//  1. Kept says up to which set that is certain. It looks at what is recorded, and not at what anybody once knew to be
//     held: a seal that a double loss has made shorter keeps less, and what was given up keeps nothing.
//  2. Taken says, of a committed point, which incarnations went into it though they never were whole by themselves. From
//     then on they count as whole, at that point: a promote drops incarnations that are not (dropBroken), and would take
//     committed sets back from under the one that was built on them.

// Kept returns of each ended incarnation of primary p, whose seal is recorded, the last set up to whose end everything that
// it wrote is on the targets or will be, unless the sets are given up after the state was at this index. An incarnation that
// is not in it keeps nothing, or it is not decided yet, see [Group.Undecided].
func (g *Group) Kept(p wire.AgentID) map[wire.Incarnation]wire.Set {
	var kept map[wire.Incarnation]wire.Set
	if g.Phase != Replicating {
		return nil
	}
	for _, inc := range g.Incs {
		// A giving up since it was granted took unapplied sets with it: of which ones it does not matter. A seal at 0 keeps
		// nothing; one in the middle of a set, the sets before that.
		if inc.Primary != p || !inc.Sealed || inc.Seal == 0 || inc.First == 0 || inc.First <= g.GivenUp {
			continue
		}
		last := inc.Last
		if !inc.Marked {
			last--
		}
		if last < inc.First {
			continue
		}
		if kept == nil {
			kept = map[wire.Incarnation]wire.Set{}
		}
		kept[inc.ID] = last
	}
	return kept
}

// Undecided reports whether Kept may still say something of an incarnation of which it says nothing: its end is not
// recorded, or the state is older than the incarnation.
func (s *State) Undecided(g *Group, id wire.Incarnation) bool {
	if inc := g.Inc(id); inc != nil {
		return !inc.Sealed
	}
	return uint64(id)>>8 > s.Index // numbers of incarnations are made of indices
}

// Taken returns the incarnations that a commit up to set n, at whose end primary p is whole, takes in with it.
func (g *Group) Taken(p wire.AgentID, n wire.Set) []*Incarnation {
	at := g.IncAt(p, n)
	var taken []*Incarnation
	for _, inc := range g.Incs {
		if inc.Primary == p && inc != at && inc.Sealed && inc.Whole == 0 && inc.First > g.GivenUp && inc.First <= inc.Last && inc.Last <= n {
			taken = append(taken, inc)
		}
	}
	slices.SortFunc(taken, func(a, b *Incarnation) int { return int(a.Last) - int(b.Last) })
	return taken
}
