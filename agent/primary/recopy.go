package primary

import (
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// copies returns the numbers of the copies of this agent's volumes that are not their first; nil where there is none.
func copies(n *core.Node, g *cluster.Group) (out map[wire.VolumeID]uint64) {
	for id, v := range g.Volumes {
		if v.Copy != 0 && v.Primary == n.ID() {
			if out == nil {
				out = map[wire.VolumeID]uint64{}
			}
			out[id] = v.Copy
		}
	}
	return out
}

// followCopiesLocked has everything of those volumes copied whose target is another than their bits are of. It comes before
// an incarnation is followed: the one that the state has after a recopy was attached after it, and copies what the bits say.
func (g *group) followCopiesLocked(copies map[wire.VolumeID]uint64) {
	for id, c := range copies {
		if v := g.volumes[id]; v != nil {
			v.marks.recopy(c)
		}
	}
}

// recopy sets all bits, unless they are of this copy already. They need not be durable before anything else: bits of
// another copy count as set, see doc.go.
func (a *activity) recopy(copy uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.copy >= copy {
		return
	}
	a.copy = copy
	a.ext.SetAll() // nothing is kept
	a.kept.inc = 0
	a.redo = true // what is being copied has been read for the other target
	clear(a.onDisk)
	a.touchedLocked(0, a.ext.Len()-1)
}
