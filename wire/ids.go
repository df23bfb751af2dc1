package wire

import (
	"encoding/hex"
	"fmt"
	"io"
)

// The domain's numbers. Each has its own type, so that a set can not be passed where a seq is meant. Zero is never a
// valid agent, group, set, incarnation or view; it stands for "none" where a field is optional.
type (
	// AgentID names an agent for the life of its cluster; the IDs of lost agents are not used again.
	AgentID uint64
	// GroupID names a consistency group.
	GroupID uint32
	// VolumeID names a volume within the cluster. MarkVolume is reserved.
	VolumeID uint32
	// Set numbers a group's consistent transaction sets: 1, 2, 3 …
	Set uint64
	// Seq is a sequence number, dense per (group, incarnation).
	Seq uint64
	// Incarnation is a primary's right to write in a group: the Raft index at which it was granted.
	Incarnation uint64
	// View numbers the memberships of the cluster; it only rises.
	View uint64
)

// Portion names a fixed-size range of a volume, the unit of responsibility.
type Portion struct {
	Volume VolumeID
	Index  uint32 // offset / portion size
}

const (
	// MarkVolume is the volume of the primaries' pseudo-portions, which carry marks instead of writes.
	MarkVolume VolumeID = 0xFFFFFFFF
	// DefaultPortionSize is the size of a portion in bytes unless a group says otherwise.
	DefaultPortionSize = 64 << 20
)

// MarkPortion returns the pseudo-portion of a primary, in which its manifests travel. Agent IDs are given out by
// Raft from 1 upward, so their low 32 bits tell the primaries of a cluster apart.
func MarkPortion(primary AgentID) Portion {
	return Portion{Volume: MarkVolume, Index: uint32(primary)}
}

// PortionOf returns the portion that holds byte off of volume v. The portion size is in bytes and not zero.
func PortionOf(v VolumeID, off uint64, portionSize uint64) Portion {
	return Portion{Volume: v, Index: uint32(off / portionSize)}
}

// String returns "volume/index", or "mark/primary" for a pseudo-portion.
func (p Portion) String() string {
	if p.Volume == MarkVolume {
		return fmt.Sprintf("mark/%d", p.Index)
	}
	return fmt.Sprintf("%d/%d", p.Volume, p.Index)
}

// ClusterID tells clusters apart. It is random, made once by `flotilla cluster init`.
type ClusterID [16]byte

// NewClusterID draws an ID from a source of randomness, normally crypto/rand.Reader.
func NewClusterID(random io.Reader) (ClusterID, error) {
	var id ClusterID
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return ClusterID{}, fmt.Errorf("draw a cluster ID: %w", err)
	}
	return id, nil
}

// ParseClusterID reads the form that String writes.
func ParseClusterID(s string) (ClusterID, error) {
	var id ClusterID
	if len(s) != hex.EncodedLen(len(id)) {
		return ClusterID{}, fmt.Errorf("parse cluster ID: want %d hexadecimal digits, have %d characters", hex.EncodedLen(len(id)), len(s))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ClusterID{}, fmt.Errorf("parse cluster ID %q: %w", s, err)
	}
	if id.String() != s {
		return ClusterID{}, fmt.Errorf("parse cluster ID %q: write it in lower case", s)
	}
	return id, nil
}

// String returns 32 lower-case hexadecimal digits.
func (id ClusterID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether the ID was never set.
func (id ClusterID) IsZero() bool { return id == ClusterID{} }

// MarshalText and UnmarshalText let the ID stand in JSON and YAML.
func (id ClusterID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads the form that MarshalText writes.
func (id *ClusterID) UnmarshalText(text []byte) error {
	parsed, err := ParseClusterID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}
