package blockdev

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A bitmap as bytes, all integers little-endian:
//
//	 0        4 5       8              16              24                 n-4      n
//	+----------+-+-------+---------------+---------------+------------------+--------+
//	| "FBMP"   |V| zero  | device size   | extent size   | words, 8 bytes   | CRC32C |
//	|          | |       | in bytes      | in bytes      | each, bit 0 low  |        |
//	+----------+-+-------+---------------+---------------+------------------+--------+
//
// V is bitmapVersion. Bits behind the last extent are zero. The CRC covers
// everything before it.
const (
	bitmapMagic   = "FBMP"
	bitmapVersion = 1
	bitmapHeader  = 24
	bitmapTrailer = 4
)

// AppendBinary appends the bitmap as bytes to dst. Bits that change meanwhile
// are in it or not.
func (b *Bitmap) AppendBinary(dst []byte) ([]byte, error) {
	start := len(dst)
	dst = append(dst, bitmapMagic...)
	dst = append(dst, bitmapVersion, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(b.size))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(b.extent))
	for i := range b.words {
		dst = binary.LittleEndian.AppendUint64(dst, b.words[i].Load())
	}
	return binary.LittleEndian.AppendUint32(dst, checksum(dst[start:])), nil
}

// MarshalBinary returns the bitmap as bytes, as AppendBinary does.
func (b *Bitmap) MarshalBinary() ([]byte, error) {
	return b.AppendBinary(make([]byte, 0, bitmapHeader+8*len(b.words)+bitmapTrailer))
}

// ParseBitmap returns the bitmap that MarshalBinary made data of. It allocates
// nothing that data, by its length, does not pay for. Errors wrap ErrBadBitmap.
func ParseBitmap(data []byte) (*Bitmap, error) {
	if len(data) < bitmapHeader+bitmapTrailer || string(data[:4]) != bitmapMagic {
		return nil, fmt.Errorf("%w: %d bytes without its header", ErrBadBitmap, len(data))
	}
	if v := data[4]; v != bitmapVersion {
		return nil, fmt.Errorf("%w: version %d, and only %d is known", ErrBadBitmap, v, bitmapVersion)
	}
	if data[5]|data[6]|data[7] != 0 {
		return nil, fmt.Errorf("%w: reserved bytes are not zero", ErrBadBitmap)
	}
	body, sum := data[:len(data)-bitmapTrailer], binary.LittleEndian.Uint32(data[len(data)-bitmapTrailer:])
	if got := checksum(body); got != sum {
		return nil, fmt.Errorf("%w: checksum %08x, and its bytes have %08x", ErrBadBitmap, sum, got)
	}
	size, extent := int64(binary.LittleEndian.Uint64(data[8:])), int64(binary.LittleEndian.Uint64(data[16:]))
	words := body[bitmapHeader:]
	if extent <= 0 || size < 0 || wordsFor(size, extent) != int64(len(words))/8 || len(words)%8 != 0 {
		return nil, fmt.Errorf("%w: %d bytes of bits for a device of %d bytes in extents of %d", ErrBadBitmap, len(words), size, extent)
	}
	b, err := NewBitmap(size, extent)
	if err != nil {
		return nil, err
	}
	if err := b.MergeBytes(words, 0); err != nil {
		return nil, err
	}
	return b, nil
}

// wordsFor returns how many words a bitmap of this shape has.
func wordsFor(size, extent int64) int64 {
	n := size / extent
	if size%extent != 0 {
		n++
	}
	return n/64 + min(n%64, 1)
}

func checksum(p []byte) uint32 { return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) }

// ByteLen returns the length in bytes of the bits alone, a multiple of 8. With
// ReadBytes and MergeBytes they can be kept page by page.
func (b *Bitmap) ByteLen() int { return 8 * len(b.words) }

// ReadBytes fills p with the bits from byte at on, in the order of the words
// above. at and the length of p have to be multiples of 8.
func (b *Bitmap) ReadBytes(p []byte, at int) error {
	if err := b.checkBytes(len(p), at); err != nil {
		return fmt.Errorf("read bits: %w", err)
	}
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], b.words[(at+i)/8].Load())
	}
	return nil
}

// MergeBytes sets the bits that are set in p, which ReadBytes filled from byte
// at of a bitmap of the same shape. If p has a bit behind the last extent,
// nothing is set.
func (b *Bitmap) MergeBytes(p []byte, at int) error {
	if err := b.checkBytes(len(p), at); err != nil {
		return fmt.Errorf("merge bits: %w", err)
	}
	if spare := b.bits % 64; spare != 0 && len(p) > 0 && at+len(p) == b.ByteLen() {
		if w := binary.LittleEndian.Uint64(p[len(p)-8:]); w>>spare != 0 {
			return fmt.Errorf("merge bits: %w: bits behind the last of %d extents", ErrBadBitmap, b.bits)
		}
	}
	for i := 0; i < len(p); i += 8 {
		if w := binary.LittleEndian.Uint64(p[i:]); w != 0 {
			b.setWord(int64(at+i)/8, w)
		}
	}
	return nil
}

func (b *Bitmap) checkBytes(n, at int) error {
	if at < 0 || at%8 != 0 || n%8 != 0 || at > b.ByteLen() || n > b.ByteLen()-at {
		return fmt.Errorf("%w: %d bytes at byte %d of %d", ErrBadBitmap, n, at, b.ByteLen())
	}
	return nil
}
