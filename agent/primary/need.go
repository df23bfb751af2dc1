package primary

import (
	"time"

	"flotilla/agent/core"
)

// tellNeed tells the node how much the next incarnation would copy to volumes that have recovery points: a chain, which
// begins only where the journals have room for it. It is an upper bound: holes and what compresses take less. What an earlier
// incarnation has copied is in them already, if it counts; it is waited for until that is known, -1 meanwhile.
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
			by := keptIn(n.State(), grp, n.ID(), w)
			b, known := v.marks.resyncs(&by)
			if !known {
				return -1
			}
			bytes += min(b, v.size())
		}
	}
	return bytes
}
