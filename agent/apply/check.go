package apply

import (
	"encoding/binary"
	"fmt"

	"flotilla/wire"
)

// A request of checks writes nothing. Its pieces are runs of a check and what overlays it:
//
//	check · [write | zero | trim] …   check · …
//
// A check stands for its seq in a set. The target is at the end of the set before, so what the range is to hold is what the
// target has there, overlaid with the updates of the same set below that seq: these pieces lie inside the check's range,
// ascending and disjoint. Where updates above that seq overlap the range, too (Later), some of them may be on the target
// already if the set is being applied anew: only the secondary knows.

// Limits of a request of checks.
const (
	// MaxCheckRange bounds the range of one check, in bytes.
	MaxCheckRange = 4 << 20
	// MaxChecked bounds the ranges of all checks of a request, in bytes.
	MaxChecked = 32 << 20
)

// checkDataLength is the length of a check's data: seq and digest.
const checkDataLength = 8 + wire.DigestLength

// NewCheck returns the piece of a check.
func NewCheck(off uint64, length uint32, later bool, seq wire.Seq, digest [wire.DigestLength]byte) Piece {
	data := append(binary.LittleEndian.AppendUint64(make([]byte, 0, checkDataLength), uint64(seq)), digest[:]...)
	return Piece{Kind: wire.KindCheck, Later: later, Offset: off, Length: length, Sum: Sum(data), Data: data}
}

// Check returns what NewCheck was given. The piece is a valid one of a check.
func (p *Piece) Check() (seq wire.Seq, digest [wire.DigestLength]byte) {
	return wire.Seq(binary.LittleEndian.Uint64(p.Data)), [wire.DigestLength]byte(p.Data[8:])
}

// validateChecks refuses what is no runs of checks. The pieces themselves are valid.
func (r *Request) validateChecks() error {
	if r.Flush || r.Writes != 0 {
		return fmt.Errorf("%w: checks come alone: nothing is written before them or flushed", ErrInvalid)
	}
	var check *Piece
	total, at := uint64(0), uint64(0)
	for i := range r.Pieces {
		p := &r.Pieces[i]
		switch {
		case p.Kind == wire.KindCheck:
			check, at = p, p.Offset
			if total += uint64(p.Length); p.Length > MaxCheckRange || total > MaxChecked {
				return fmt.Errorf("%w: piece %d: a check of %d bytes, of %d together, is more than %d or %d",
					ErrInvalid, i, p.Length, total, MaxCheckRange, MaxChecked)
			}
		case check == nil || p.Offset < at || p.End() > check.End():
			return fmt.Errorf("%w: piece %d: %v of %d bytes at offset %d does not follow inside of a check", ErrInvalid, i, p.Kind, p.Length, p.Offset)
		default:
			at = p.End()
		}
	}
	return nil
}
