package primary

import (
	"flotilla/agent/core"
	"flotilla/wire"
)

// removedVolume is a volume of this agent's that was taken out of its group: it is neither served nor replicated here, as
// if it were deleted.
type removedVolume struct {
	group wire.GroupID
	id    wire.VolumeID
	name  string
	path  string
}

// removed lists them.
func removed(n *core.Node) []removedVolume {
	st := n.State()
	var out []removedVolume
	for _, gid := range sortedGroups(st) {
		g := st.Groups[gid]
		for _, vid := range sortedVolumes(g) {
			if v := g.Volumes[vid]; v.Primary == n.ID() && v.Removed != nil {
				out = append(out, removedVolume{gid, vid, g.Name + "/" + v.Name, v.Source})
			}
		}
	}
	return out
}

// tellRemoved says it once in each run of the agent. Only the watcher calls it.
func (p *Primary) tellRemoved(volumes []removedVolume) {
	for _, v := range volumes {
		if !p.toldRemoved[v.id] {
			p.toldRemoved[v.id] = true
			p.event(v.group, "volume.removed", "volume", v.name, "path", v.path,
				"remedy", "it is neither served nor replicated: delete the volume, and create it anew to protect it again")
		}
	}
}
