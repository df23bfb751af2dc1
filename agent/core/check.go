package core

import (
	"fmt"
	"slices"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// A check is an update of kind check, numbered by a primary under the lock of its range: it takes the way of a write up to
// the owner, which has the secondary compare before it writes the set. What came of it goes straight to the primary, as a
// message that may be lost: a primary that hears nothing asks again with another check. No set waits for a check, and none
// fails by one; nothing is decided here.

// CheckVerdict is what a secondary found.
type CheckVerdict uint8

// The verdicts. The numbers stand in messages.
const (
	CheckSame       CheckVerdict = 1
	CheckDiffers    CheckVerdict = 2
	CheckUnknown    CheckVerdict = 3 // the set may have been written in part before: ask again
	CheckUnreadable CheckVerdict = 4 // the target could not be read there
)

// String names the verdict.
func (v CheckVerdict) String() string {
	switch v {
	case CheckSame:
		return "same"
	case CheckDiffers:
		return "differs"
	case CheckUnknown:
		return "not known"
	case CheckUnreadable:
		return "unreadable"
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

type (
	// Checked tells a primary what came of checks of one volume.
	Checked struct {
		Group   wire.GroupID
		Inc     wire.Incarnation
		Volume  wire.VolumeID
		Results []CheckResult
	}
	// CheckResult is what came of one check.
	CheckResult struct {
		Seq     wire.Seq
		Verdict CheckVerdict
	}
	// CheckProgress is how far a primary has come with its group's check.
	CheckProgress struct {
		Number uint64
		Tally  cluster.CheckTally
	}
)

// maxChecked bounds the results that wait for the shell; what is above is asked again.
const maxChecked = 1 << 16

// ReportChecks tells the primary of a volume, whose target is here, what came of its checks.
func (n *Node) ReportChecks(g wire.GroupID, inc wire.Incarnation, v wire.VolumeID, results []CheckResult) {
	grp := n.state.Groups[g]
	if grp == nil || grp.Volumes[v] == nil || len(results) == 0 {
		return
	}
	n.send(grp.Volumes[v].Primary, &Checked{Group: g, Inc: inc, Volume: v, Results: results})
}

// checkAnswered takes the word of a volume's secondary.
func (s *source) checkAnswered(from wire.AgentID, m *Checked) {
	g := s.n.state.Groups[s.group]
	if g == nil || m.Inc != s.inc || g.Volumes[m.Volume] == nil || g.Volumes[m.Volume].Secondary != from {
		return
	}
	waiting := len(m.Results)
	for _, c := range s.checked {
		waiting += len(c.Results)
	}
	if waiting > maxChecked {
		return
	}
	s.checked = append(s.checked, *m)
	s.n.eff.Wake = true
}

// Unchecked reports whether TakeChecked would return something.
func (n *Node) Unchecked(g wire.GroupID) bool {
	s := n.sources[g]
	return s != nil && len(s.checked) > 0
}

// TakeChecked returns what secondaries have found since it was last called.
func (n *Node) TakeChecked(g wire.GroupID) []Checked {
	s := n.sources[g]
	if s == nil {
		return nil
	}
	out := s.checked
	s.checked = nil
	return out
}

// SetCheck tells the node how far the check of a group's volumes here is, for the captain to show; nil when there is none.
func (n *Node) SetCheck(g wire.GroupID, p *CheckProgress) {
	if s := n.sources[g]; s != nil {
		s.check = p
	}
}

// scheduleCheck begins the check that is due.
func (c *captain) scheduleCheck(g *cluster.Group, w *groupWatch) {
	now := c.n.Label()
	if !g.CheckDue(now) || !slices.ContainsFunc(cluster.SortedKeys(g.Volumes), func(id wire.VolumeID) bool { return g.Checks(0, id) }) {
		return
	}
	if w.once(c.n, "check") {
		c.n.Propose(cluster.Command{StartCheck: &cluster.StartCheck{
			Group: g.ID, Repair: g.CheckRepair, Rate: g.CheckRate, Label: now, Scheduled: true, After: g.LastCheck(),
		}})
	}
}

// Behind reports whether something of a range is to be copied: there the target may differ from the source. The range is
// locked against writes.
func (e *Extents) Behind(off, length int64) bool {
	first, last := e.Range(off, length)
	return slices.ContainsFunc(e.ext[first:last+1], func(x extentState) bool { return x.copy || x.dirty })
}

// Newest returns the newest set with an update of a range's extents, as far as it is still to be applied.
func (e *Extents) Newest(off, length int64) (set wire.Set) {
	first, last := e.Range(off, length)
	for i := first; i <= last; i++ {
		set = max(set, e.ext[i].set)
	}
	return set
}

// NextToCopy returns the first extent from index from on that is to be copied.
func (e *Extents) NextToCopy(from int) (int, bool) {
	for i := from; i < len(e.ext); i++ {
		if e.ext[i].copy {
			return i, true
		}
	}
	return 0, false
}

// Same ends the copy of an extent that the target was found to hold, as of the given set, and reports whether it did: not
// where a write has failed since the copy began. Unlike for Copied, no range needs to be held: a write that has touched the
// extent and is not numbered yet makes it dirty later if it fails.
func (e *Extents) Same(i int, set wire.Set) bool {
	if x := &e.ext[i]; !x.copy || x.dirty {
		return false
	}
	e.Copied(i, set)
	return true
}
