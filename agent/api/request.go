package api

import "time"

// GroupRequest makes or changes a group. Empty values mean the defaults, or what is.
type GroupRequest struct {
	Name     string `json:"name,omitempty"`
	Mode     string `json:"mode,omitempty"` // "async" or "sync"
	PeriodMS int64  `json:"period_ms,omitempty"`
	SetBytes int64  `json:"set_bytes,omitempty"`
	// CheckSchedule is of a change; null leaves what is.
	CheckSchedule *CheckSchedule `json:"check_schedule,omitempty"`
	PortionSize   uint64         `json:"portion_size_bytes,omitempty"`
	// ResyncRate is the ceiling of each primary's copies in bytes a second; 0 is none, null leaves what is.
	ResyncRate *int64 `json:"resync_rate_bytes_per_second,omitempty"`
	// Bandwidth limits what each primary of the group sends, in bytes a second; 0 is no limit, null leaves what is.
	Bandwidth *int64 `json:"bandwidth_bytes_per_second,omitempty"`
	// Spool is how much each primary of the group may keep on disk of what waits to be sent, in bytes; 0 is nothing, null leaves
	// what is, or means the default.
	Spool *int64 `json:"spool_bytes,omitempty"`
	// OnDegraded is what a sync group does whose writes can not be held: "block", or "async", to go on without that promise once
	// a write has waited for DegradeAfterMS. Empty and 0 leave what is.
	OnDegraded     string `json:"on_degraded,omitempty"`
	DegradeAfterMS int64  `json:"degrade_after_ms,omitempty"`
	// RemovePrimary names an agent whose volumes are taken out of the group; it is asked for alone. Force is needed while
	// the agent is heard, and in a sync group.
	RemovePrimary string `json:"remove_primary,omitempty"`
	Force         bool   `json:"force,omitempty"`
	// AllowInconsistent has resyncs for which the journals have no room, or that are under way, applied in place; it is
	// asked for alone.
	AllowInconsistent bool `json:"allow_inconsistent,omitempty"`
}

// Rate returns what a rate is for a new group.
func Rate(r *int64) int64 {
	if r == nil {
		return 0
	}
	return *r
}

// VolumeRequest adds a volume to a group. Agents are named.
type VolumeRequest struct {
	Name      string `json:"name"`
	Size      int64  `json:"size_bytes"`
	Primary   string `json:"primary"`
	Source    string `json:"source"`
	Secondary string `json:"secondary"`
	Target    string `json:"target"`
	// BitmapAtEnd keeps the bitmap at the end of the source, behind Size bytes, and not in the primary's state directory.
	BitmapAtEnd bool `json:"bitmap_at_end,omitempty"`
	// Seeded says that the target was filled by hand: it is compared, and what differs is copied.
	Seeded bool `json:"seeded,omitempty"`
	// Force says that what the target holds may be overwritten.
	Force bool `json:"force,omitempty"`
}

// ResizeRequest makes a volume larger, to what its source has where Size is 0.
type ResizeRequest struct {
	Size int64 `json:"size_bytes,omitempty"`
}

// Resizing answers it: the size that the volume has, and the one that it gets once the new range is on its target.
type Resizing struct {
	From int64 `json:"from_bytes"`
	To   int64 `json:"to_bytes"`
}

// Made answers a request that made something.
type Made struct {
	ID uint64 `json:"id"`
}

// AgentChange changes what is not null: an agent's failure domain, empty for none, and its weight as a component, 1 to 255
// or 0 to have it measured.
type AgentChange struct {
	Domain *string `json:"domain,omitempty"`
	Weight *int    `json:"weight,omitempty"`
}

// DrainRequest asks a component to leave, or with Undo to stay. Force is needed to leave one component alone.
type DrainRequest struct {
	Undo  bool `json:"undo,omitempty"`
	Force bool `json:"force,omitempty"`
}

// PromoteRequest promotes a group. Force is needed where acknowledged writes may be missing.
type PromoteRequest struct {
	Force bool `json:"force,omitempty"`
}

// TokenRequest asks for a join token.
type TokenRequest struct {
	TTLSeconds int64 `json:"ttl_seconds"`
}

// Token is a join token. Its text is a secret.
type Token struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// TokenHash makes a token known to the cluster: the agent that made it asks the captain.
type TokenHash struct {
	Hash       string `json:"hash"`
	TTLSeconds int64  `json:"ttl_seconds"`
}

// AgentRequest adds an agent to the cluster by a token, whose hash is hexadecimal.
type AgentRequest struct {
	Name      string   `json:"name"`
	Address   string   `json:"address"`
	Roles     []string `json:"roles"`
	TokenHash string   `json:"token_hash"`
	Domain    string   `json:"domain,omitempty"`

	ComponentAddress string `json:"component_address,omitempty"`
}

// CertificateRequest asks for the next certificate of the agent whose connection carries it.
type CertificateRequest struct {
	Request []byte `json:"request"` // signing request, DER
}

// Certificate answers a CertificateRequest.
type Certificate struct {
	Certificate []byte `json:"certificate"` // DER
}

// Validity is from when to when a certificate counts.
type Validity struct {
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
}

// Local is what only the agent itself knows.
type Local struct {
	ID      uint64   `json:"id"`
	Name    string   `json:"name"`
	Version string   `json:"version"` // of its program
	Captain string   `json:"captain"`
	HasCA   bool     `json:"has_ca"` // it can admit agents
	NBD     []string `json:"nbd"`    // addresses that serve Exports, as NBD URIs without an export's name
	Exports []Export `json:"exports"`

	Devices []BlockDevice `json:"devices"` // exports that have a block device on its host

	Certificate Validity `json:"certificate"` // of its present certificate
}

// Export is one NBD export of an agent.
type Export struct {
	Name string   `json:"name"`
	URIs []string `json:"uris"`
}

// AttachRequest asks for a block device of an export, on the host of the agent that is asked. Index is null where the kernel
// may choose; time-outs are 0 for the defaults.
type AttachRequest struct {
	Volume             string `json:"volume"` // GROUP/VOLUME
	Index              *int   `json:"index,omitempty"`
	TimeoutSeconds     int64  `json:"timeout_seconds,omitempty"`
	DeadTimeoutSeconds int64  `json:"dead_timeout_seconds,omitempty"`
}

// BlockDevice is an export that is attached as a block device.
type BlockDevice struct {
	Volume string `json:"volume"`
	Device string `json:"device"` // path, empty while there is none
	Link   string `json:"link"`   // stable name
	Served bool   `json:"served"` // its I/O is answered; otherwise it waits
	Error  string `json:"error"`  // why it is not
	// Lacks names features of the export that this kernel does not use.
	Lacks              []string `json:"lacks,omitempty"`
	TimeoutSeconds     int64    `json:"timeout_seconds"`
	DeadTimeoutSeconds int64    `json:"dead_timeout_seconds"`
}

// Device is a file or block device on an agent's host.
type Device struct {
	Path string `json:"path"`
	Size int64  `json:"size_bytes"`
	// SizeWithBitmap is how large a volume it has room for with the bitmap behind it; 0 where there is no room.
	SizeWithBitmap int64 `json:"size_with_bitmap_bytes"`
	// LogicalBlock is the sector size of a block device in bytes; 0 of a file, and from an older agent.
	LogicalBlock int `json:"logical_block_bytes,omitempty"`
	// Uses says what keeps the device from being taken: by whom it is used, and what ends that.
	Uses []string `json:"uses,omitempty"`
	// Signatures names what it holds: file systems, partition tables and the like.
	Signatures []string `json:"signatures,omitempty"`
}

// Event is something that happened on one agent.
type Event struct {
	Seq   uint64         `json:"seq"` // dense, of this run of the agent
	At    time.Time      `json:"at"`
	Name  string         `json:"name"`
	Group string         `json:"group,omitempty"`
	Attrs map[string]any `json:"attrs,omitempty"`
}

// EventPage is a part of an agent's events, ascending. Next is what the next request gives as after.
type EventPage struct {
	Run    string  `json:"run"` // changes when the agent restarts: Seq begins anew
	Missed uint64  `json:"missed"`
	Events []Event `json:"events"`
	Next   uint64  `json:"next"`
}

// JoinRequest is what a joiner sends once it has checked whom it talks to.
type JoinRequest struct {
	Secret  []byte   `json:"secret"`
	Request []byte   `json:"request"` // signing request, DER
	Name    string   `json:"name"`
	Address string   `json:"address"`
	Roles   []string `json:"roles"`
	Domain  string   `json:"domain,omitempty"`

	ComponentAddress string `json:"component_address,omitempty"`
}

// JoinAnswer makes the joiner an agent of the cluster.
type JoinAnswer struct {
	Agent       uint64 `json:"agent"`
	Certificate []byte `json:"certificate"` // DER
	CA          []byte `json:"ca"`          // DER
	Peers       []Peer `json:"peers"`
	Generation  uint64 `json:"generation,omitempty"` // of the cluster
}

// Peer is where an agent of the cluster is found.
type Peer struct {
	ID      uint64 `json:"id"`
	Name    string `json:"name"`
	Address string `json:"address"`
}
