package blockdev

import (
	"errors"
	"fmt"
)

// Errors that callers tell apart with errors.Is. The errors returned wrap them
// with the device, the range and, where there is one, the remedy.
var (
	// ErrOutOfRange says that a range is negative or does not lie in the device.
	ErrOutOfRange = errors.New("range is outside the device")
	// ErrReadOnly says that the device was opened for reading, or is write-protected.
	ErrReadOnly = errors.New("device is read-only")
	// ErrInUse says that somebody else holds the device exclusively.
	ErrInUse = errors.New("device is in use")
	// ErrClosed says that Close was called before.
	ErrClosed = errors.New("device is closed")
	// ErrNotBlockStorage says that a path is neither a regular file nor a block device.
	ErrNotBlockStorage = errors.New("neither a regular file nor a block device")
	// ErrFlushFailed says that a Flush failed earlier, so that no later one can
	// promise anything for what was written before it.
	ErrFlushFailed = errors.New("an earlier flush failed")
)

// Device is a range of bytes of fixed size that can be read, written, zeroed
// and made durable. All methods may be called concurrently. A request that does
// not lie wholly in [0, Size()) fails with ErrOutOfRange and has no effect; one
// of length 0 inside the device succeeds and does nothing. Where calls overlap,
// each byte ends as one of them left it.
type Device interface {
	// Size returns the size in bytes. While the device is open only Grow changes it.
	Size() int64

	// BlockSizes returns the units in which the device likes its requests.
	BlockSizes() BlockSizes

	// ReadAt fills p from byte off on. n < len(p) only with an error.
	ReadAt(p []byte, off int64) (n int, err error)

	// WriteAt stores p from byte off on. n < len(p) only with an error, and then
	// the content of the whole range is undefined. p is not kept.
	WriteAt(p []byte, off int64) (n int, err error)

	// Flush returns when everything whose call had returned before is durable.
	Flush() error

	// Trim says that the content of the range is no longer needed. The range
	// reads as zeroes afterwards, and its storage is freed where that is possible.
	Trim(off, length int64) error

	// WriteZeroes makes the range read as zeroes. With mayTrim it may free the
	// storage; without, later writes to the range find their storage allocated
	// where the device can tell the difference.
	WriteZeroes(off, length int64, mayTrim bool) error

	// Close waits for the calls under way and releases the device. It does not
	// flush. Every call after it, a second Close too, fails with ErrClosed.
	Close() error
}

// BlockSizes are the units of a device in bytes: powers of two with
// 512 <= Logical <= Physical <= Preferred. None of them is a duty: a Device
// takes any offset and length.
type BlockSizes struct {
	// Logical is the sector size, which a device exported from this one should show.
	Logical int
	// Physical is the smallest request that the storage serves without reading first.
	Physical int
	// Preferred is a request size from which on the storage works well.
	Preferred int
}

// minSector is the sector size below which no Linux block device goes.
const minSector = 512

// newBlockSizes returns the sizes with every one that is not a power of two, or
// too small, raised to the one before it.
func newBlockSizes(logical, physical, preferred int) BlockSizes {
	atLeast := func(v, least int) int {
		if v < least || v&(v-1) != 0 {
			return least
		}
		return v
	}
	logical = atLeast(logical, minSector)
	physical = atLeast(physical, logical)
	return BlockSizes{Logical: logical, Physical: physical, Preferred: atLeast(preferred, physical)}
}

// checkRange returns an error unless 0 <= off, 0 <= length and off+length <= size.
func checkRange(size, off, length int64) error {
	if off < 0 || length < 0 || off > size || length > size-off {
		return fmt.Errorf("%w of %d bytes", ErrOutOfRange, size)
	}
	return nil
}

// opError names the operation, its range and the device. It is not inlined, so
// that a successful call allocates nothing for it.
//
//go:noinline
func opError(op string, off, length int64, name string, err error) error {
	return fmt.Errorf("%s %d bytes at offset %d of %s: %w", op, length, off, name, err)
}
