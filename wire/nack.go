package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// Reason says why a frame was refused. The numbers stand on the wire.
type Reason uint16

// The reasons.
const (
	ReasonView       Reason = 1 // the frame's view is not the receiver's, which the nack names: resend in that
	ReasonSet        Reason = 2 // the receiver does not know the set's grant yet: resend later
	ReasonAssignment Reason = 3 // the receiver neither owns nor mirrors the portions
	ReasonRevoked    Reason = 4 // the incarnation was revoked or sealed: it never writes again
	ReasonSpace      Reason = 5 // the receiver's journal is at its mark: pace
	ReasonCorrupt    Reason = 6 // the frame was damaged on the way: resend
	ReasonLeaving    Reason = 7 // the receiver is going: send to another
)

// String returns the reason in words.
func (r Reason) String() string {
	switch r {
	case ReasonView:
		return "other view"
	case ReasonSet:
		return "set not granted here yet"
	case ReasonAssignment:
		return "not responsible"
	case ReasonRevoked:
		return "incarnation revoked"
	case ReasonSpace:
		return "journal full"
	case ReasonCorrupt:
		return "frame damaged"
	case ReasonLeaving:
		return "leaving"
	}
	return fmt.Sprintf("reason(%d)", uint16(r))
}

// Nack refuses one frame:
//
//	0    8      16       18     20      24
//	| No | View | Reason | zero | CRC32C |
//
// All numbers are little-endian; the CRC32C covers bytes 0 to 20.
type Nack struct {
	No     uint64 // the frame's number on the connection
	View   View   // the refuser's view
	Reason Reason // a receiver takes reasons that it does not know for "resend later"
}

// Append encodes the nack behind dst.
func (n Nack) Append(dst []byte) []byte {
	start := len(dst)
	dst = binary.LittleEndian.AppendUint64(dst, n.No)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(n.View))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(n.Reason))
	dst = binary.LittleEndian.AppendUint16(dst, 0)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// ParseNack decodes a nack. It fails with ErrCorrupt.
func ParseNack(raw []byte) (Nack, error) {
	if len(raw) != NackLength {
		return Nack{}, fmt.Errorf("parse nack of %d bytes: want %d: %w", len(raw), NackLength, ErrCorrupt)
	}
	if want, have := binary.LittleEndian.Uint32(raw[20:]), crc32.Checksum(raw[:20], castagnoli); want != have {
		return Nack{}, fmt.Errorf("parse nack: CRC32C is %08x, computed %08x: %w", want, have, ErrCorrupt)
	}
	if zero := binary.LittleEndian.Uint16(raw[18:]); zero != 0 {
		return Nack{}, fmt.Errorf("parse nack: reserved bytes are %04x, want zero: %w", zero, ErrCorrupt)
	}
	return Nack{
		No:     binary.LittleEndian.Uint64(raw),
		View:   View(binary.LittleEndian.Uint64(raw[8:])),
		Reason: Reason(binary.LittleEndian.Uint16(raw[16:])),
	}, nil
}
