package cluster

import (
	"fmt"

	"flotilla/wire"
)

// recopyVolume begins a volume's first copy anew. The volume leaves the recovery points until that is whole: what is
// committed already and what is on its way reach the new target, which is inconsistent meanwhile. The primary's incarnation
// ends, because what its marks say of the volume's copy is of the old target; the next one, which is attached later, copies.
func (s *State) recopyVolume(index uint64, c *RecopyVolume) error {
	g, v := s.Volume(c.Volume)
	switch {
	case v == nil:
		return fmt.Errorf("recopy volume: there is no volume %d", c.Volume)
	case g.Phase != Replicating:
		return fmt.Errorf("recopy volume %q: group %q is %s: delete the volume and make it anew", v.Name, g.Name, g.Phase)
	case v.Removed != nil:
		return fmt.Errorf("recopy volume %q: its primary was taken out of group %q: delete the volume and make it anew", v.Name, g.Name)
	}
	v.CopiedAt, v.Copy = 0, index
	v.InPlace, v.Seeded = false, false // of the old target
	for _, inc := range g.Incs {
		if inc.Primary == v.Primary {
			inc.Ended = true
		}
	}
	return nil
}

// Says reports whether what an incarnation says of the volume's copy is of its present target.
func (v *Volume) Says(inc wire.Incarnation) bool { return uint64(inc) > v.Copy }

// Copies returns the Copy of each volume, nil where all are 0.
func (g *Group) Copies(volumes []wire.VolumeID) []uint64 {
	var out []uint64
	for i, id := range volumes {
		if v := g.Volumes[id]; v != nil && v.Copy != 0 {
			if out == nil {
				out = make([]uint64, len(volumes))
			}
			out[i] = v.Copy
		}
	}
	return out
}

// copied takes in which first copies are whole, unless they were begun anew since that was said.
func (g *Group) copied(c *Commit) {
	for i, id := range c.Copied {
		said := uint64(0)
		if i < len(c.Copies) {
			said = c.Copies[i]
		}
		if v := g.Volumes[id]; v != nil && v.CopiedAt == 0 && v.Removed == nil && v.Copy == said {
			v.CopiedAt, v.InPlace = c.UpTo, false
		}
	}
}
