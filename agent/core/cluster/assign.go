package cluster

import (
	"encoding/binary"
	"slices"

	"flotilla/wire"

	"github.com/zeebo/xxh3"
)

// Pair is the owner of a portion and its mirror. Mirror is 0 while the view has no second component (degraded); Owner is
// 0 while it has none at all.
type Pair struct{ Owner, Mirror wire.AgentID }

// Pair returns who is responsible for a portion of an unapplied set in the current view: the assignment that the set was
// granted with, folded over the losses since. Of a lost pair the survivor owns and the next eligible component mirrors;
// where both are gone, the two next take the portion over, without what was lost.
func (s *State) Pair(g *Group, set wire.Set, p wire.Portion) Pair {
	gr := g.Grant(set)
	if gr == nil {
		return Pair{}
	}
	pair := Rendezvous(gr.Members, p)
	for i := range s.Losses {
		l := &s.Losses[i]
		if l.View <= gr.View || l.Agent == 0 {
			continue
		}
		switch l.Agent {
		case pair.Owner:
			pair.Owner = pair.Mirror
			if pair.Owner == 0 {
				pair.Owner = next(l.Members, p, 0)
			}
			pair.Mirror = next(l.Members, p, pair.Owner)
		case pair.Mirror:
			pair.Mirror = next(l.Members, p, pair.Owner)
		}
	}
	// Whoever joins a view that had no other component for it takes the second copy at once.
	if pair.Owner == 0 {
		pair.Owner = next(s.Eligible(), p, 0)
	}
	if pair.Mirror == 0 {
		pair.Mirror = next(s.Eligible(), p, pair.Owner)
	}
	return pair
}

// mayAssign reports whether Pair may name a component for some portion of a grant's sets.
func (s *State) mayAssign(gr *Grant, a wire.AgentID) bool {
	if slices.Contains(gr.Members, a) || slices.Contains(s.Eligible(), a) {
		return true
	}
	return slices.ContainsFunc(s.Losses, func(l Loss) bool {
		return l.View > gr.View && l.Agent != 0 && slices.Contains(l.Members, a)
	})
}

// Rendezvous gives a portion to the two components with the highest hash of (portion, component): on a change of the
// members only the portions of who came or went move.
func Rendezvous(members []wire.AgentID, p wire.Portion) Pair {
	owner := next(members, p, 0)
	return Pair{Owner: owner, Mirror: next(members, p, owner)}
}

// next returns the member with the highest score for p that is not the excluded one, or 0.
func next(members []wire.AgentID, p wire.Portion, exclude wire.AgentID) wire.AgentID {
	var best wire.AgentID
	var high uint64
	for _, m := range members {
		if m == exclude {
			continue
		}
		if sc := score(p, m); best == 0 || sc > high || (sc == high && m > best) {
			best, high = m, sc
		}
	}
	return best
}

func score(p wire.Portion, m wire.AgentID) uint64 {
	var key [16]byte
	binary.LittleEndian.PutUint32(key[0:], uint32(p.Volume))
	binary.LittleEndian.PutUint32(key[4:], p.Index)
	binary.LittleEndian.PutUint64(key[8:], uint64(m))
	return xxh3.Hash(key[:])
}

// pruneLosses drops the losses that no unapplied set is older than.
func (s *State) pruneLosses() {
	oldest := s.View
	for _, g := range s.Groups {
		if len(g.Grants) > 0 {
			oldest = min(oldest, g.Grants[0].View)
		}
	}
	s.Losses = slices.DeleteFunc(s.Losses, func(l Loss) bool { return l.View <= oldest })
}
