package cluster

import (
	"fmt"

	"flotilla/wire"
)

// A volume grows in two commands. ResizeVolume says what is wanted, and from there on updates up to that size are taken.
// Nothing else changes: Size is what clients are offered, and what a promote serves. The primary makes the new range zero on
// its source, numbers zeroes for it, and waits until these are applied. Only then it proposes GrowVolume, and offers the new
// size once that is in the state. So every recovery point that may still be chosen when Size has risen has the new range,
// as zeroes and what was written there since; and at none from before was there anything to be lost in it.

// SizeUnit is what the size of a volume that has grown is a multiple of, in bytes.
const SizeUnit = 4096

func (s *State) resizeVolume(c *ResizeVolume) error {
	g, v := s.Volume(c.Volume)
	if v == nil {
		return fmt.Errorf("resize volume: there is no volume %d", c.Volume)
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("resize volume %q of group %q: %s", v.Name, g.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case g.Phase != Replicating:
		return fail("the group is %s and replicates nothing: replicate the volume anew first, and resize it then", g.Phase)
	case v.Removed != nil:
		return fail("its primary was taken out of the group: delete the volume and make it anew, in its new size")
	case c.Size == v.Size && v.Grow == 0:
		return nil // asked for twice
	case c.Size <= v.Size && v.Grow != 0, c.Size < v.Grow:
		return fail("it is growing to %d bytes, and that is not taken back: choose at least as many", v.Grow)
	case c.Size < v.Size:
		return fail("it has %d bytes and can not shrink to %d: what is above may be in use: make a smaller volume and copy into it what is to stay", v.Size, c.Size)
	case c.Size%SizeUnit != 0:
		return fail("a size of %d bytes is no multiple of %d: choose %d", c.Size, SizeUnit, c.Size/SizeUnit*SizeUnit)
	case v.BitmapAtEnd:
		return fail("its bitmap lies at the end of the source and can not be moved: delete the volume and make it anew in its new size, with --bitmap-at-end and --seeded")
	}
	v.Grow = c.Size
	return nil
}

// growVolume makes the wanted size the volume's, unless another is wanted by now.
func (s *State) growVolume(c *GrowVolume) {
	g, v := s.Volume(c.Volume)
	if v == nil || g.Phase != Replicating || v.Removed != nil || v.Grow == 0 || v.Grow != c.Size {
		return
	}
	v.Size, v.Grow = v.Grow, 0
}

// Reach returns the end of what updates of the volume may change, in bytes: its size, or the one to which it grows.
func (v *Volume) Reach() int64 { return max(v.Size, v.Grow) }

// stopGrowing ends the growth of volumes that a promote has overtaken: nobody was offered more than Size. While it is under
// way, updates above Size may still have to be brought from one component to another, and applied.
func (g *Group) stopGrowing() {
	for _, v := range g.Volumes {
		v.Grow = 0
	}
}

// Growing lists the volumes that wait for their new size, ascending.
func (g *Group) Growing() (out []wire.VolumeID) {
	for _, id := range SortedKeys(g.Volumes) {
		if v := g.Volumes[id]; v.Grow != 0 && v.Removed == nil {
			out = append(out, id)
		}
	}
	return out
}
