package blockdev

import (
	"sync"
	"unsafe"
)

// bounceSize is the size in bytes of a bounce buffer, and so the largest piece
// in which unaligned direct I/O and written zeroes go to the kernel. It is a
// multiple of every sector size.
const bounceSize = 256 << 10

// bounceAlign satisfies the memory alignment of every device known to Linux.
const bounceAlign = 4096

// AlignedBuffer returns n zero bytes at an address that is a multiple of 4096.
// Direct I/O goes to and from such a buffer without a copy on the way. n must
// not be negative.
func AlignedBuffer(n int) []byte {
	b := make([]byte, n+bounceAlign-1)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (bounceAlign - 1))
	return b[skip : skip+n : skip+n]
}

// isAligned reports whether p starts at a multiple of align, a power of two.
func isAligned(p []byte, align int) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))&uintptr(align-1) == 0
}

// bouncePool lends aligned buffers. Not more are in use than calls are inside
// the device; what is not in use is left to the garbage collector.
type bouncePool struct{ pool sync.Pool }

// bounce is one buffer of bounceSize bytes, aligned to bounceAlign.
type bounce struct{ buf []byte }

func (p *bouncePool) get() *bounce {
	if b, ok := p.pool.Get().(*bounce); ok {
		return b
	}
	return &bounce{buf: AlignedBuffer(bounceSize)}
}

func (p *bouncePool) put(b *bounce) { p.pool.Put(b) }
