package cluster

import (
	"fmt"
	"slices"

	"flotilla/wire"
)

// Removal says that a volume's primary was taken out of the group. What was committed until then still reaches the
// target, and nothing after it; so the target stands at Point, or at none.
type Removal struct {
	Point RecoveryPoint // the newest one committed; of set 0 when there was none
	Torn  bool          // a set was lost while it was being applied: the target stands at no point
}

// Done reports whether the target of a removed volume has got all that it will ever get.
func (g *Group) Done(v *Volume) bool { return v.Removed != nil && g.Applied >= v.Removed.Point.Set }

// Usable reports whether the target of a removed volume is, or will be, at the point that its Removal names.
func (v *Volume) Usable() bool {
	return v.Removed != nil && !v.Removed.Torn && v.Copied(v.Removed.Point.Set)
}

// removePrimary takes the volumes of a primary out of their group, so that the recovery points of the others go on
// without it. Its incarnations are sealed at the newest committed set, not at what is held: the removed targets stay at a
// point that they share with the rest of the group.
func (s *State) removePrimary(c *RemovePrimary) error {
	g := s.Groups[c.Group]
	if g == nil {
		return fmt.Errorf("remove primary: there is no group %d", c.Group)
	}
	name := fmt.Sprintf("agent %d", c.Primary)
	if a := s.Agents[c.Primary]; a != nil {
		name = fmt.Sprintf("agent %q", a.Name)
	}
	primaries := g.Primaries()
	switch {
	case !slices.Contains(primaries, c.Primary):
		return fmt.Errorf("remove primary from group %q: %s has no volumes in it that are replicated", g.Name, name)
	case g.Phase != Replicating:
		return fmt.Errorf("remove primary from group %q: the group is %s", g.Name, g.Phase)
	case len(primaries) == 1:
		return fmt.Errorf("remove primary from group %q: %s is its only one: promote the group, or delete its volumes", g.Name, name)
	case g.Mode == Sync && !c.Force:
		return fmt.Errorf("remove primary from group %q: the group is sync, and what %s was told is safe above the newest recovery point would be dropped from its targets: promote the group instead, or use --force", g.Name, name)
	}
	point := RecoveryPoint{}
	if n := len(g.Points); n > 0 {
		point = g.Points[n-1]
	} else if g.Point.Set != 0 {
		point = g.Point
	}
	point.Set = g.Committed // above Point after sets were given up: then nothing of them is there
	for _, v := range g.Volumes {
		if v.Primary == c.Primary && v.Removed == nil {
			v.Removed = &Removal{Point: point, Torn: g.Torn}
		}
	}
	for _, inc := range g.Incs {
		if inc.Primary == c.Primary {
			inc.cut(g.Committed)
		}
	}
	g.voidGranted()
	return nil
}

// cut ends an incarnation with a committed set. What it has above that counts for nothing.
func (inc *Incarnation) cut(committed wire.Set) {
	inc.Ended, inc.Doubted = true, 0
	if inc.Sealed && inc.Last <= committed {
		return
	}
	inc.Sealed, inc.Seal, inc.Marked, inc.Last = true, inc.CommittedSeq, true, committed
}

// tearRemoved notes that committed sets were given up before the targets of removed volumes had them.
func (g *Group) tearRemoved() {
	for _, v := range g.Volumes {
		if v.Removed != nil && v.Removed.Point.Set > g.Applied {
			v.Removed.Torn = v.Removed.Torn || g.ApplyTo > g.Applied
			v.Removed.Point = g.Point
		}
	}
}
