package core

import (
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// Effects are what a Node asks its shell to do. Effects of one [Node.Take] may be performed in any order and
// concurrently; the shell reports the end of Store and Apply by calling back.
type Effects struct {
	Send     []Envelope // messages; an envelope to the agent itself is delivered back to Receive
	Frames   []FrameOut // frames to mirror, as received
	Remirror []Remirror // parts of stored frames for a new mirror
	Store    []Store    // frames to make durable in the journal: answer with Stored
	Free     []Free     // journal space
	Wipe     bool       // the journal is to be emptied, and to be of the life that Node.Life now says, before any Store of this or a later Take
	Apply    []Apply    // writes to the targets: answer with ApplyDone
	Release  []any      // payload handles given to Submit that are not needed any more
	Wake     bool       // something that a waiting writer, sender or copier looks at has changed
	Events   []Event
	Holds    []Hold // cuts that this agent stood still for as a primary: for its metrics
}

// Envelope is a message and where it goes.
type Envelope struct {
	To  wire.AgentID
	Msg Message
}

// FrameOut is a frame that goes on as it was received. A Body without Raw was made here and is to be encoded.
type FrameOut struct {
	To    wire.AgentID
	Route wire.Route
	Body  *wire.Body
}

// Remirror sends the updates Index of the stored frame Ref as a new frame.
type Remirror struct {
	To    wire.AgentID
	Route wire.Route
	Ref   any
	Index []int
}

// Store makes a frame durable. The journal keeps the order of one Take.
type Store struct {
	ID    uint64
	Group wire.GroupID
	Set   wire.Set
	Body  *wire.Body
	// Urgent may use the space kept for re-mirroring after a loss.
	Urgent bool
}

// Free says that the updates of a group's sets up to UpTo are on the targets or given up.
type Free struct {
	Group wire.GroupID
	UpTo  wire.Set
}

// Apply writes one owner's share of a set to the targets, flushed. Parts is ascending by (volume, seq): the last one
// wins where they overlap; see [Fold].
type Apply struct {
	Token uint64
	Group wire.GroupID
	Inc   wire.Incarnation
	Set   wire.Set
	View  wire.View
	Parts []Part
}

// Part is one update in a stored frame.
type Part struct {
	Ref    any
	Index  int
	Update *wire.Update // header
}

// Event is something that a user can see. Its fields are slog attributes in pairs.
type Event struct {
	At    time.Duration
	Name  string // such as "component.lost"
	Group wire.GroupID
	Attrs []any
}

// Outgoing is a frame that a primary's sender is to encode and send.
type Outgoing struct {
	To      wire.AgentID
	Route   wire.Route
	Header  wire.BodyHeader
	Updates []wire.Update // Sum not yet made; without data where the handle is one that was given to Spilled
	Handles []any         // their payload handles: to be kept from reuse until the frame is encoded, whatever Release says
	Bytes   int64
	Rate    int64 // the group's bandwidth, bytes a second; 0 for no limit
}

// Config fixes a Node's identity and limits. Durations are on the clock that the shell passes to each call.
type Config struct {
	ID   wire.AgentID
	Seed uint64 // of this run of the agent: incarnations are asked for under numbers drawn from it
	// LabelBase is what a captain's labels count from: the wall clock, in nanoseconds of Unix time, at the node's time 0.
	// Labels are for people; nothing is decided by them but the expiry of tokens.
	LabelBase int64

	StatusEvery   time.Duration // how often an agent reports to the captain
	LossAfter     time.Duration // silence after which a component is declared lost
	LastLossAfter time.Duration // the same while the component may be the last holder of something
	RetryEvery    time.Duration // repetition of messages that have had no effect yet
	ResendAfter   time.Duration // age at which an unacknowledged frame is sent again
	HoldMax       time.Duration // how long a primary stands still for a cut
	PauseWait     time.Duration // how long the captain waits for all to stand still
	GiveUpAfter   time.Duration // a set without progress, though everybody is there, is lost after this
	WeighEvery    time.Duration // the least time between two changes of components' weights, see balance.go
	RaftTick      time.Duration
	ElectionTicks int
	CompactEvery  uint64 // Raft entries between snapshots
	MirrorWindow  int    // re-mirrored frames in flight per mirror

	// Mutants break the node on purpose, to prove that a test sees it. Empty outside tests.
	Mutants map[string]bool
}

// DefaultConfig returns the limits that the daemon runs with.
func DefaultConfig(id wire.AgentID, seed uint64) Config {
	return Config{
		ID: id, Seed: seed,
		StatusEvery:   100 * time.Millisecond,
		LossAfter:     2 * time.Second,
		LastLossAfter: 60 * time.Second,
		RetryEvery:    300 * time.Millisecond,
		ResendAfter:   3 * time.Second,
		HoldMax:       50 * time.Millisecond,
		PauseWait:     40 * time.Millisecond,
		GiveUpAfter:   30 * time.Second,
		WeighEvery:    10 * time.Second,
		RaftTick:      100 * time.Millisecond,
		ElectionTicks: 10,
		CompactEvery:  2000,
		MirrorWindow:  32,
	}
}

// pingEvery is how often an agent asks the others whether it reaches them.
func (c *Config) pingEvery() time.Duration { return c.LossAfter / 10 }

// unreachedAfter is the silence after which messages take the way over another agent: early enough for an agent that
// others reach not to be declared lost.
func (c *Config) unreachedAfter() time.Duration { return c.LossAfter * 2 / 5 }

// GroupView is what a caller sees of one of this agent's groups as a primary.
type GroupView struct {
	Group    wire.GroupID
	Inc      wire.Incarnation
	Mode     cluster.Mode
	Open     wire.Set
	Applied  wire.Set
	Seq      wire.Seq
	HeldUpTo wire.Seq
	HeldSet  wire.Set // newest closed set that is held, with its mark and all before it in the incarnation; 0 for none
	Queued   int64
	Folded   int64 // of the updates above HeldUpTo, those that were folded: there is nothing in memory for them
	// Of Queued, data that are not in memory, and of how many updates: see Spillable.
	Spilled        int64
	SpilledUpdates int64
	Whole          bool // no resync is under way, so in sync mode I/O may be acknowledged
	// Early says that a sync group is degraded: what was submitted by the time at which the state was at Index, and what
	// could not be, may be acknowledged as in async.
	Early bool
	Index uint64
}
