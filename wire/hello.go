package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// The protocol versions that this build speaks.
const (
	ProtocolMin = 1
	ProtocolMax = 1
)

// Errors of the exchange of hellos.
var (
	ErrVersion = errors.New("no common protocol version")
	ErrCluster = errors.New("peer belongs to another cluster")
	ErrRole    = errors.New("peer uses the connection for something else")
	// ErrGeneration is matched by a GenerationError.
	ErrGeneration = errors.New("peer is of another generation of the cluster")
)

// GenerationError says that two agents are not of the same level.
type GenerationError struct{ Own, Peer Hello }

// Error names both generations.
func (e *GenerationError) Error() string {
	say := func(h *Hello) string {
		if h.Promised > h.Generation {
			return fmt.Sprintf("generation %d, ready for %d", h.Generation, h.Promised)
		}
		return fmt.Sprintf("generation %d", h.Generation)
	}
	return fmt.Sprintf("agent %d is of %s, this one of %s: %v", e.Peer.Agent, say(&e.Peer), say(&e.Own), ErrGeneration)
}

// Unwrap returns ErrGeneration.
func (e *GenerationError) Unwrap() error { return ErrGeneration }

// ConnRole says what a connection is for.
type ConnRole uint8

// The roles of connections.
const (
	RoleData    ConnRole = 1 // frames and their acks
	RoleControl ConnRole = 2 // everything else
)

// String returns the role's name.
func (r ConnRole) String() string {
	switch r {
	case RoleData:
		return "data"
	case RoleControl:
		return "control"
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// Hello opens each direction of a connection:
//
//	0       4        6     7     8      9      16         24        40      48           56         64        65             length − 4
//	| magic | length | min | max | role | zero | features | cluster | agent | generation | promised | address | later …     | CRC32C |
//	| FLOT  | u16    | u8  | u8  | u8   | 7 B  | u64      | 16 B    | u64   | u64        | u64      | u8 n    | n B, text … |        |
//
// Numbers are little-endian; the length counts all bytes. Later versions may add fields at "later", behind the address, which older ones
// skip: what precedes them never changes its place. A hello that ends before generation is of generation 0, and promises
// none; one that ends before the address has none. The CRC32C covers all before it.
type Hello struct {
	Min, Max uint8    // the protocol versions that the sender speaks
	Role     ConnRole // an acceptor that takes any role has 0, and answers with the initiator's
	Features uint64   // bits of optional abilities
	Cluster  ClusterID
	Agent    AgentID // the sender; the caller compares it with the certificate's

	Generation uint64 // of the cluster, as the sender knows it
	Promised   uint64 // the sender talks to nobody below this one

	// Address is the host:port at which the sender listens, for receivers that do not know it yet; at most MaxAddress
	// bytes, "" for not said.
	Address string
}

// MaxAddress bounds an agent's address, in bytes.
const MaxAddress = 255

// Level is the generation below which the sender talks to nobody. Two agents that differ in it have nothing to say to each
// other.
func (h *Hello) Level() uint64 { return max(h.Generation, h.Promised) }

const (
	helloMagic     = "FLOT"
	minHelloLength = 52
	helloLength    = 68 // up to promised, with the CRC32C
	maxHelloLength = 512
)

// NewHello returns the hello of this build.
func NewHello(cluster ClusterID, agent AgentID, role ConnRole, features uint64) Hello {
	return Hello{Min: ProtocolMin, Max: ProtocolMax, Role: role, Features: features, Cluster: cluster, Agent: agent}
}

// Append encodes the hello behind dst. It panics if the address is longer than MaxAddress.
func (h Hello) Append(dst []byte) []byte {
	if len(h.Address) > MaxAddress {
		panic(fmt.Sprintf("wire: an address of %d bytes", len(h.Address)))
	}
	start := len(dst)
	dst = append(dst, helloMagic...)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(helloLength+1+len(h.Address)))
	dst = append(dst, h.Min, h.Max, byte(h.Role), 0, 0, 0, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, h.Features)
	dst = append(dst, h.Cluster[:]...)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(h.Agent))
	dst = binary.LittleEndian.AppendUint64(dst, h.Generation)
	dst = binary.LittleEndian.AppendUint64(dst, h.Promised)
	dst = append(dst, byte(len(h.Address)))
	dst = append(dst, h.Address...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// ReadHello reads one hello and nothing behind it. It fails with ErrCorrupt for what is none.
func ReadHello(r io.Reader) (Hello, error) {
	var buf [maxHelloLength]byte
	head := buf[:6]
	if _, err := io.ReadFull(r, head); err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", err)
	}
	if string(head[:4]) != helloMagic {
		return Hello{}, fmt.Errorf("read hello: it begins with % x, not with %q; is the peer an agent? %w", head[:4], helloMagic, ErrCorrupt)
	}
	length := binary.LittleEndian.Uint16(head[4:])
	if length < minHelloLength || length > maxHelloLength {
		return Hello{}, fmt.Errorf("read hello of %d bytes: want %d to %d: %w", length, minHelloLength, maxHelloLength, ErrCorrupt)
	}
	raw := buf[:length]
	if _, err := io.ReadFull(r, raw[6:]); err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", unexpected(err))
	}
	if want, have := binary.LittleEndian.Uint32(raw[length-4:]), crc32.Checksum(raw[:length-4], castagnoli); want != have {
		return Hello{}, fmt.Errorf("read hello: CRC32C is %08x, computed %08x: %w", want, have, ErrCorrupt)
	}
	h := Hello{
		Min: raw[6], Max: raw[7], Role: ConnRole(raw[8]),
		Features: binary.LittleEndian.Uint64(raw[16:]),
		Agent:    AgentID(binary.LittleEndian.Uint64(raw[40:])),
	}
	copy(h.Cluster[:], raw[24:])
	if length >= helloLength {
		h.Generation, h.Promised = binary.LittleEndian.Uint64(raw[48:]), binary.LittleEndian.Uint64(raw[56:])
	}
	if length > helloLength {
		end := 65 + int(raw[64])
		if end > int(length)-4 {
			return Hello{}, fmt.Errorf("read hello of agent %d: an address of %d bytes: %w", h.Agent, raw[64], ErrCorrupt)
		}
		h.Address = string(raw[65:end])
	}
	if h.Min == 0 || h.Min > h.Max || h.Agent == 0 {
		return Hello{}, fmt.Errorf("read hello of agent %d, versions %d to %d: %w", h.Agent, h.Min, h.Max, ErrCorrupt)
	}
	return h, nil
}

// Negotiated is what two hellos agree on.
type Negotiated struct {
	Version  uint8  // the highest that both speak
	Features uint64 // those that both have
	Role     ConnRole
	Peer     Hello
}

// Initiate exchanges hellos on a connection that this side has opened. The caller sets a deadline.
func Initiate(rw io.ReadWriter, own Hello) (Negotiated, error) {
	if _, err := rw.Write(own.Append(nil)); err != nil {
		return Negotiated{}, fmt.Errorf("send hello: %w", err)
	}
	peer, err := ReadHello(rw)
	if err != nil {
		return Negotiated{}, err
	}
	return negotiate(own, peer)
}

// Accept exchanges hellos on a connection that the peer has opened. It answers even a hello that it refuses, so that the
// peer can say what did not fit. The caller sets a deadline.
func Accept(rw io.ReadWriter, own Hello) (Negotiated, error) {
	peer, err := ReadHello(rw)
	if err != nil {
		return Negotiated{}, err
	}
	if own.Role == 0 {
		own.Role = peer.Role
	}
	if _, err := rw.Write(own.Append(nil)); err != nil {
		return Negotiated{}, fmt.Errorf("answer hello of agent %d: %w", peer.Agent, err)
	}
	return negotiate(own, peer)
}

func negotiate(own, peer Hello) (Negotiated, error) {
	version := min(own.Max, peer.Max)
	switch {
	case own.Cluster != peer.Cluster:
		return Negotiated{}, fmt.Errorf("agent %d is of cluster %v, this one of %v: %w", peer.Agent, peer.Cluster, own.Cluster, ErrCluster)
	case version < max(own.Min, peer.Min):
		return Negotiated{}, fmt.Errorf("agent %d speaks protocol versions %d to %d, this one %d to %d; upgrade the older: %w",
			peer.Agent, peer.Min, peer.Max, own.Min, own.Max, ErrVersion)
	case own.Level() != peer.Level():
		return Negotiated{}, &GenerationError{Own: own, Peer: peer}
	case own.Role != peer.Role:
		return Negotiated{}, fmt.Errorf("agent %d wants a %v connection, this one %v: %w", peer.Agent, peer.Role, own.Role, ErrRole)
	}
	return Negotiated{Version: version, Features: own.Features & peer.Features, Role: own.Role, Peer: peer}, nil
}
