package cluster

import (
	"slices"

	"flotilla/wire"
)

// agentGap is how many agent numbers a recover leaves out: the majority that is gone may have given some away that the
// survivors have not heard of, and a certificate names its agent by number.
const agentGap = 1000

// Recover begins a new generation of the cluster, in which only the survivors are: a majority of the voters is gone for
// good. It is no command, for there is nobody to agree: the newest survivor's agent does it to its own copy, while it does
// not run (see core.Recover). index is above every index that anybody of the old generation may have used.
//
// Members that are gone are lost, so the view rises; what was acknowledged in a sync group is in doubt, for the last that
// was decided and held may have died with them. When no component survives, what was not applied is given up.
func (s *State) Recover(index, generation uint64, survivors []wire.AgentID) {
	s.Generation = generation
	for _, id := range SortedKeys(s.Agents) {
		if !slices.Contains(survivors, id) {
			s.Agents[id].Behind = true
		}
	}
	for _, id := range SortedKeys(s.Groups) {
		s.Groups[id].doubt()
	}
	view := s.View
	for _, m := range slices.Clone(s.Members) {
		if s.Agents[m].Behind {
			s.lose(index, &Lose{Agent: m, View: s.View})
		}
	}
	if s.View == view {
		s.View++
		s.Losses = append(s.Losses, Loss{View: s.View, Shares: s.Shares()})
	}
	s.MembersAt, s.Settled = index, 0
	if len(s.Members) == 0 {
		for _, id := range SortedKeys(s.Groups) {
			s.Groups[id].giveUp(false)
		}
		s.pruneLosses()
	}
	clear(s.Tokens) // one that was spent may be unspent here
	s.NextAgent += agentGap
}
