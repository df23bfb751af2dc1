package blockdev

import (
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"sync/atomic"
)

// ErrBadBitmap says that a bitmap cannot have the wanted shape, or that bytes
// are not those of a bitmap.
var ErrBadBitmap = errors.New("bad bitmap")

// MaxBitmapBits is the largest number of extents of a Bitmap: 128 MiB of bits.
const MaxBitmapBits = 1 << 30

// Bitmap holds one bit for each extent of a device: set, it says that the
// extent is dirty. All methods may be called concurrently and none waits for
// another. A method that touches many bits is atomic for each word of 64 only,
// so it shows or changes them as they were or are at some moment of the call.
type Bitmap struct {
	size   int64 // of the device in bytes
	extent int64 // bytes per bit; a power of two
	shift  uint  // extent == 1<<shift
	bits   int64 // number of bits; the last one may stand for less than an extent
	words  []atomic.Uint64
	count  atomic.Int64 // set bits; follows the words
}

// Run is a dirty range in bytes, ending where the device ends at the latest.
type Run struct {
	Offset, Length int64
}

// NewBitmap returns a clean bitmap for a device of size bytes. extent, the bytes
// for each bit, has to be a power of two that makes at most MaxBitmapBits bits.
func NewBitmap(size, extent int64) (*Bitmap, error) {
	if size < 0 || extent <= 0 || extent&(extent-1) != 0 {
		return nil, fmt.Errorf("%w: %d bytes in extents of %d bytes; an extent has to be a power of two", ErrBadBitmap, size, extent)
	}
	n := size / extent
	if size%extent != 0 {
		n++
	}
	if n > MaxBitmapBits {
		return nil, fmt.Errorf("%w: %d bytes in extents of %d bytes are %d bits, more than %d; choose larger extents",
			ErrBadBitmap, size, extent, n, MaxBitmapBits)
	}
	return &Bitmap{
		size:   size,
		extent: extent,
		shift:  uint(bits.TrailingZeros64(uint64(extent))),
		bits:   n,
		words:  make([]atomic.Uint64, (n+63)/64),
	}, nil
}

// Size returns the size of the device in bytes.
func (b *Bitmap) Size() int64 { return b.size }

// ExtentSize returns the bytes that a bit stands for.
func (b *Bitmap) ExtentSize() int64 { return b.extent }

// Len returns the number of bits.
func (b *Bitmap) Len() int64 { return b.bits }

// Count returns the number of set bits.
func (b *Bitmap) Count() int64 { return b.count.Load() }

// Set sets bit i and reports whether it was clear. It panics if there is no
// such bit.
func (b *Bitmap) Set(i int64) bool {
	b.check(i)
	return b.setWord(i/64, 1<<(i%64)) != 0
}

// Clear clears bit i and reports whether it was set. It panics if there is no
// such bit.
func (b *Bitmap) Clear(i int64) bool {
	b.check(i)
	return b.clearWord(i/64, 1<<(i%64)) != 0
}

// Test reports whether bit i is set. It panics if there is no such bit.
func (b *Bitmap) Test(i int64) bool {
	b.check(i)
	return b.words[i/64].Load()&(1<<(i%64)) != 0
}

func (b *Bitmap) check(i int64) {
	if i < 0 || i >= b.bits {
		panic(fmt.Sprintf("blockdev: bit %d of a bitmap of %d", i, b.bits))
	}
}

// SetRange sets the bits of all extents that the range of bytes touches and
// returns how many were clear.
func (b *Bitmap) SetRange(off, length int64) (int64, error) {
	first, end, err := b.touched(off, length)
	if err != nil {
		return 0, fmt.Errorf("set %d bytes at offset %d: %w", length, off, err)
	}
	var changed int
	for word, mask := range masks(first, end) {
		changed += b.setWord(word, mask)
	}
	return int64(changed), nil
}

// ClearRange clears the bits of all extents that lie wholly in the range of
// bytes, and returns how many were set. The last extent of the device ends where
// the device ends.
func (b *Bitmap) ClearRange(off, length int64) (int64, error) {
	if err := checkRange(b.size, off, length); err != nil {
		return 0, fmt.Errorf("clear %d bytes at offset %d: %w", length, off, err)
	}
	first, end := off>>b.shift, (off+length)>>b.shift
	if off&(b.extent-1) != 0 {
		first++
	}
	if off+length == b.size {
		end = b.bits
	}
	var changed int
	for word, mask := range masks(first, end) {
		changed += b.clearWord(word, mask)
	}
	return int64(changed), nil
}

// TestRange reports whether any extent that the range of bytes touches is set.
func (b *Bitmap) TestRange(off, length int64) (bool, error) {
	first, end, err := b.touched(off, length)
	if err != nil {
		return false, fmt.Errorf("test %d bytes at offset %d: %w", length, off, err)
	}
	for word, mask := range masks(first, end) {
		if b.words[word].Load()&mask != 0 {
			return true, nil
		}
	}
	return false, nil
}

// touched returns the bits [first, end) of the extents that a range touches.
func (b *Bitmap) touched(off, length int64) (first, end int64, err error) {
	if err := checkRange(b.size, off, length); err != nil || length == 0 {
		return 0, 0, err
	}
	return off >> b.shift, (off+length-1)>>b.shift + 1, nil
}

// masks yields the words that hold the bits [first, end), with those bits set.
func masks(first, end int64) iter.Seq2[int64, uint64] {
	return func(yield func(int64, uint64) bool) {
		for first < end {
			word := first / 64
			mask := ^uint64(0) << (first % 64)
			next := (word + 1) * 64
			if next > end {
				mask &= 1<<(end%64) - 1
			}
			if !yield(word, mask) {
				return
			}
			first = next
		}
	}
}

// setWord sets the bits in mask and returns how many were clear. Most writes
// touch what is dirty already, and leave the cache line alone.
func (b *Bitmap) setWord(word int64, mask uint64) int {
	if b.words[word].Load()&mask == mask {
		return 0
	}
	n := bits.OnesCount64(mask &^ b.words[word].Or(mask))
	b.count.Add(int64(n))
	return n
}

// clearWord clears the bits in mask and returns how many were set.
func (b *Bitmap) clearWord(word int64, mask uint64) int {
	if b.words[word].Load()&mask == 0 {
		return 0
	}
	n := bits.OnesCount64(mask & b.words[word].And(^mask))
	b.count.Add(-int64(n))
	return n
}

// NextSet returns the first set bit that is not below from, and false if there
// is none. A negative from counts as 0.
func (b *Bitmap) NextSet(from int64) (int64, bool) { return b.next(max(from, 0), 0) }

// next returns the first bit from from on that is set, or with flip all ones,
// clear. Bits behind the last one are clear.
func (b *Bitmap) next(from int64, flip uint64) (int64, bool) {
	if from >= b.bits {
		return 0, false
	}
	mask := ^uint64(0) << (from % 64)
	for i := from / 64; i < int64(len(b.words)); i++ {
		if w := (b.words[i].Load() ^ flip) & mask; w != 0 {
			bit := i*64 + int64(bits.TrailingZeros64(w))
			return bit, bit < b.bits
		}
		mask = ^uint64(0)
	}
	return 0, false
}

// Runs yields the dirty ranges in order, beginning with the extent that holds the
// byte at offset from, none longer
// than maxLength bytes, which counts as at least one extent and is rounded down
// to whole ones. Bits that change meanwhile are seen or not; the bits of what was
// yielded stay as they are.
func (b *Bitmap) Runs(from, maxLength int64) iter.Seq[Run] {
	return func(yield func(Run) bool) {
		limit := max(maxLength>>b.shift, 1)
		for pos := max(from, 0) >> b.shift; ; {
			first, ok := b.next(pos, 0)
			if !ok {
				return
			}
			end, ok := b.next(first, ^uint64(0))
			if !ok {
				end = b.bits
			}
			end = max(min(end, first+limit), first+1)
			off := first << b.shift
			stop := b.size
			if end < b.bits {
				stop = end << b.shift
			}
			if !yield(Run{Offset: off, Length: stop - off}) {
				return
			}
			pos = end
		}
	}
}
