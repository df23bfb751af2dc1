package cluster

import (
	"fmt"

	"flotilla/wire"
)

// A resync is a chain, which the journals must hold whole, or the operator allows it to be what a first copy is: applied in
// place, set by set. Its volumes leave the recovery points until it is whole; those of other primaries stay in them.

// allowInconsistent takes the volumes whose resync waits or is under way out of the recovery points.
func (s *State) allowInconsistent(c *AllowInconsistent) error {
	g := s.Groups[c.Group]
	if g == nil {
		return fmt.Errorf("allow inconsistent: there is no group %d", c.Group)
	}
	if g.Phase != Replicating {
		return fmt.Errorf("allow inconsistent targets in group %q: the group is %s", g.Name, g.Phase)
	}
	vs := g.Resyncing()
	if len(vs) == 0 {
		return fmt.Errorf("allow inconsistent targets in group %q: no resync of it waits or is under way", g.Name)
	}
	for _, v := range vs {
		g.Volumes[v].CopiedAt, g.Volumes[v].InPlace = 0, true
	}
	return nil
}

// Resyncing lists the volumes that belong to the recovery points and keep them from advancing, because their primary is not
// attached or its resync is not whole, ascending.
func (g *Group) Resyncing() []wire.VolumeID {
	var vs []wire.VolumeID
	for _, id := range SortedKeys(g.Volumes) {
		v := g.Volumes[id]
		if v.CopiedAt == 0 || v.Removed != nil {
			continue
		}
		if inc := g.Live(v.Primary); inc == nil || inc.Whole == 0 {
			vs = append(vs, id)
		}
	}
	return vs
}
