package cluster

import (
	"slices"

	"flotilla/wire"
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
	owner := gr.owner(p)
	mirror := gr.mirror(p, owner, gr.Targets)
	for i := range s.Losses {
		l := &s.Losses[i]
		if l.View <= gr.View || l.Agent == 0 {
			continue
		}
		switch l.Agent {
		case owner.agent:
			owner = mirror
			if owner.agent == 0 {
				owner = l.owner(p)
			}
			mirror = l.mirror(p, owner, gr.Targets)
		case mirror.agent:
			mirror = l.mirror(p, owner, gr.Targets)
		}
	}
	// Whoever joins a view that had no other component for it takes the second copy at once.
	if owner.agent == 0 || mirror.agent == 0 {
		now := s.unweighed()
		if owner.agent == 0 {
			owner = now.owner(p)
		}
		mirror = now.mirror(p, owner, gr.Targets)
	}
	return Pair{Owner: owner.agent, Mirror: mirror.agent}
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
