package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Limits of one frame.
const (
	// MaxFramePayload bounds the data of all updates of a frame before compression, in bytes.
	MaxFramePayload = 16 << 20
	// MaxUpdatesPerFrame bounds the number of updates of a frame.
	MaxUpdatesPerFrame = 16384
	// MaxBodyLength bounds an encoded body, in bytes: no codec is used where it does not save.
	MaxBodyLength = bodyHeaderLength + MaxUpdatesPerFrame*maxEntryLength + MaxFramePayload
)

// ErrCorrupt says that bytes are not what their sender wrote, or that the sender wrote nonsense.
var ErrCorrupt = errors.New("corrupt data")

// RouteLength is the length of an encoded Route in bytes.
const RouteLength = 48

// Route is the part of a frame that changes at every hop:
//
//	0     8      16      24       32    40      42     44     48
//	| No  | View | Owner | Mirror | Via | Flags | zero | CRC32C |
//
// All numbers are little-endian; the CRC32C covers bytes 0 to 44.
type Route struct {
	No     uint64  // number of this frame on this connection, for acks
	View   View    // the sender's view
	Owner  AgentID // the component responsible
	Mirror AgentID // the component that stores the second copy; 0 for none in a degraded view
	Via    AgentID // the component that forwarded the frame; 0 when it comes from the primary itself
	Flags  uint16  // the meaning is the caller's
}

// Append encodes the route behind dst.
func (r Route) Append(dst []byte) []byte {
	n := len(dst)
	dst = binary.LittleEndian.AppendUint64(dst, r.No)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.View))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.Owner))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.Mirror))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.Via))
	dst = binary.LittleEndian.AppendUint16(dst, r.Flags)
	dst = binary.LittleEndian.AppendUint16(dst, 0)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[n:], castagnoli))
}

// ParseRoute decodes the first RouteLength bytes of raw.
func ParseRoute(raw []byte) (Route, error) {
	if len(raw) < RouteLength {
		return Route{}, fmt.Errorf("parse route: have %d bytes, want %d: %w", len(raw), RouteLength, ErrCorrupt)
	}
	if want, have := binary.LittleEndian.Uint32(raw[44:]), crc32.Checksum(raw[:44], castagnoli); want != have {
		return Route{}, fmt.Errorf("parse route: CRC32C is %08x, computed %08x: %w", want, have, ErrCorrupt)
	}
	if zero := binary.LittleEndian.Uint16(raw[42:]); zero != 0 {
		return Route{}, fmt.Errorf("parse route: reserved bytes are %04x, want zero: %w", zero, ErrCorrupt)
	}
	return Route{
		No:     binary.LittleEndian.Uint64(raw),
		View:   View(binary.LittleEndian.Uint64(raw[8:])),
		Owner:  AgentID(binary.LittleEndian.Uint64(raw[16:])),
		Mirror: AgentID(binary.LittleEndian.Uint64(raw[24:])),
		Via:    AgentID(binary.LittleEndian.Uint64(raw[32:])),
		Flags:  binary.LittleEndian.Uint16(raw[40:]),
	}, nil
}
