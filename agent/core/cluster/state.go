// Package cluster is the control state that Raft replicates to every agent: who belongs to the cluster, the view, the
// groups with their volumes, incarnations, grants and verdicts, and how far each group's sets are committed and applied.
//
// It is a pure state machine. [State.Apply] takes one [Command] with its Raft index and changes the state; the same
// commands in the same order give the same state everywhere. It reads no clock: times are labels that the captain put
// into the command. Commands that were decided in an older view, or that come twice, change nothing, so a captain may
// repeat itself and a deposed captain does no harm.
package cluster

import (
	"cmp"
	"slices"

	"flotilla/wire"
)

// FormatVersion is the version of the encoded State and Command. A decoder refuses what is newer.
const FormatVersion = 1

// State is the whole replicated state. Maps are keyed by number; nothing in it points into another part.
type State struct {
	Version int
	Cluster string // the cluster's ID in hexadecimal digits
	Index   uint64 // Raft index of the last command applied
	// Generation counts the recoveries from the loss of a majority. Agents talk to none of another generation.
	Generation uint64 `cbor:",omitempty"`

	View    wire.View
	Members []wire.AgentID // components of the view, ascending
	// Settled is the newest view in which everything that was held is known to be held again; the members are as they
	// were at Raft index MembersAt.
	Settled   wire.View
	MembersAt uint64
	SealedAt  uint64 `cbor:",omitempty"` // in older snapshots; means nothing any more
	Losses    []Loss // rises of the view that assignments of unapplied sets are folded over, ascending by View

	Agents map[wire.AgentID]*Agent
	Groups map[wire.GroupID]*Group
	Tokens map[string]*Token // by the hexadecimal SHA-256 of their secret

	NextAgent  wire.AgentID
	NextGroup  wire.GroupID
	NextVolume wire.VolumeID
}

// Agent is one daemon and the roles that it may play.
type Agent struct {
	ID        wire.AgentID
	Name      string
	Address   string // host:port at which all others reach it
	Primary   bool
	Backup    bool
	Secondary bool
	Life      uint64 // Raft index of its last admission as a component; 0 while it is not one
	Lost      bool   // declared lost as a component; it comes back only as new, with another Life
	Drain     bool   // it is to leave as a component, or has left: no new set is assigned to it
	Domain    string `cbor:",omitempty"` // failure domain that it is in, such as its site; "" when nobody has said
	// Weight is its part in the portions in relation to others', 0 for NominalWeight. The captain measures it unless an
	// operator has fixed it.
	Weight      uint8  `cbor:",omitempty"`
	WeightFixed bool   `cbor:",omitempty"`
	Serial      string // serial of its certificate, for revocation
	// Behind says that a generation began without it. It does not come back but as another agent.
	Behind bool `cbor:",omitempty"`
	// ComponentAddress is where other components reach it for what goes between components; empty when at Address, too.
	ComponentAddress string `cbor:",omitempty"`
}

// Token admits one agent, once.
type Token struct {
	Expires int64 // label: nanoseconds on the captain's clock
	Spent   bool
}

// Loss is one rise of the view.
type Loss struct {
	View   wire.View
	Agent  wire.AgentID // the component that was lost, 0 when the view rose for a promote
	Shares              // of the members after it
}

// Mode is what an acknowledgement to the application means (P3).
type Mode uint8

// The modes of a group.
const (
	Async Mode = 1 // written to the source device
	Sync  Mode = 2 // also held, and so are all lower seqs of that primary
)

// String returns "async" or "sync".
func (m Mode) String() string {
	switch m {
	case Async:
		return "async"
	case Sync:
		return "sync"
	}
	return "unknown"
}

// ParseMode reads "async" or "sync".
func ParseMode(s string) (Mode, bool) {
	switch s {
	case "async":
		return Async, true
	case "sync":
		return Sync, true
	}
	return 0, false
}

// Phase is where a group stands in its life.
type Phase uint8

// The phases of a group.
const (
	Replicating Phase = 1
	Promoting   Phase = 2 // fenced; sealing, choosing the point, rolling to it
	Promoted    Phase = 3 // the targets stand at Point and may be written
)

// String names the phase.
func (p Phase) String() string {
	switch p {
	case Replicating:
		return "replicating"
	case Promoting:
		return "promoting"
	case Promoted:
		return "promoted"
	}
	return "unknown"
}

// Group is a consistency group. Sets in (Applied, Granted] are the unapplied ones:
//
//	… Applied  ≤  ApplyTo  ≤  Committed  ≤  Granted
//
// A recovery point lies at ApplyTo (once the sets up to it are applied) or at the end of a committed run above it; there
// is none below ApplyTo. Point is the newest one that the targets have reached.
type Group struct {
	ID          wire.GroupID
	Name        string
	Mode        Mode
	PeriodMS    int64
	SetBytes    int64  // a set closes early at this many bytes
	PortionSize uint64 // bytes
	ResyncRate  int64  `cbor:",omitempty"` // of each primary's copies, bytes a second; 0: no ceiling
	Bandwidth   int64  `cbor:",omitempty"` // of what each primary sends, bytes a second; 0 for no limit
	Spool       int64  `cbor:",omitempty"` // of each primary's spool, bytes; 0: DefaultSpool, less: none. See SpoolBytes
	Phase       Phase

	Volumes map[wire.VolumeID]*Volume
	Incs    []*Incarnation // ascending by ID; per primary the newest, and older ones while unapplied sets hold updates of them

	Grants    []Grant // ascending, contiguous, of the unapplied sets
	Granted   wire.Set
	Verdicts  map[wire.Set]bool // of unapplied boundaries between several primaries: true is cut, false is void
	Committed wire.Set
	ApplyTo   wire.Set
	Applied   wire.Set

	Point  RecoveryPoint   // what the targets hold
	Points []RecoveryPoint // committed and not yet applied, ascending
	Torn   bool            // a set was lost while it was being applied: no point until the resync is whole

	GivenUp      wire.Set // sets up to this one that were unapplied when they were given up are lost
	Abandoned    wire.Set `cbor:",omitempty"` // GivenUp, where that was for want of room for a chain
	Final        wire.Set // while promoting: the set to roll to, once FinalChosen
	FinalChosen  bool
	PromoteLabel int64         // when promote was asked for
	Outcome      PromoteResult // what promote lost, for the operator

	Check         *Check `cbor:",omitempty"` // the newest one, also when it is over
	CheckSchedule        // when the next one is due

	Contract              // of a sync group whose writes can not be held
	Degraded *Degradation `cbor:",omitempty"` // nil while P3 holds; a promote leaves what it found
}

// RecoveryPoint is the end of a set to which the targets can be brought.
type RecoveryPoint struct {
	Set   wire.Set
	Label int64 // nanoseconds on the captain's clock, not later than the boundary
}

// PromoteResult says what the promoted state lacks of what the captain knew to have been written.
type PromoteResult struct {
	Updates int64
	Bytes   int64
	Known   bool // whether every primary's progress was known
}

// Volume is one replicated device.
type Volume struct {
	ID   wire.VolumeID
	Name string
	Size int64 // bytes
	// Grow is the size to which the volume is growing, 0 while it is not. Updates may reach it; clients see Size.
	Grow      int64 `cbor:",omitempty"`
	Primary   wire.AgentID
	Source    string // path on the primary
	Secondary wire.AgentID
	Target    string // path on the secondary
	// CopiedAt is the set at whose end the first copy was whole, 0 before. The volume belongs to the recovery points
	// from there on.
	CopiedAt wire.Set
	InPlace  bool `cbor:",omitempty"` // it had a first copy, and an operator allows its resync to be applied in place
	// Seeded says that the target was filled by hand: the first copy compares, and copies what differs.
	Seeded bool `cbor:",omitempty"`
	// Copy is the index of the command by which the target was last said to hold nothing of the volume, 0 for never. The bits of another
	// copy say nothing of this one, nor does what an older incarnation says of a copy.
	Copy uint64 `cbor:",omitempty"`
	// BitmapAtEnd says that the primary keeps the bitmap at the end of the source, behind Size, and not in its state directory.
	BitmapAtEnd bool `cbor:",omitempty"`
	// Overwrite says that the secondary may claim a target that holds something, such as a file system.
	Overwrite bool `cbor:",omitempty"`
	// Removed is not nil once its primary was taken out of the group: it takes part in nothing that is decided since.
	Removed *Removal `cbor:",omitempty"`
}

// Incarnation is a primary's right to write in a group.
type Incarnation struct {
	ID      wire.Incarnation
	Primary wire.AgentID
	Nonce   uint64   // the agent run that asked for it
	First   wire.Set // first set granted to it, 0 before

	Ended  bool // fenced: nothing of it that is not below its seal is taken any more
	Sealed bool
	Seal   wire.Seq // last seq that counts
	Last   wire.Set // last set that holds updates of it, once sealed; First-1 when none does
	Marked bool     // whether Last ends with the primary's own mark

	// Doubted is not 0 while something of it that was held may be gone: components that could hold it together were lost,
	// or sets were given up. It ends when that set is applied by the incarnation's own manifests, or with the incarnation.
	Doubted wire.Set

	CommittedSeq wire.Seq // seq of its mark of the set Committed, or what its seal left of it
	// Whole is the first set at whose end no resync was under way in it, 0 while one is. Of one that ended before, it is the
	// point that took it in, see [Group.Taken].
	Whole wire.Set
}

// Grant is the leave to open the sets First..Last. It fixes their primaries and their assignment. Leave that differs in
// nothing from the newest grant's lengthens that, so there are only as many grants as there were changes.
type Grant struct {
	First, Last wire.Set
	View        wire.View
	Shares                         // of the components that share the portions
	Targets     []string           `cbor:",omitempty"` // failure domains that one copy of each update is to be in, see [State.Targets]
	Incs        []wire.Incarnation // the incarnations that write in these sets
}

// New returns the state of a cluster without agents.
func New(clusterID string) *State {
	return &State{
		Version: FormatVersion,
		Cluster: clusterID,
		View:    1,
		Agents:  map[wire.AgentID]*Agent{},
		Groups:  map[wire.GroupID]*Group{},
		Tokens:  map[string]*Token{},

		NextAgent:  1,
		NextGroup:  1,
		NextVolume: 1,
	}
}

// IsMember reports whether a is a component of the current view.
func (s *State) IsMember(a wire.AgentID) bool {
	_, ok := slices.BinarySearch(s.Members, a)
	return ok
}

// Uses returns a group with an unapplied set that a component may be responsible for, or nil.
func (s *State) Uses(a wire.AgentID) *Group {
	for _, id := range SortedKeys(s.Groups) {
		g := s.Groups[id]
		if g.Phase == Promoted {
			continue // what is above its point is dropped
		}
		for i := range g.Grants {
			if gr := &g.Grants[i]; gr.Last > g.Applied && s.mayAssign(gr, a) {
				return g
			}
		}
	}
	return nil
}

// GroupByName returns the group of that name, or nil.
func (s *State) GroupByName(name string) *Group {
	for _, id := range SortedKeys(s.Groups) {
		if s.Groups[id].Name == name {
			return s.Groups[id]
		}
	}
	return nil
}

// AgentByName returns the agent of that name, or nil.
func (s *State) AgentByName(name string) *Agent {
	for _, id := range SortedKeys(s.Agents) {
		if s.Agents[id].Name == name {
			return s.Agents[id]
		}
	}
	return nil
}

// Volume returns a volume and its group by the volume's ID, or nils.
func (s *State) Volume(id wire.VolumeID) (*Group, *Volume) {
	for _, g := range s.Groups {
		if v := g.Volumes[id]; v != nil {
			return g, v
		}
	}
	return nil, nil
}

// Grant returns the grant of an unapplied set, or nil.
func (g *Group) Grant(set wire.Set) *Grant {
	i, ok := slices.BinarySearchFunc(g.Grants, set, func(gr Grant, set wire.Set) int {
		if gr.Last < set {
			return -1
		}
		if gr.First > set {
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return &g.Grants[i]
}

// Inc returns an incarnation by its ID, or nil.
func (g *Group) Inc(id wire.Incarnation) *Incarnation {
	for _, inc := range g.Incs {
		if inc.ID == id {
			return inc
		}
	}
	return nil
}

// Live returns the incarnation of primary p that may write, or nil.
func (g *Group) Live(p wire.AgentID) *Incarnation {
	for i := len(g.Incs) - 1; i >= 0; i-- {
		if inc := g.Incs[i]; inc.Primary == p && !inc.Ended {
			return inc
		}
	}
	return nil
}

// IncAt returns primary p's incarnation at the end of set n: the newest that was granted at or before it and was not
// sealed before its first update, or nil.
func (g *Group) IncAt(p wire.AgentID, n wire.Set) *Incarnation {
	var found *Incarnation
	for _, inc := range g.Incs {
		if inc.Primary == p && inc.First != 0 && inc.First <= n && (!inc.Sealed || inc.Last >= inc.First) {
			found = inc
		}
	}
	return found
}

// Primaries returns the agents that have volumes in the group which were not removed, ascending.
func (g *Group) Primaries() []wire.AgentID {
	var ps []wire.AgentID
	for _, v := range g.Volumes {
		if v.Removed == nil && !slices.Contains(ps, v.Primary) {
			ps = append(ps, v.Primary)
		}
	}
	slices.Sort(ps)
	return ps
}

// PrefixCounts reports whether a sealed prefix is a recovery point above the newest committed one, see [Group.PrefixAt].
func (g *Group) PrefixCounts() bool { return g.PrefixAt(g.Committed + 1) }

// Doubted reports whether acknowledged writes may be missing from what the components hold: a promise only where an
// acknowledgement means held.
func (g *Group) Doubted() bool {
	primaries := g.Primaries()
	return g.Mode == Sync && slices.ContainsFunc(g.Incs, func(inc *Incarnation) bool {
		return inc.Doubted != 0 && slices.Contains(primaries, inc.Primary)
	})
}

// Verdict returns whether the end of set n is a cut, and whether that is decided. A set with one primary ends at a cut.
func (g *Group) Verdict(n wire.Set) (cut, decided bool) {
	if gr := g.Grant(n); gr != nil && len(gr.Incs) <= 1 {
		return true, true
	}
	cut, decided = g.Verdicts[n]
	return cut, decided
}

// Contributes reports whether set n can hold updates of the incarnation.
func (inc *Incarnation) Contributes(n wire.Set) bool {
	return inc.First != 0 && n >= inc.First && (!inc.Sealed || n <= inc.Last)
}

// WholeAt reports whether everything that primary p had written by the end of set n is in the sets up to n: no resync is
// under way at that point and nothing was cut off by a seal that does not count. whole overrides the recorded Whole of
// incarnations whose marks the caller has already seen. A primary none of whose volumes has had its first copy, nor is in
// copied, is in no recovery point yet, and stands in the way of none.
func (g *Group) WholeAt(p wire.AgentID, n wire.Set, whole map[wire.Incarnation]wire.Set, copied []wire.VolumeID) bool {
	inc := g.IncAt(p, n)
	if !g.AnyCopied(p, copied) {
		return true
	}
	if inc == nil {
		return false
	}
	from := inc.Whole
	if w, ok := whole[inc.ID]; ok && (from == 0 || w < from) {
		from = w
	}
	if from == 0 || from > n {
		return false
	}
	if !inc.Ended {
		return true
	}
	if !inc.Sealed {
		return false
	}
	if n < inc.Last || (n == inc.Last && inc.Marked) {
		return true
	}
	if inc.Doubted != 0 && len(g.Primaries()) > 1 {
		return false // what others wrote after it may depend on what is missing
	}
	return g.PrefixAt(n) && from <= inc.Last
}

// AnyCopied reports whether a volume of primary p has had its first copy, or is in copied.
func (g *Group) AnyCopied(p wire.AgentID, copied []wire.VolumeID) bool {
	for _, v := range g.Volumes {
		if v.Primary == p && v.Removed == nil && (v.CopiedAt != 0 || slices.Contains(copied, v.ID)) {
			return true
		}
	}
	return false
}

// Copied reports whether the volume belongs to the recovery point at the end of set n.
func (v *Volume) Copied(n wire.Set) bool { return v.CopiedAt != 0 && v.CopiedAt <= n }

// SortedKeys returns the keys of m, ascending: whoever walks a map of the state does it in this order, so that a run
// replays.
func SortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
