package core

import (
	"errors"
	"fmt"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// ErrTargetBusy says that writes of another set or view are still under way on the group's targets, or that this agent
// has not heard yet that the set may be applied: wait and ask again.
var ErrTargetBusy = errors.New("the target can not take writes of this set yet")

// secondary decides whose writes the targets take. Only the set that is being applied, only by members of the view, and
// only when the writes of every other (view, set) have ended.
type secondary struct {
	n      *Node
	flying map[wire.GroupID]*targetWrites
}

type targetWrites struct {
	view  wire.View
	set   wire.Set
	count int
}

func newSecondary(n *Node) *secondary {
	return &secondary{n: n, flying: map[wire.GroupID]*targetWrites{}}
}

// BeginApply asks whether a member's writes to targets here may begin. After nil, EndApply must follow. ErrTargetBusy
// means that the caller should wait; any other error refuses.
func (n *Node) BeginApply(from wire.AgentID, g wire.GroupID, view wire.View, set wire.Set) error {
	st := n.state
	grp := st.Groups[g]
	switch {
	case grp == nil:
		return fmt.Errorf("apply: there is no group %d", g)
	case n.mutant("target-takes-all"), n.mutant("two-sets-at-once"):
		return nil
	case view > st.View || (view == st.View && (set > grp.ApplyTo || set > grp.Applied+1) && grp.Phase != cluster.Promoted):
		return ErrTargetBusy // this agent is a little behind the sender
	case view != st.View:
		return fmt.Errorf("apply set %d of group %q: it is of view %d, and this is view %d", set, grp.Name, view, st.View)
	case !st.IsMember(from):
		return fmt.Errorf("apply set %d of group %q: agent %d is no member of view %d", set, grp.Name, from, st.View)
	case grp.Phase == cluster.Promoted:
		return fmt.Errorf("apply set %d of group %q: the group is promoted", set, grp.Name)
	case set != grp.Applied+1 || set > grp.ApplyTo:
		return fmt.Errorf("apply set %d of group %q: sets up to %d are applied and up to %d may be", set, grp.Name, grp.Applied, grp.ApplyTo)
	}
	w := n.secondary.flying[g]
	if w == nil {
		w = &targetWrites{}
		n.secondary.flying[g] = w
	}
	if w.count > 0 && (w.view != view || w.set != set) {
		return ErrTargetBusy
	}
	w.view, w.set = view, set
	w.count++
	return nil
}

// EndApply ends what BeginApply began.
func (n *Node) EndApply(g wire.GroupID) {
	if w := n.secondary.flying[g]; w != nil && w.count > 0 {
		w.count--
		n.eff.Wake = true
	}
}

// Quiet reports whether no write to a group's targets is under way here: only then may a promoted target be served.
func (n *Node) Quiet(g wire.GroupID) bool {
	w := n.secondary.flying[g]
	return w == nil || w.count == 0
}
