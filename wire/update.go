package wire

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// Kind says what an update does to its range.
type Kind uint8

// The kinds of updates. The numbers stand on the wire and on disk.
const (
	KindWrite Kind = 1 // the range becomes Data
	KindZero  Kind = 2 // the range reads as zeroes
	KindTrim  Kind = 3 // the range is not needed; it reads as zeroes on both sides
	KindCheck Kind = 4 // Data is a digest of the range as the source has it at this seq
	KindMark  Kind = 5 // Data is a primary's word in its pseudo-portion, such as a manifest
	// KindFolded is a write that was superseded before it was sent: the update that is Into seqs later, in the same set, covers its
	// range. Only its place in the order is left of it. No prefix may separate the two.
	KindFolded Kind = 6
)

// String returns the kind's name.
func (k Kind) String() string {
	switch k {
	case KindWrite:
		return "write"
	case KindZero:
		return "zero"
	case KindTrim:
		return "trim"
	case KindCheck:
		return "check"
	case KindMark:
		return "mark"
	case KindFolded:
		return "folded"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Limits of one update. A primary splits longer writes; zero and trim carry no data and may be as long as a portion.
const (
	// MaxUpdateLength bounds the data of a write or a mark, in bytes.
	MaxUpdateLength = 4 << 20
	// MaxCheckLength bounds the digest of a check, in bytes.
	MaxCheckLength = 64
)

// ErrSum says that an update's bytes are not those that its primary sealed.
var ErrSum = errors.New("update does not match its checksum")

// Update is one change inside one portion.
type Update struct {
	Seq     Seq
	Into    uint32 // of a folded one: how many seqs later the update is that absorbed it; otherwise 0
	More    bool   // the next seq is of the same write: no prefix may separate them
	Volume  VolumeID
	Portion uint32 // index of the portion inside Volume
	Kind    Kind
	Offset  uint64 // bytes, inside Volume
	Length  uint32 // bytes; len(Data) for a write or a mark
	Sum     uint32 // CRC32C made by Seal on the primary, checked before applying
	Data    []byte // write, check, mark; nil for zero, trim, folded and where only headers are known
}

// castagnoli is never written after initialization.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Seal computes Sum. A primary calls it once, when the update is numbered and its data can not change any more.
func (u *Update) Seal(g GroupID, inc Incarnation) { u.Sum = u.sum(g, inc) }

// Verify compares Sum with the update's data and place. It fails with ErrSum.
func (u *Update) Verify(g GroupID, inc Incarnation) error {
	if have := u.sum(g, inc); have != u.Sum {
		return fmt.Errorf("verify %s seq %d of group %d, incarnation %d (volume %d, offset %d, %d bytes): sealed with %08x, computed %08x: %w",
			u.Kind, u.Seq, g, inc, u.Volume, u.Offset, u.Length, u.Sum, have, ErrSum)
	}
	return nil
}

// sum is CRC32C over these fields in little-endian order, then the data:
//
//	0       4             12    20       24     25       33       37
//	| group | incarnation | seq | volume | kind | offset | length | data …
//	| u32   | u64         | u64 | u32    | u8   | u64    | u32    |
func (u *Update) sum(g GroupID, inc Incarnation) uint32 {
	crc := sumBytes(0, uint64(g), 4)
	crc = sumBytes(crc, uint64(inc), 8)
	crc = sumBytes(crc, uint64(u.Seq), 8)
	crc = sumBytes(crc, uint64(u.Volume), 4)
	crc = sumBytes(crc, uint64(u.Kind), 1)
	crc = sumBytes(crc, u.Offset, 8)
	crc = sumBytes(crc, uint64(u.Length), 4)
	return crc32.Update(crc, castagnoli, u.Data)
}

// sumBytes adds the n low bytes of v to a CRC. It stands instead of crc32.Update on an array, which would put the array
// on the heap once for every update.
func sumBytes(crc uint32, v uint64, n int) uint32 {
	crc = ^crc
	for range n {
		crc = castagnoli[byte(crc)^byte(v)] ^ crc>>8
		v >>= 8
	}
	return ^crc
}

// PortionID returns the portion that the update changes.
func (u *Update) PortionID() Portion { return Portion{Volume: u.Volume, Index: u.Portion} }

// Prefix returns the lowest seq at which a prefix may end that has the update in it, as far as the update says itself.
func (u *Update) Prefix() Seq {
	switch {
	case u.Into != 0:
		return u.Seq + Seq(u.Into)
	case u.More:
		return u.Seq + 1
	}
	return u.Seq
}

// End returns the offset of the first byte behind the range.
func (u *Update) End() uint64 { return u.Offset + uint64(u.Length) }

// checkHeader refuses headers that no primary makes. It does not look at Data.
func (u *Update) checkHeader() error {
	switch u.Kind {
	case KindWrite, KindMark:
		if u.Length > MaxUpdateLength {
			return fmt.Errorf("%s of %d bytes is longer than %d: split it", u.Kind, u.Length, MaxUpdateLength)
		}
	case KindZero, KindTrim, KindCheck, KindFolded:
	default:
		return fmt.Errorf("kind %d is unknown", uint8(u.Kind))
	}
	if u.Length == 0 {
		return fmt.Errorf("%s has no length", u.Kind)
	}
	if u.Offset > math.MaxUint64-uint64(u.Length) {
		return fmt.Errorf("%s of %d bytes at offset %d passes the end of 64 bits", u.Kind, u.Length, u.Offset)
	}
	if (u.Kind == KindFolded) != (u.Into != 0) {
		return fmt.Errorf("%s is folded into the update %d seqs later: those that are folded, and no others, name a later one", u.Kind, u.Into)
	}
	if uint64(u.Seq) > math.MaxUint64-uint64(u.Into) {
		return fmt.Errorf("seq %d is folded into one %d later, which passes the end of 64 bits", u.Seq, u.Into)
	}
	return nil
}

// checkData refuses data that does not fit the header.
func (u *Update) checkData() error {
	n := len(u.Data)
	switch u.Kind {
	case KindWrite, KindMark:
		if n != int(u.Length) {
			return fmt.Errorf("%s of %d bytes carries %d", u.Kind, u.Length, n)
		}
	case KindCheck:
		if n == 0 || n > MaxCheckLength {
			return fmt.Errorf("check carries a digest of %d bytes, want 1 to %d", n, MaxCheckLength)
		}
	default:
		if n != 0 {
			return fmt.Errorf("%s carries %d bytes, want none", u.Kind, n)
		}
	}
	return nil
}
