package primary

import (
	"time"

	"flotilla/agent/core"
)

// tellNeed tells the node how much the next incarnation would copy to volumes that have recovery points: a chain, which
// begins only where the journals have room for it. It is an upper bound: holes and what compresses take less.
func (g *group) tellNeed() {
	g.p.loop.Do(func(n *core.Node, now time.Duration) { n.SetNeed(now, g.id, g.need(n)) })
}

// need runs in the loop.
func (g *group) need(n *core.Node) (bytes int64) {
	grp := n.State().Groups[g.id]
	if grp == nil {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, v := range g.volumes {
		if w := grp.Volumes[v.id]; w != nil && w.CopiedAt != 0 && w.Removed == nil {
			bytes += min(v.marks.resyncs(), v.size())
		}
	}
	return bytes
}
