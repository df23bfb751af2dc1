package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"flotilla/wire"
)

// A check of a group compares its targets with its sources while both are in use. What is to be done stands here, so that
// it survives everybody; each primary does its part for its own volumes, and records what came of it when it has ended.
// A primary that restarts meanwhile does its part from the beginning.

// Limits of checks.
const (
	// MinCheckEvery is the shortest time between two scheduled checks, in seconds.
	MinCheckEvery = 60
	// MaxCheckEvery is the longest: ten years, in seconds.
	MaxCheckEvery = 10 * 366 * 24 * 3600
	// MinCheckRate is the lowest rate of a check, in bytes a second.
	MinCheckRate = 64 << 10
	// MaxCheckFound bounds the differing ranges that a primary names.
	MaxCheckFound = 64
)

type (
	// Check is one check of a group.
	Check struct {
		Number    uint64        // 1, 2, 3 … in the group
		Volume    wire.VolumeID `cbor:",omitempty"` // the only one, 0 for all that there were
		Repair    bool          `cbor:",omitempty"` // what differs is copied
		Rate      int64         `cbor:",omitempty"` // bytes a second that each primary reads, 0 for its default
		Label     int64         // when it began
		Scheduled bool          `cbor:",omitempty"`
		Stopped   bool          `cbor:",omitempty"`
		Parts     []CheckPart   // of each primary, ascending
	}
	// CheckPart is a primary's part in a check.
	CheckPart struct {
		Primary wire.AgentID
		Ended   bool
		Tally   CheckTally // once it has ended
	}
	// CheckTally counts a primary's part in bytes.
	CheckTally struct {
		Total     int64
		Done      int64        // compared, or given up as Unknown
		Differing int64        // found to differ, or unreadable
		Repaired  int64        // of these, found the same after they were copied
		Unknown   int64        // no answer was to be had
		Found     []CheckFound `cbor:",omitempty"` // the first MaxCheckFound ranges that differ
	}
	// CheckFound is a range of a target that is not what its source was at that point.
	CheckFound struct {
		Volume     wire.VolumeID
		Offset     uint64
		Length     uint64
		Set        wire.Set
		Unreadable bool `cbor:",omitempty"`
		Repaired   bool `cbor:",omitempty"`
	}
	// CheckSchedule is when a group is checked by itself, and how.
	CheckSchedule struct {
		CheckEvery  int64 `cbor:",omitempty"` // seconds from the beginning of one to the next, 0 for never
		CheckRepair bool  `cbor:",omitempty"`
		CheckRate   int64 `cbor:",omitempty"` // see Check.Rate
	}
	// StartCheck begins a check; one that is under way is stopped by it.
	StartCheck struct {
		Group     wire.GroupID
		Volume    wire.VolumeID `cbor:",omitempty"`
		Repair    bool          `cbor:",omitempty"`
		Rate      int64         `cbor:",omitempty"`
		Label     int64
		Scheduled bool   `cbor:",omitempty"`
		After     uint64 `cbor:",omitempty"` // Scheduled: the newest check that the captain saw
	}
	// StopCheck ends a group's check.
	StopCheck struct{ Group wire.GroupID }
	// EndCheck records that a primary has done its part.
	EndCheck struct {
		Group   wire.GroupID
		Number  uint64
		Primary wire.AgentID
		Tally   CheckTally
	}
)

func (c CheckSchedule) validate() error {
	if c.CheckEvery != 0 && (c.CheckEvery < MinCheckEvery || c.CheckEvery > MaxCheckEvery) {
		return fmt.Errorf("a check every %v is outside of %v … 10 years", time.Duration(c.CheckEvery)*time.Second, MinCheckEvery*time.Second)
	}
	return validCheckRate(c.CheckRate)
}

func validCheckRate(rate int64) error {
	if rate != 0 && rate < MinCheckRate {
		return fmt.Errorf("a check's rate of %d bytes a second is below %d", rate, MinCheckRate)
	}
	return nil
}

// Checks reports whether a check of one volume, or of all for 0, has volume id of the group to compare.
func (g *Group) Checks(only, id wire.VolumeID) bool {
	v := g.Volumes[id]
	return v != nil && v.Removed == nil && (only == 0 || only == id)
}

func (s *State) startCheck(c *StartCheck) (uint64, error) {
	g := s.Groups[c.Group]
	switch {
	case g == nil:
		return 0, fmt.Errorf("check: there is no group %d", c.Group)
	case c.Scheduled && (c.After != g.LastCheck() || !g.CheckDue(c.Label)):
		return 0, nil // it has begun
	case g.Phase != Replicating:
		return 0, fmt.Errorf("check group %q: it is %s: only what is replicated can be compared", g.Name, g.Phase)
	}
	if err := validCheckRate(c.Rate); err != nil {
		return 0, fmt.Errorf("check group %q: %w", g.Name, err)
	}
	n := &Check{Number: g.LastCheck() + 1, Volume: c.Volume, Repair: c.Repair, Rate: c.Rate, Label: c.Label, Scheduled: c.Scheduled}
	for _, id := range SortedKeys(g.Volumes) {
		if p := g.Volumes[id].Primary; g.Checks(c.Volume, id) && n.part(p) == nil {
			n.Parts = append(n.Parts, CheckPart{Primary: p})
		}
	}
	if len(n.Parts) == 0 {
		return 0, fmt.Errorf("check group %q: it has no such volume that is replicated", g.Name)
	}
	slices.SortFunc(n.Parts, func(a, b CheckPart) int { return cmp.Compare(a.Primary, b.Primary) })
	g.Check = n
	return n.Number, nil
}

func (s *State) stopCheck(c *StopCheck) error {
	g := s.Groups[c.Group]
	switch {
	case g == nil:
		return fmt.Errorf("stop check: there is no group %d", c.Group)
	case !g.Checking():
		return fmt.Errorf("stop check: group %q is not being checked", g.Name)
	}
	g.Check.Stopped = true
	return nil
}

func (g *Group) endCheck(c *EndCheck) {
	if !g.Checking() || g.Check.Number != c.Number || len(c.Tally.Found) > MaxCheckFound {
		return
	}
	if p := g.Check.part(c.Primary); p != nil && !p.Ended {
		p.Ended, p.Tally = true, c.Tally
	}
}

func (c *Check) part(p wire.AgentID) *CheckPart {
	for i := range c.Parts {
		if c.Parts[i].Primary == p {
			return &c.Parts[i]
		}
	}
	return nil
}

// LastCheck returns the number of the newest check, 0 for none.
func (g *Group) LastCheck() uint64 {
	if g.Check == nil {
		return 0
	}
	return g.Check.Number
}

// Checking reports whether a check is under way: a primary that still has volumes in the group has not ended its part.
func (g *Group) Checking() bool {
	if g.Check == nil || g.Check.Stopped || g.Phase != Replicating {
		return false
	}
	primaries := g.Primaries()
	return slices.ContainsFunc(g.Check.Parts, func(p CheckPart) bool { return !p.Ended && slices.Contains(primaries, p.Primary) })
}

// CheckFor returns the check in which primary p has something to do, or nil.
func (g *Group) CheckFor(p wire.AgentID) *Check {
	if g.Check == nil || g.Check.Stopped || g.Phase != Replicating {
		return nil
	}
	if part := g.Check.part(p); part == nil || part.Ended {
		return nil
	}
	return g.Check
}

// CheckDue reports whether a scheduled check is to begin at a label. The labels of a new captain may be a little behind
// those of the one before; a check is then that much late.
func (g *Group) CheckDue(label int64) bool {
	if g.CheckEvery == 0 || g.Phase != Replicating || g.Checking() {
		return false
	}
	return g.Check == nil || label-g.Check.Label >= g.CheckEvery*int64(time.Second)
}
