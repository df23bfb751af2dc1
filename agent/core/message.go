package core

import (
	"fmt"
	"time"

	"flotilla/wire"

	"github.com/fxamacker/cbor/v2"
)

// Message is what agents say to each other outside Raft and outside the frames that carry updates. Messages may be lost,
// repeated and overtaken: every one is either repeated by a tick until it had its effect, or says what is true at the
// sender and may be said again. An agent's messages to itself take the same path.
type Message interface{ kind() byte }

// The kinds on the wire.
const (
	kindStatus      = 1
	kindPause       = 2
	kindPaused      = 3
	kindResume      = 4
	kindConfirm     = 5
	kindFrameAck    = 6
	kindFrameNack   = 7
	kindMirrorAsk   = 8
	kindMirrorHave  = 9
	kindLines       = 10
	kindLinesDone   = 11
	kindSetDone     = 12
	kindReport      = 13
	kindSealMark    = 14
	kindCaptainSees = 15
	kindMirrorWant  = 16
	kindPing        = 17
	kindPong        = 18
	kindRelay       = 19
	kindChecked     = 20
)

type (
	// Status is what every agent tells the captain each StatusEvery: that it lives, and where it stands.
	Status struct {
		Run       uint64 // this run of the agent
		Round     uint64 // rises with each in a run; an overtaken one is ignored
		Seen      uint64 // the newest round of this run that a captain has answered
		View      wire.View
		Applied   uint64 // Raft index applied
		Groups    []GroupStatus
		Component *ComponentStatus
		// Unreached are the agents that do not answer its pings.
		Unreached []wire.AgentID `cbor:",omitempty"`
		// Faults are what its disks fail at now.
		Faults []Fault `cbor:",omitempty"`
	}
	// GroupStatus is where a primary stands in one group.
	GroupStatus struct {
		Group     wire.GroupID
		Inc       wire.Incarnation
		Open      wire.Set // the set that takes updates, 0 while none is open
		Seq       wire.Seq // last one given
		HeldUpTo  wire.Seq
		HeldSet   wire.Set // sets up to this one are closed, and held with their marks
		Bytes     int64    // of the updates numbered in this incarnation
		Queued    int64    // bytes not yet held
		Resync    int64    // bytes still to be copied
		CopyTotal int64    // bytes that the running copy began with
		// While it is detached: the room that the chain of its next incarnation is taken to need, -1 while that is not known,
		// and whether it waits for it.
		Need   int64 `cbor:",omitempty"`
		NoRoom bool  `cbor:",omitempty"`
		// Check is how far it is with the group's check; nil when it has nothing to do for one.
		Check *CheckProgress `cbor:",omitempty"`
		// Copies are the volumes of which something is to be copied, ascending.
		Copies []CopyStatus `cbor:",omitempty"`
		// Of a sync group: for how long a write has waited that can not be acknowledged as held; and the
		// Degradation.At of the ending before which all that it acknowledged is covered.
		Lag    time.Duration `cbor:",omitempty"`
		Covers uint64        `cbor:",omitempty"`
		// Overload is not nil while writes come faster than they are sent.
		Overload *Overload `cbor:",omitempty"`
		Traffic
	}
	// Overload is what a primary does about a queue that grows, see SetOverload.
	Overload struct {
		Step  string        // "pace", "spill", or "suspend"
		Delay time.Duration `cbor:",omitempty"` // of a write that comes now
		// Of its spool, in bytes: what is in it, and what it takes.
		Spooled int64 `cbor:",omitempty"`
		Spool   int64 `cbor:",omitempty"`
		// FullIn is when the spool, or without one the queue, will be full at the rate of the last seconds; 0 when it does not grow.
		FullIn time.Duration `cbor:",omitempty"`
	}
	// CopyStatus is how far the copy of one volume is, in bytes and bytes a second.
	CopyStatus struct {
		Volume wire.VolumeID
		Left   int64
		Total  int64
		Rate   int64
		First  bool `cbor:",omitempty"` // it is the volume's first copy
	}
	// ComponentStatus is where a component stands.
	ComponentStatus struct {
		Life       uint64
		Rebuilding bool  // updates that were held wait for a new mirror
		Used       int64 // journal bytes
		Limit      int64
		Reserve    int64 `cbor:",omitempty"` // of Limit, what only mirrors and older sets may take
		Owned      int64 // unapplied updates held as owner
		Mirrored   int64 // and as mirror
		// Stranded are the members that frames find no way to, though they may be alive.
		Stranded []wire.AgentID `cbor:",omitempty"`

		OwnedBytes    int64 // that these carry
		MirroredBytes int64
		Unheld        int64 // of Owned, those that are not known to be held
		Sets          int   // unapplied sets that it has something of

		// Of this run of the agent; they only rise.
		TakenOwned    int64         // bytes taken as owner
		TakenMirrored int64         // and as mirror
		Busy          time.Duration // in which something waited for its journal
		Waited        float64       // byte-seconds of it
	}

	// Pause asks a primary to stand still for the cut Attempt of the captain of Term.
	Pause struct {
		Group   wire.GroupID
		Term    uint64
		Attempt uint64
	}
	// Paused answers: it stands still in set Open.
	Paused struct {
		Group   wire.GroupID
		Inc     wire.Incarnation
		Term    uint64
		Attempt uint64
		Open    wire.Set
	}
	// Resume closes every set below Set and opens Set.
	Resume struct {
		Group   wire.GroupID
		Term    uint64
		Attempt uint64
		Set     wire.Set
	}
	// Confirm answers a Resume: whether the primary stood still from its Paused until that Resume.
	Confirm struct {
		Group   wire.GroupID
		Inc     wire.Incarnation
		Term    uint64
		Attempt uint64
		Set     wire.Set
		Stood   bool
	}

	// FrameAck names frames, by the numbers their sender gave them, that are durable: at the mirror for a mirrored frame,
	// on two components (or as many as the view has) for a primary's.
	FrameAck struct{ Nos []uint64 }
	// FrameNack refuses a frame. The sender sends it again after a while, under the view it then knows: in vain where Reason is
	// final.
	FrameNack struct {
		No     uint64
		Reason NackReason
		View   wire.View
	}

	// MirrorAsk asks a mirror what it holds of some portions, after a restart or a change of mirrors.
	MirrorAsk struct {
		View     wire.View
		Portions []SetPortion
	}
	// MirrorHave answers: the seqs that are durable there. Of a sealed incarnation a mirror says it unasked, for the
	// owner may have lost in a crash what only the primary could have sent again.
	MirrorHave struct {
		View     wire.View
		Holdings []Holding
	}
	// MirrorWant asks a mirror to send back what the owner lacks.
	MirrorWant struct {
		View     wire.View
		Holdings []Holding
	}
	// SetPortion names one portion's updates of one set and incarnation.
	SetPortion struct {
		Group   wire.GroupID
		Set     wire.Set
		Inc     wire.Incarnation
		Portion wire.Portion
	}
	// Holding is what somebody holds durably of a SetPortion.
	Holding struct {
		SetPortion
		Seqs SeqRanges
		More SeqRanges `cbor:",omitempty"` // in a Report: seqs at which no prefix may end, for what is held; see wire.Update.Prefix
	}

	// Lines hands an owner its lines of a manifest: what it must hold of each portion.
	Lines struct {
		Group wire.GroupID
		Set   wire.Set
		Inc   wire.Incarnation
		View  wire.View
		Mark  wire.Seq // of the manifest; a seal may put another in its place
		Lines []Line
	}
	// LinesDone answers for all lines of the sender: complete (each update here and on another member), or written (on
	// the targets and flushed).
	LinesDone struct {
		Group   wire.GroupID
		Set     wire.Set
		Inc     wire.Incarnation
		View    wire.View
		Mark    wire.Seq
		Written bool
	}
	// SetDone tells the captain that all lines of a manifest are complete, or written.
	SetDone struct {
		Group   wire.GroupID
		Set     wire.Set
		Inc     wire.Incarnation
		View    wire.View
		Written bool
		Last    wire.Seq // the mark's seq
		Broken  bool     // a resync is under way at the end of the set
		Copied  []wire.VolumeID
	}

	// Report lists what a member of the view holds of an ended incarnation above what is committed, in Pages messages of
	// one Round.
	Report struct {
		Group wire.GroupID
		Inc   wire.Incarnation
		View  wire.View
		Round uint64
		Page  int
		Pages int
		From  wire.Seq // nothing at or below this is listed
		Held  []Holding
		Marks []MarkSeen
	}
	// MarkSeen is a mark held by the reporter.
	MarkSeen struct {
		Set    wire.Set
		Seq    wire.Seq
		Broken bool
	}
	// SealMark stands for the manifest that a sealed incarnation did not write for its last set.
	SealMark struct {
		Group   wire.GroupID
		Inc     wire.Incarnation
		Primary wire.AgentID
		Set     wire.Set
		View    wire.View
		Mark    Manifest
	}
	// CaptainSees tells an agent that the captain hears it, with the round of its last Status.
	CaptainSees struct {
		Run   uint64
		Round uint64
		Rooms []GroupRoom `cbor:",omitempty"` // of the groups in which the agent is to attach
	}
	// GroupRoom is how many bytes of a group's chain the journals can take.
	GroupRoom struct {
		Group wire.GroupID
		Bytes int64
	}

	// Ping asks an agent to answer at once with a Pong of the same Run and At.
	Ping struct {
		Run uint64        // of the sender
		At  time.Duration // the sender's clock
	}
	// Pong answers; Unreached are the agents that do not answer its sender.
	Pong struct {
		Run       uint64
		At        time.Duration
		Unreached []wire.AgentID `cbor:",omitempty"`
	}
	// Relay carries a message from an agent to another that it does not reach.
	Relay struct {
		From wire.AgentID
		To   wire.AgentID
		Raft bool `cbor:",omitempty"` // Data is a Raft message; otherwise what EncodeMessage made
		Data []byte
	}
)

// NackReason says why a frame was refused.
type NackReason uint8

// The reasons.
const (
	NackView  NackReason = 1 // another view than the receiver's, or an assignment that is not the receiver's
	NackEnded NackReason = 2 // the incarnation is ended: final
	NackFull  NackReason = 3 // the journal takes nothing more now
	NackBad   NackReason = 4 // the frame contradicts the cluster state: final
)

// String names the reason.
func (r NackReason) String() string {
	switch r {
	case NackView:
		return "other view"
	case NackEnded:
		return "incarnation ended"
	case NackFull:
		return "journal full"
	case NackBad:
		return "bad frame"
	}
	return "unknown"
}

func (*Status) kind() byte      { return kindStatus }
func (*Pause) kind() byte       { return kindPause }
func (*Paused) kind() byte      { return kindPaused }
func (*Resume) kind() byte      { return kindResume }
func (*Confirm) kind() byte     { return kindConfirm }
func (*FrameAck) kind() byte    { return kindFrameAck }
func (*FrameNack) kind() byte   { return kindFrameNack }
func (*MirrorAsk) kind() byte   { return kindMirrorAsk }
func (*MirrorHave) kind() byte  { return kindMirrorHave }
func (*MirrorWant) kind() byte  { return kindMirrorWant }
func (*Lines) kind() byte       { return kindLines }
func (*LinesDone) kind() byte   { return kindLinesDone }
func (*SetDone) kind() byte     { return kindSetDone }
func (*Report) kind() byte      { return kindReport }
func (*SealMark) kind() byte    { return kindSealMark }
func (*CaptainSees) kind() byte { return kindCaptainSees }
func (*Ping) kind() byte        { return kindPing }
func (*Pong) kind() byte        { return kindPong }
func (*Relay) kind() byte       { return kindRelay }
func (*Checked) kind() byte     { return kindChecked }

func newMessage(kind byte) Message {
	switch kind {
	case kindStatus:
		return new(Status)
	case kindPause:
		return new(Pause)
	case kindPaused:
		return new(Paused)
	case kindResume:
		return new(Resume)
	case kindConfirm:
		return new(Confirm)
	case kindFrameAck:
		return new(FrameAck)
	case kindFrameNack:
		return new(FrameNack)
	case kindMirrorAsk:
		return new(MirrorAsk)
	case kindMirrorHave:
		return new(MirrorHave)
	case kindMirrorWant:
		return new(MirrorWant)
	case kindLines:
		return new(Lines)
	case kindLinesDone:
		return new(LinesDone)
	case kindSetDone:
		return new(SetDone)
	case kindReport:
		return new(Report)
	case kindSealMark:
		return new(SealMark)
	case kindCaptainSees:
		return new(CaptainSees)
	case kindPing:
		return new(Ping)
	case kindPong:
		return new(Pong)
	case kindRelay:
		return new(Relay)
	case kindChecked:
		return new(Checked)
	}
	return nil
}

var (
	msgEnc = must(cbor.CoreDetEncOptions().EncMode())
	msgDec = must(cbor.DecOptions{MaxArrayElements: 1 << 19, MaxMapPairs: 1 << 16, MaxNestedLevels: 12}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// EncodeMessage returns the kind byte followed by the message in CBOR. Unknown fields are ignored when it is read, so
// that a later version may add some.
func EncodeMessage(m Message) []byte {
	return append([]byte{m.kind()}, must(msgEnc.Marshal(m))...)
}

// DecodeMessage reads what EncodeMessage wrote.
func DecodeMessage(b []byte) (Message, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("decode message: it is empty")
	}
	m := newMessage(b[0])
	if m == nil {
		return nil, fmt.Errorf("decode message: kind %d is unknown to this agent: upgrade it", b[0])
	}
	if err := msgDec.Unmarshal(b[1:], m); err != nil {
		return nil, fmt.Errorf("decode message of kind %d: %w", b[0], err)
	}
	return m, nil
}
