package wire

import (
	"encoding/binary"
	"fmt"
	"math"
)

// An entry of the update table. The table is read without touching the payload.
//
//	flags u8 · [seq] · [volume] · [portion] · offset · length · [folding] · [digest length] · sum u32
//
// Numbers in between are unsigned varints (LEB128). What stands in brackets is there only as the flags say:
//
//	bits 0–2  kind
//	bit 3     seq is the one after the previous entry's; else seq minus the previous one follows (the first: seq)
//	bit 4     volume is the previous entry's; else it follows (before the first entry it is 0)
//	bit 5     portion is offset / DefaultPortionSize; else it follows
//	bit 6     offset and length count sectors of 512 bytes; else bytes
//	bit 7     folding follows: into × 2 + more; else both are 0
//
// Offset is zigzag coded: its distance from the end of the previous entry (both in the unit of this entry, the end
// rounded down). The digest length is there for checks only. A 4 KiB write at random in 1 TiB takes 11 bytes.
const (
	entryKindMask    = 0x07
	entryNextSeq     = 0x08
	entrySameVolume  = 0x10
	entryPortion     = 0x20
	entrySectors     = 0x40
	entryFolding     = 0x80
	sectorShift      = 9
	sectorMask       = 1<<sectorShift - 1
	minEntryLength   = 1 + 1 + 1 + 4
	maxEntryLength   = 1 + 10 + 5 + 5 + 10 + 5 + 5 + 1 + 4
	maxSectorAddress = math.MaxUint64 >> sectorShift
)

// tableCursor is what an entry is coded against: the entry before it.
type tableCursor struct {
	seq    Seq
	volume VolumeID
	end    uint64
	count  int
}

func (c *tableCursor) advance(u *Update) {
	c.seq, c.volume, c.end = u.Seq, u.Volume, u.End()
	c.count++
}

// append encodes one checked update behind dst.
func (c *tableCursor) append(dst []byte, u *Update) ([]byte, error) {
	if c.count > 0 && u.Seq <= c.seq {
		return dst, fmt.Errorf("seq %d follows seq %d: order updates by seq", u.Seq, c.seq)
	}
	start := len(dst)
	dst = append(dst, 0)
	flags := byte(u.Kind)
	if c.seq != math.MaxUint64 && u.Seq == c.seq+1 {
		flags |= entryNextSeq
	} else {
		dst = binary.AppendUvarint(dst, uint64(u.Seq-c.seq))
	}
	if u.Volume == c.volume {
		flags |= entrySameVolume
	} else {
		dst = binary.AppendUvarint(dst, uint64(u.Volume))
	}
	if uint64(u.Portion) == u.Offset/DefaultPortionSize {
		flags |= entryPortion
	} else {
		dst = binary.AppendUvarint(dst, uint64(u.Portion))
	}
	var shift uint
	if (u.Offset|uint64(u.Length))&sectorMask == 0 {
		flags |= entrySectors
		shift = sectorShift
	}
	dst = binary.AppendUvarint(dst, zigzag(u.Offset>>shift-c.end>>shift))
	dst = binary.AppendUvarint(dst, uint64(u.Length>>shift))
	if u.Into != 0 || u.More {
		flags |= entryFolding
		folding := uint64(u.Into) << 1
		if u.More {
			folding |= 1
		}
		dst = binary.AppendUvarint(dst, folding)
	}
	if u.Kind == KindCheck {
		dst = append(dst, byte(len(u.Data)))
	}
	dst = binary.LittleEndian.AppendUint32(dst, u.Sum)
	dst[start] = flags
	c.advance(u)
	return dst, nil
}

// next decodes one entry into u and returns the bytes behind it and the length of the update's data.
func (c *tableCursor) next(table []byte, u *Update) (rest []byte, dataLen uint32, err error) {
	if len(table) == 0 {
		return nil, 0, errShortTable
	}
	flags := table[0]
	r := varintReader{buf: table[1:]}
	*u = Update{Kind: Kind(flags & entryKindMask), Seq: c.seq + 1, Volume: c.volume}
	if flags&entryNextSeq == 0 {
		delta := r.next(math.MaxUint64)
		u.Seq = c.seq + Seq(delta)
	}
	if u.Seq < c.seq || (c.count > 0 && u.Seq == c.seq) {
		return nil, 0, fmt.Errorf("seq does not rise above %d", c.seq)
	}
	if flags&entrySameVolume == 0 {
		u.Volume = VolumeID(r.next(math.MaxUint32))
	}
	var portion uint64
	if flags&entryPortion == 0 {
		portion = r.next(math.MaxUint32)
	}
	shift, limit := uint(0), uint64(math.MaxUint64)
	if flags&entrySectors != 0 {
		shift, limit = sectorShift, maxSectorAddress
	}
	offset := c.end>>shift + unzigzag(r.next(math.MaxUint64))
	if offset > limit {
		return nil, 0, fmt.Errorf("offset of %d sectors passes the end of 64 bits", offset)
	}
	u.Offset = offset << shift
	u.Length = uint32(r.next(math.MaxUint32>>shift) << shift)
	if flags&entryPortion != 0 {
		if portion = u.Offset / DefaultPortionSize; portion > math.MaxUint32 {
			return nil, 0, fmt.Errorf("portion %d does not fit 32 bits", portion)
		}
	}
	u.Portion = uint32(portion)
	if flags&entryFolding != 0 {
		folding := r.next(math.MaxUint32<<1 | 1)
		u.Into, u.More = uint32(folding>>1), folding&1 != 0
	}
	switch u.Kind {
	case KindWrite, KindMark:
		dataLen = u.Length
	case KindCheck:
		dataLen = r.byte()
		if r.err == nil && (dataLen == 0 || dataLen > MaxCheckLength) {
			return nil, 0, fmt.Errorf("digest of %d bytes, want 1 to %d", dataLen, MaxCheckLength)
		}
	}
	u.Sum = r.uint32()
	if r.err != nil {
		return nil, 0, r.err
	}
	if err := u.checkHeader(); err != nil {
		return nil, 0, err
	}
	c.advance(u)
	return r.buf, dataLen, nil
}

// zigzag maps small distances of either sign, in arithmetic modulo 2^64, to small numbers.
func zigzag(d uint64) uint64   { return d<<1 ^ uint64(int64(d)>>63) }
func unzigzag(z uint64) uint64 { return z>>1 ^ -(z & 1) }
