package api

import "time"

// Status is the whole cluster as the captain sees it. What is measured (heard, queued, copied, journals, RPO) only the
// captain knows; when Complete is false the answer is one agent's own copy of the replicated state, without these.
type Status struct {
	Version  int       `json:"version"`
	Cluster  string    `json:"cluster"`
	At       time.Time `json:"at"`       // the captain's clock
	Answered string    `json:"answered"` // name of the agent that answered
	Complete bool      `json:"complete"`
	Captain  string    `json:"captain"` // its name, empty while none is known
	View     uint64    `json:"view"`
	// Generation counts the recoveries of the cluster from the loss of a majority.
	Generation uint64 `json:"generation"`
	// Settled says that everything held is known to have its second copy, so that a component that falls silent is declared
	// lost after the short limit.
	Settled  bool `json:"settled"`
	Degraded bool `json:"degraded"` // fewer than two components: updates have one copy

	Agents     []Agent     `json:"agents"`
	Components []Component `json:"components"`
	Groups     []Group     `json:"groups"`
	Alarms     []Alarm     `json:"alarms"`
	Faults     []Fault     `json:"faults"`
}

// Agent is one agent of the cluster.
type Agent struct {
	ID      uint64 `json:"id"`
	Name    string `json:"name"`
	Address string `json:"address"`
	// ComponentAddress is where other components reach it first; empty when it has no address of its own for them.
	ComponentAddress string   `json:"component_address"`
	Roles            []string `json:"roles"`
	Domain           string   `json:"domain"`        // failure domain; empty when nobody has said
	Voter            bool     `json:"voter"`         // a majority of the voters must run and reach each other
	HeardSeconds     *float64 `json:"heard_seconds"` // since its last word to the captain; null when never, or not known
	LeftBehind       bool     `json:"left_behind"`   // a generation began without it
}

// Component is one agent with the backup role.
type Component struct {
	Agent        string   `json:"agent"`
	Member       bool     `json:"member"` // of the view
	Lost         bool     `json:"lost"`
	Drain        bool     `json:"drain"`      // asked to leave; it has left when it is no member
	DrainsFor    string   `json:"drains_for"` // what a draining member waits for
	HeardSeconds *float64 `json:"heard_seconds"`
	Rebuilding   bool     `json:"rebuilding"` // held updates wait for a new mirror

	// SharePercent is how much of all portions it owns in the sets that are granted now, by its weight in relation to others'.
	Domain       string  `json:"domain"`
	Weight       int     `json:"weight"`
	WeightFixed  bool    `json:"weight_fixed"` // by an operator; otherwise it is measured
	SharePercent float64 `json:"share_percent"`

	// What it holds of unapplied sets.
	OwnedUpdates    int64 `json:"owned_updates"`
	OwnedBytes      int64 `json:"owned_bytes"`
	MirroredUpdates int64 `json:"mirrored_updates"`
	MirroredBytes   int64 `json:"mirrored_bytes"`

	// Its load, on average over a second or two.
	OwnedRate    float64 `json:"owned_bytes_per_second"` // taken as owner
	MirroredRate float64 `json:"mirrored_bytes_per_second"`
	BusyPercent  float64 `json:"busy_percent"`  // of the time, in which something waited for its journal's disk
	WaitingBytes int64   `json:"waiting_bytes"` // that did, on average

	// Its lag.
	UnheldUpdates int64 `json:"unheld_updates"` // of those that it owns: not yet durable here and at the mirror
	UnappliedSets int   `json:"unapplied_sets"` // that it has something of

	JournalUsed  int64 `json:"journal_used_bytes"`
	JournalLimit int64 `json:"journal_limit_bytes"`

	Address          string `json:"address"`
	ComponentAddress string `json:"component_address"` // see Agent
}

// Group is one consistency group. Sets: applied ≤ applying ≤ committed ≤ granted, and open among the granted ones.
type Group struct {
	ID          uint32 `json:"id"`
	Name        string `json:"name"`
	Mode        string `json:"mode"`
	PeriodMS    int64  `json:"period_ms"`
	SetBytes    int64  `json:"set_bytes"`
	PortionSize uint64 `json:"portion_size_bytes"`
	ResyncRate  int64  `json:"resync_rate_bytes_per_second"` // ceiling of each primary's copies, 0 for none
	Bandwidth   int64  `json:"bandwidth_bytes_per_second"`   // of what each primary sends; 0 is no limit
	Spool       int64  `json:"spool_bytes"`                  // that each primary may keep on disk of what waits to be sent; 0 is none
	Phase       string `json:"phase"`

	Open      uint64 `json:"open"` // 0 while none is
	Granted   uint64 `json:"granted"`
	Committed uint64 `json:"committed"`
	Applying  uint64 `json:"applying"`
	Applied   uint64 `json:"applied"`

	Point      *Point   `json:"recovery_point"` // the newest one; null before the first
	OnTargets  *Point   `json:"on_targets"`     // what the targets hold
	RPOSeconds *float64 `json:"rpo_seconds"`    // null when not known
	Waiting    string   `json:"waiting"`        // what the oldest set that is not applied waits for; empty when it is its turn
	Torn       bool     `json:"torn"`           // a set was lost while it was being applied

	OnDegraded     string    `json:"on_degraded"`      // "block" or "async", of a sync group; empty for others
	DegradeAfterMS int64     `json:"degrade_after_ms"` // how long a write waits before the group degrades
	Degraded       *Degraded `json:"degraded"`         // null while a sync group acknowledges only what is held

	Primaries []Source `json:"primaries"`
	Volumes   []Volume `json:"volumes"`
	Promote   *Promote `json:"promote"` // null while the group replicates

	Check         *Check        `json:"check"` // the newest one, also when it is over; null before the first
	CheckSchedule CheckSchedule `json:"check_schedule"`
}

// Degraded says that a sync group goes on, or wants to, though its writes can not be held.
type Degraded struct {
	Phase string    `json:"phase"` // "asked" (writes wait), "degraded" (they are acknowledged), "ending" (they wait again)
	Since time.Time `json:"since"` // acknowledged writes may be missing from a promote that were written since then
}

// Point is a recovery point.
type Point struct {
	Set   uint64    `json:"set"`
	Label time.Time `json:"label"`
}

// Source is where a primary stands in its group.
type Source struct {
	Agent       string `json:"agent"`
	Known       bool   `json:"known"` // whether the captain has heard of its incarnation; otherwise the rest is 0
	Incarnation uint64 `json:"incarnation"`
	Open        uint64 `json:"open"`
	Seq         uint64 `json:"seq"`
	HeldUpTo    uint64 `json:"held_up_to"`
	Bytes       int64  `json:"bytes"`
	Queued      int64  `json:"queued_bytes"`
	CopyLeft    int64  `json:"copy_left_bytes"`
	CopyTotal   int64  `json:"copy_total_bytes"`
	// ResyncNeeds is the room that its next resync is taken to need in the journals, while they have not as much: until
	// then it is not attached, and what is written is in its bitmap only.
	ResyncNeeds int64 `json:"resync_needs_bytes,omitempty"`

	// Overload is what it does about a queue that is too long; null while that is not so.
	Overload *Overload `json:"overload"`

	// Since the start of the primary's agent. Written less Folded is what is to be sent; Compressed is what compression saved
	// of it and of what was sent again; Sent is the length of all frames of updates.
	Written    int64 `json:"written_bytes"`
	Folded     int64 `json:"folded_bytes"`
	Compressed int64 `json:"compressed_bytes"`
	Sent       int64 `json:"sent_bytes"`
}

// Overload is what a primary does while writes come faster than they are held.
type Overload struct {
	Step    string  `json:"step"` // "pace": writes are delayed; "spill": the queue goes to disk; "suspend": it is dropped, to be copied later
	DelayMS float64 `json:"delay_ms"`
	// Spooled is what lies in the spool; Spool is what that takes, less than the group's where disk or agent have no more.
	Spooled int64 `json:"spooled_bytes"`
	Spool   int64 `json:"spool_bytes"`
	// FullSeconds is when the spool, or without one the queue, will be full at the rate of the last seconds; null when it does not grow.
	FullSeconds *float64 `json:"full_in_seconds"`
}

// Volume is one replicated device.
type Volume struct {
	ID        uint32 `json:"id"`
	Name      string `json:"name"`
	Size      int64  `json:"size_bytes"`
	GrowsTo   int64  `json:"grows_to_bytes,omitempty"` // the size that it is to have
	Primary   string `json:"primary"`
	Source    string `json:"source"`
	Secondary string `json:"secondary"`
	Target    string `json:"target"`
	Copied    bool   `json:"copied"`             // it belongs to the recovery points
	InPlace   bool   `json:"in_place,omitempty"` // it did, until its resync was allowed to leave the target inconsistent
	Seeded    bool   `json:"seeded"`             // its target was filled by hand before it was made
	// BitmapAtEnd says that its bitmap lies at the end of the source and not in the primary's state directory.
	BitmapAtEnd bool `json:"bitmap_at_end"`
	// CopyLeft is what a running copy has to do, of CopyTotal: of a first copy that is the size, of a resync what it began
	// with and what an earlier incarnation had copied of it. CopySecondsLeft is null while the rate does not say.
	CopyLeft        int64    `json:"copy_left_bytes"`
	CopyTotal       int64    `json:"copy_total_bytes"`
	CopyRate        int64    `json:"copy_bytes_per_second"`
	CopySecondsLeft *float64 `json:"copy_seconds_left"`
	// Faults are the names of what its source and target fail at now.
	Faults []string `json:"faults"`
	// Removed is not null once its primary was taken out of the group: it is neither replicated nor served.
	Removed *Removed `json:"removed"`
	// Device is its block device on the host of the command that shows the status; the agents leave it out.
	Device *BlockDevice `json:"device,omitempty"`
}

// Removed is where the target of a removed volume stands.
type Removed struct {
	Point  *Point `json:"point"`  // what its target holds; null when it is of no use
	Done   bool   `json:"done"`   // the target has got all that it will ever get, and is closed
	Reason string `json:"reason"` // why Point is null
}

// Promote is how far a promote has come.
type Promote struct {
	Asked       time.Time `json:"asked"`
	Sealed      int       `json:"sealed"`       // incarnations that are
	Incarnation int       `json:"incarnations"` // of so many
	Chosen      bool      `json:"chosen"`       // the set to roll to is
	Final       uint64    `json:"final"`
	Point       *Point    `json:"point"` // what the targets hold
	LostKnown   bool      `json:"lost_known"`
	LostUpdates int64     `json:"lost_updates"`
	LostBytes   int64     `json:"lost_bytes"`
	Doubted     bool      `json:"doubted"`      // acknowledged writes of a sync group may be missing
	Degraded    *Degraded `json:"degraded"`     // it was degraded when it was promoted: so may those acknowledged since
	LostSeconds float64   `json:"lost_seconds"` // from the point to the moment at which promote was asked for
}

// Alarm is something that wants an operator.
type Alarm struct {
	Name   string `json:"name"` // such as "degraded"
	Group  string `json:"group,omitempty"`
	Agent  string `json:"agent,omitempty"`
	Text   string `json:"text"`
	Remedy string `json:"remedy"`
}

// Fault is a disk that fails now, as its agent says. One that lasts is an alarm of the same name, too.
type Fault struct {
	Name    string  `json:"name"` // such as "source-unreadable"
	Agent   string  `json:"agent"`
	Group   string  `json:"group,omitempty"` // empty for a journal
	Volume  string  `json:"volume,omitempty"`
	Text    string  `json:"text"`
	Seconds float64 `json:"seconds"` // for which it has lasted
}

// Component returns the component of that agent, or nil.
func (s *Status) Component(agent string) *Component {
	for i := range s.Components {
		if s.Components[i].Agent == agent {
			return &s.Components[i]
		}
	}
	return nil
}

// Group returns the group of that name, or nil.
func (s *Status) Group(name string) *Group {
	for i := range s.Groups {
		if s.Groups[i].Name == name {
			return &s.Groups[i]
		}
	}
	return nil
}

// Plan is what a promote would come to if it were asked for now.
type Plan struct {
	Group string `json:"group"`
	Phase string `json:"phase"`
	// Prefix says that everything held counts, also above the newest cut: the point is then Point or later.
	Prefix      bool    `json:"prefix"`
	Point       *Point  `json:"point"` // the newest committed cut; null when there is none
	AgeSeconds  float64 `json:"age_seconds"`
	LostKnown   bool    `json:"lost_known"` // whether every primary has been heard of
	LostUpdates int64   `json:"lost_updates"`
	LostBytes   int64   `json:"lost_bytes"`
	LostSeconds float64 `json:"lost_seconds"`
	// Uncopied are the volumes whose first copy is not whole: their targets would be of no use.
	Uncopied []string `json:"uncopied"`
	Torn     bool     `json:"torn"`
	// Doubted says that writes which were acknowledged in a sync group may be missing; promote then wants force.
	Doubted bool `json:"doubted"`
	// Degraded is not null while a sync group is degraded: what was acknowledged since may be missing; promote then wants force.
	Degraded *Degraded `json:"degraded"`
}
