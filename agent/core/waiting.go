package core

import (
	"fmt"
	"strings"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// Waiting says, on the captain, what the oldest set that is not applied waits for: the first question when a group's
// recovery point stands still. It is empty when nothing is waited for.
func (n *Node) Waiting(id wire.GroupID) string {
	g := n.state.Groups[id]
	if n.captain == nil || g == nil || g.Phase == cluster.Promoted {
		return ""
	}
	w := n.captain.watch(id)
	chain := ""
	for set := g.Applied + 1; set <= g.Granted; set++ {
		why := n.incomplete(g, w, set)
		if len(why) == 0 && set > g.Committed {
			if why = n.noPoint(g, set); len(why) > 0 {
				if chain == "" {
					chain = fmt.Sprintf("set %d is no recovery point: %s", set, strings.Join(why, "; "))
				}
				continue // it is committed with a later one
			}
		}
		if len(why) > 0 {
			if chain != "" {
				chain += "; "
			}
			return chain + fmt.Sprintf("set %d: %s", set, strings.Join(why, "; "))
		}
		if set > g.Committed {
			break
		}
	}
	return chain
}

// incomplete says what is missing of a set.
func (n *Node) incomplete(g *cluster.Group, w *groupWatch, set wire.Set) (why []string) {
	for _, inc := range g.Grant(set).Incs {
		i := g.Inc(inc)
		if i == nil || !i.Contributes(set) {
			continue
		}
		d := w.done[incSet{g.ID, set, inc}]
		switch {
		case i.Ended && !i.Sealed:
			why = append(why, fmt.Sprintf("incarnation %d of %s is not sealed yet", inc, n.nameOf(i.Primary)))
		case (d == nil || d.view != n.state.View) && !i.Ended && !n.captain.hears(i.Primary, n.cfg.LossAfter):
			why = append(why, fmt.Sprintf("primary %s is not heard, and may have written to it", n.nameOf(i.Primary)))
		case d == nil || d.view != n.state.View:
			owner := n.state.Pair(g, set, wire.MarkPortion(i.Primary)).Owner
			why = append(why, fmt.Sprintf("%s has not said that what %s wrote is complete", n.nameOf(owner), n.nameOf(i.Primary)))
		case set <= g.ApplyTo && !d.written:
			why = append(why, fmt.Sprintf("what %s wrote is not yet on the targets", n.nameOf(i.Primary)))
		}
	}
	return why
}

// noPoint says why the end of a set is no recovery point.
func (n *Node) noPoint(g *cluster.Group, set wire.Set) (why []string) {
	if cut, decided := g.Verdict(set); !decided {
		why = append(why, "nobody has said whether its end is a cut")
	} else if !cut {
		why = append(why, "its end is no cut")
	}
	for _, p := range g.Primaries() {
		if !g.WholeAt(p, set, nil, nil) {
			state := "it resyncs"
			if !n.captain.hears(p, n.cfg.LossAfter) {
				state = "it is not heard"
			}
			why = append(why, fmt.Sprintf("primary %s is not whole: %s", n.nameOf(p), state))
		}
	}
	return why
}

// nameOf returns an agent's name, or its number when the state has no such agent.
func (n *Node) nameOf(id wire.AgentID) string {
	if a := n.state.Agents[id]; a != nil {
		return a.Name
	}
	return fmt.Sprintf("agent %d", id)
}
