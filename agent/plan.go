package agent

import (
	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// planOf says, on the captain, what promoting a group now would come to. It is a bound: sets that are complete and
// not yet committed make the outcome better.
func planOf(n *core.Node, g *cluster.Group) *api.Plan {
	b := &statusBuilder{st: n.State(), heard: n.Heard(), now: n.Label()}
	newest := newestPoint(g)
	p := &api.Plan{
		Group: g.Name, Phase: g.Phase.String(), Prefix: g.PrefixCounts(), Point: pointOf(newest),
		LostKnown: true, Uncopied: []string{}, Torn: g.Torn, Doubted: g.Doubted(), Degraded: degradedOf(g),
	}
	if g.Phase != cluster.Replicating {
		p.LostKnown, p.LostUpdates, p.LostBytes = g.Outcome.Known, g.Outcome.Updates, g.Outcome.Bytes
		if g.Point.Set != 0 {
			p.LostSeconds = seconds(g.PromoteLabel - g.Point.Label)
		}
	} else {
		for _, primary := range g.Primaries() {
			updates, bytes, known := b.atRisk(g, primary)
			p.LostUpdates += updates
			p.LostBytes += bytes
			p.LostKnown = p.LostKnown && known
		}
		if p.Point != nil && p.LostUpdates > 0 {
			p.LostSeconds = seconds(b.now - newest.Label)
		}
	}
	if p.Point != nil {
		p.AgeSeconds = seconds(b.now - newest.Label)
	}
	for _, id := range cluster.SortedKeys(g.Volumes) {
		if v := g.Volumes[id]; v.CopiedAt == 0 && v.Removed == nil {
			p.Uncopied = append(p.Uncopied, v.Name)
		}
	}
	return p
}

// atRisk returns how much of what a primary has numbered would not be in the point: what is not held where a prefix
// counts, otherwise what is above the newest committed cut. known is false when the captain has not heard of the primary
// in its newest incarnation.
func (b *statusBuilder) atRisk(g *cluster.Group, primary wire.AgentID) (updates, bytes int64, known bool) {
	inc := g.IncAt(primary, g.Granted)
	gs := b.groupStatus(g, primary)
	if inc == nil {
		return 0, 0, gs != nil // it never wrote
	}
	if gs == nil || gs.Inc != inc.ID {
		return 0, 0, false
	}
	kept := inc.CommittedSeq
	if g.PrefixCounts() && inc.Whole != 0 {
		kept = max(kept, gs.HeldUpTo)
	}
	if gs.Seq <= kept {
		return 0, 0, true
	}
	updates = int64(gs.Seq - kept)
	return updates, int64(float64(gs.Bytes) / float64(gs.Seq) * float64(updates)), true
}
