package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
)

const (
	// MaxAckRanges bounds the ranges of one ack.
	MaxAckRanges = 4096
	// MaxAckLength bounds an encoded ack in bytes.
	MaxAckLength = binary.MaxVarintLen64*(1+2*MaxAckRanges) + 4
	// NackLength is the length of an encoded nack in bytes.
	NackLength = 24
)

// FrameRange is a range of a connection's frame numbers, both ends included.
type FrameRange struct {
	First, Last uint64
}

// Ack names frames of a connection by their numbers. Its ranges rise and neither meet nor overlap, so that one slow
// mirror does not hold up what others have done. The zero value names none.
type Ack struct {
	Ranges []FrameRange
}

// Add names one more frame; a repeat changes nothing. It returns false, and adds nothing, where that would need more
// than MaxAckRanges ranges: send the ack and begin anew.
func (a *Ack) Add(no uint64) bool {
	// i is the first range that ends at no-1 or later: the only one that no can extend upward or lie in.
	i, _ := slices.BinarySearchFunc(a.Ranges, no, func(r FrameRange, no uint64) int {
		if r.Last < no && r.Last+1 < no {
			return -1
		}
		return 1
	})
	if i == len(a.Ranges) || (no < a.Ranges[i].First && no+1 < a.Ranges[i].First) {
		if len(a.Ranges) >= MaxAckRanges {
			return false
		}
		a.Ranges = slices.Insert(a.Ranges, i, FrameRange{First: no, Last: no})
		return true
	}
	r := &a.Ranges[i]
	r.First, r.Last = min(r.First, no), max(r.Last, no)
	if i+1 < len(a.Ranges) && r.Last+1 == a.Ranges[i+1].First {
		r.Last = a.Ranges[i+1].Last
		a.Ranges = slices.Delete(a.Ranges, i+1, i+2)
	}
	return true
}

// Contains reports whether the ack names a frame.
func (a *Ack) Contains(no uint64) bool {
	_, found := slices.BinarySearchFunc(a.Ranges, no, func(r FrameRange, no uint64) int {
		switch {
		case r.Last < no:
			return -1
		case r.First > no:
			return 1
		}
		return 0
	})
	return found
}

// Append encodes the ack behind dst:
//
//	count · first · last − first · { first − previous last − 2 · last − first } … · CRC32C
//
// All but the CRC, which covers what precedes it, are varints. It fails for ranges that ParseAck would refuse.
func (a *Ack) Append(dst []byte) ([]byte, error) {
	if len(a.Ranges) == 0 || len(a.Ranges) > MaxAckRanges {
		return dst, fmt.Errorf("encode ack of %d ranges: want 1 to %d", len(a.Ranges), MaxAckRanges)
	}
	start := len(dst)
	dst = binary.AppendUvarint(dst, uint64(len(a.Ranges)))
	next := uint64(0) // the lowest first number that is allowed
	for i, r := range a.Ranges {
		if r.First < next || r.Last < r.First || (i > 0 && next == 0) {
			return dst[:start], fmt.Errorf("encode ack: range %d (frames %d to %d) does not lie apart above the one before it", i, r.First, r.Last)
		}
		dst = binary.AppendUvarint(dst, r.First-next)
		dst = binary.AppendUvarint(dst, r.Last-r.First)
		next = afterRange(r)
	}
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli)), nil
}

// afterRange returns the lowest number at which another range may start, or 0 when there is none.
func afterRange(r FrameRange) uint64 {
	if r.Last >= math.MaxUint64-1 {
		return 0
	}
	return r.Last + 2
}

// ParseAck decodes an ack. It fails with ErrCorrupt.
func ParseAck(raw []byte) (*Ack, error) {
	if len(raw) < 4 || len(raw) > MaxAckLength {
		return nil, fmt.Errorf("parse ack of %d bytes: want 4 to %d: %w", len(raw), MaxAckLength, ErrCorrupt)
	}
	content := raw[:len(raw)-4]
	if want, have := binary.LittleEndian.Uint32(raw[len(content):]), crc32.Checksum(content, castagnoli); want != have {
		return nil, fmt.Errorf("parse ack: CRC32C is %08x, computed %08x: %w", want, have, ErrCorrupt)
	}
	r := varintReader{buf: content}
	count := r.next(MaxAckRanges)
	if r.err == nil && (count == 0 || count > uint64(len(r.buf)/2)) {
		return nil, fmt.Errorf("parse ack: %d ranges in %d bytes: %w", count, len(content), ErrCorrupt)
	}
	a := &Ack{Ranges: make([]FrameRange, 0, count)}
	next := uint64(0)
	for i := range count {
		if i > 0 && next == 0 {
			r.fail(fmt.Errorf("no frame number is left for range %d", i))
		}
		first := next + r.next(math.MaxUint64-next)
		last := first + r.next(math.MaxUint64-first)
		a.Ranges = append(a.Ranges, FrameRange{First: first, Last: last})
		next = afterRange(a.Ranges[i])
	}
	if r.err == nil && len(r.buf) != 0 {
		r.fail(fmt.Errorf("%d bytes follow the last range", len(r.buf)))
	}
	if r.err != nil {
		return nil, fmt.Errorf("parse ack: %w: %w", r.err, ErrCorrupt)
	}
	return a, nil
}
