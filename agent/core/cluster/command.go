package cluster

import (
	"fmt"

	"flotilla/wire"

	"github.com/fxamacker/cbor/v2"
)

// Command is one change of the state; exactly one of its fields after ID is set. Commands travel in a [Batch], one Raft
// entry a tick for all groups.
type Command struct {
	// ID names a request of an agent that waits for the Result; 0 when nobody does.
	ID uint64 `cbor:",omitempty"`

	AddAgent     *AddAgent     `cbor:",omitempty"`
	RemoveAgent  *RemoveAgent  `cbor:",omitempty"`
	SetAgent     *SetAgent     `cbor:",omitempty"`
	AddToken     *AddToken     `cbor:",omitempty"`
	CreateGroup  *CreateGroup  `cbor:",omitempty"`
	SetGroup     *SetGroup     `cbor:",omitempty"`
	DeleteGroup  *DeleteGroup  `cbor:",omitempty"`
	CreateVolume *CreateVolume `cbor:",omitempty"`
	DeleteVolume *DeleteVolume `cbor:",omitempty"`
	RecopyVolume *RecopyVolume `cbor:",omitempty"`
	ResizeVolume *ResizeVolume `cbor:",omitempty"`
	GrowVolume   *GrowVolume   `cbor:",omitempty"`

	RemovePrimary *RemovePrimary `cbor:",omitempty"`

	AllowInconsistent *AllowInconsistent `cbor:",omitempty"`
	StartCheck        *StartCheck        `cbor:",omitempty"`
	StopCheck         *StopCheck         `cbor:",omitempty"`
	EndCheck          *EndCheck          `cbor:",omitempty"`

	Admit   *Admit   `cbor:",omitempty"`
	Lose    *Lose    `cbor:",omitempty"`
	Drain   *Drain   `cbor:",omitempty"`
	Leave   *Leave   `cbor:",omitempty"`
	Settle  *Settle  `cbor:",omitempty"`
	Weigh   *Weigh   `cbor:",omitempty"`
	Attach  *Attach  `cbor:",omitempty"`
	End     *End     `cbor:",omitempty"`
	Open    *Open    `cbor:",omitempty"`
	Verdict *Verdict `cbor:",omitempty"`
	Seal    *Seal    `cbor:",omitempty"`
	Commit  *Commit  `cbor:",omitempty"`
	ApplyTo *ApplyTo `cbor:",omitempty"`
	Applied *Applied `cbor:",omitempty"`
	GiveUp  *GiveUp  `cbor:",omitempty"`
	Promote *Promote `cbor:",omitempty"`
	Final   *Final   `cbor:",omitempty"`
	Degrade *Degrade `cbor:",omitempty"`
}

// Batch is what one Raft entry carries.
type Batch struct {
	Version  int
	Commands []Command
}

type (
	// AddAgent admits an agent to the cluster. With a token, the token must be unspent and not expired at Label.
	AddAgent struct {
		Name, Address              string
		Primary, Backup, Secondary bool
		TokenHash                  string
		Label                      int64
		Serial                     string
		Domain                     string `cbor:",omitempty"`
		ComponentAddress           string `cbor:",omitempty"` // of a component only; empty for none of its own
	}
	// RemoveAgent takes an agent out: it is no component, primary or secondary of anything by then.
	RemoveAgent struct{ Agent wire.AgentID }
	// SetAgent changes what is not nil: an agent's failure domain, "" for none, and its weight as a component, 0 to have it
	// measured.
	SetAgent struct {
		Agent  wire.AgentID
		Domain *string `cbor:",omitempty"`
		Weight *uint8  `cbor:",omitempty"`
	}
	// AddToken makes a one-use token known.
	AddToken struct {
		Hash    string
		Expires int64
	}
	// CreateGroup makes a consistency group; zero values mean the defaults.
	CreateGroup struct {
		Name        string
		Mode        Mode
		PeriodMS    int64
		SetBytes    int64
		PortionSize uint64
		ResyncRate  int64 `cbor:",omitempty"` // bytes a second; 0 is no ceiling
		Bandwidth   int64 `cbor:",omitempty"`
		Spool       int64 `cbor:",omitempty"` // see Group
		Contract
	}
	// SetGroup changes a group's settings; zero values leave what is.
	SetGroup struct {
		Group    wire.GroupID
		Mode     Mode
		PeriodMS int64
		SetBytes int64
		// Schedule, if not nil, is when the group is checked from now on.
		Schedule *CheckSchedule `cbor:",omitempty"`
		// ResyncRate is nil to leave it, and 0 for no ceiling.
		ResyncRate *int64 `cbor:",omitempty"`
		// Bandwidth is nil to leave it, and 0 for no limit.
		Bandwidth *int64 `cbor:",omitempty"`
		// Spool is nil to leave it, 0 for the default, and less for none.
		Spool *int64 `cbor:",omitempty"`
		// OnDegraded and DegradeAfterMS are nil to leave them.
		OnDegraded     *OnDegraded `cbor:",omitempty"`
		DegradeAfterMS *int64      `cbor:",omitempty"`
	}
	// DeleteGroup deletes a group without volumes.
	DeleteGroup struct{ Group wire.GroupID }
	// CreateVolume adds a volume; its first copy begins when its primary attaches.
	CreateVolume struct {
		Group     wire.GroupID
		Name      string
		Size      int64
		Primary   wire.AgentID
		Source    string
		Secondary wire.AgentID
		Target    string
		Seeded    bool `cbor:",omitempty"`
		// BitmapAtEnd and Overwrite are kept, see Volume.
		BitmapAtEnd bool `cbor:",omitempty"`
		Overwrite   bool `cbor:",omitempty"`
	}
	// DeleteVolume takes a volume out of its group.
	DeleteVolume struct{ Volume wire.VolumeID }

	// RecopyVolume says that a volume's target has become another device, which holds nothing of it: the first copy begins anew.
	RecopyVolume struct{ Volume wire.VolumeID }

	// ResizeVolume asks for a larger volume: updates up to the new size are taken from here on.
	ResizeVolume struct {
		Volume wire.VolumeID
		Size   int64 // bytes
	}
	// GrowVolume makes that size the volume's: its primary says that the new range reads as zeroes on source and target.
	GrowVolume struct {
		Volume wire.VolumeID
		Size   int64
	}

	// RemovePrimary takes a primary's volumes out of a group that has others. Force is needed where acknowledged writes
	// are dropped by it.
	RemovePrimary struct {
		Group   wire.GroupID
		Primary wire.AgentID
		Force   bool
	}

	// AllowInconsistent has the resyncs of a group that wait for room, or are under way, applied in place: until they are
	// whole their volumes belong to no recovery point.
	AllowInconsistent struct{ Group wire.GroupID }

	// Admit makes an agent with the backup role a component.
	Admit struct{ Agent wire.AgentID }
	// Lose declares a component lost: the view rises.
	Lose struct {
		Agent wire.AgentID
		View  wire.View
	}
	// Drain asks a component to leave: the next grants are made without it. Undo takes that back. Force is needed to
	// leave one component alone.
	Drain struct {
		Agent       wire.AgentID
		Undo, Force bool
	}
	// Leave takes a drained component out of the members. MembersAt is what the captain saw.
	Leave struct {
		Agent     wire.AgentID
		MembersAt uint64
	}
	// Settle records that everything that was held is held again in a view.
	Settle struct {
		View      wire.View
		MembersAt uint64
		SealedAt  uint64 `cbor:",omitempty"` // in older logs; means nothing any more
	}
	// Weigh sets the measured weight of a member. MembersAt is what the captain saw.
	Weigh struct {
		Agent     wire.AgentID
		Weight    uint8
		MembersAt uint64
	}
	// Attach asks for an incarnation. It ends an older one of the same primary.
	Attach struct {
		Group   wire.GroupID
		Primary wire.AgentID
		Nonce   uint64
	}
	// End revokes an incarnation, by its own primary (suspend, detach).
	End struct {
		Group wire.GroupID
		Inc   wire.Incarnation
	}
	// Open grants the sets from Granted+1 to Last to the live incarnations and the members of the view.
	Open struct {
		Group wire.GroupID
		First wire.Set
		Last  wire.Set
		View  wire.View
	}
	// Verdict records whether the end of a set is a cut. The first one wins.
	Verdict struct {
		Group wire.GroupID
		Set   wire.Set
		Cut   bool
	}
	// Seal records the end of an incarnation. The first one wins.
	Seal struct {
		Group  wire.GroupID
		Inc    wire.Incarnation
		Seq    wire.Seq
		Last   wire.Set
		Marked bool
		View   wire.View
		Single bool `cbor:",omitempty"` // some of what counts has no second copy
	}
	// Commit commits the sets up to UpTo, whose end is a recovery point.
	Commit struct {
		Group  wire.GroupID
		UpTo   wire.Set
		View   wire.View
		Ends   []IncEnd
		Copied []wire.VolumeID // volumes whose first copy is whole at UpTo
		// Copies are the Copy of each of Copied that this was said of; nil where all are 0.
		Copies []uint64 `cbor:",omitempty"`
		Label  int64
	}
	// IncEnd is how far an incarnation has come at the end of a committed run.
	IncEnd struct {
		Inc   wire.Incarnation
		Seq   wire.Seq
		Whole wire.Set
	}
	// ApplyTo begins the application of committed sets: there is no recovery point below it any more.
	ApplyTo struct {
		Group wire.GroupID
		UpTo  wire.Set
		View  wire.View
	}
	// Applied records that a set is on the targets, flushed.
	Applied struct {
		Group wire.GroupID
		Set   wire.Set
		View  wire.View
	}
	// GiveUp drops the unapplied sets as lost: their ranges are in the bitmaps, the primaries attach anew and resync.
	GiveUp struct {
		Group   wire.GroupID
		View    wire.View
		Applied wire.Set // what the captain saw; a no-op when it has moved
		// Chain: what is given up is a chain, for want of room. It is a no-op while committed sets are not applied.
		Chain bool `cbor:",omitempty"`
	}
	// Promote fences a group. Force is needed where acknowledged writes may be missing.
	Promote struct {
		Group wire.GroupID
		Label int64
		Force bool
	}
	// Final chooses the recovery point of a promote.
	Final struct {
		Group wire.GroupID
		Set   wire.Set
		View  wire.View
		Lost  PromoteResult
	}
)

// Result is what a command with an ID came to.
type Result struct {
	ID    uint64
	Err   string
	Value uint64 // the number of what was made
}

var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		MaxArrayElements:  1 << 20,
		MaxMapPairs:       1 << 20,
		MaxNestedLevels:   16,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Encode returns the batch's bytes for a Raft entry.
func (b Batch) Encode() []byte {
	b.Version = FormatVersion
	return must(encMode.Marshal(b))
}

// DecodeBatch reads what Encode wrote.
func DecodeBatch(data []byte) (Batch, error) {
	var b Batch
	if err := decMode.Unmarshal(data, &b); err != nil {
		return Batch{}, fmt.Errorf("decode command batch: %w", err)
	}
	if b.Version > FormatVersion {
		return Batch{}, fmt.Errorf("decode command batch: version %d is newer than this agent's %d: upgrade it", b.Version, FormatVersion)
	}
	return b, nil
}

// Encode returns the state's bytes for a snapshot; the same state gives the same bytes.
func (s *State) Encode() []byte { return must(encMode.Marshal(s)) }

// Decode reads a snapshot.
func Decode(data []byte) (*State, error) {
	s := New("")
	if err := decMode.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("decode cluster state: %w", err)
	}
	if s.Version > FormatVersion {
		return nil, fmt.Errorf("decode cluster state: version %d is newer than this agent's %d: upgrade it", s.Version, FormatVersion)
	}
	return s, nil
}
