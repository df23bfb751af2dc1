package nbd

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	bufferAlign  = 4096 // every buffer starts on a page, so it suits O_DIRECT
	minClassBits = 12   // the smallest buffer has 4 KiB
)

// Buffer is page-aligned, reference-counted memory for the data of one read or
// write. It goes back to its pool when the last reference is released.
//
// Ownership. The server holds one reference from before it hands a request to
// an export until the request is completed (writes) or its reply is sent
// (reads). An export that needs the data of a write for longer calls Retain
// before Request.Done, and Release once, from any goroutine, when it no longer
// needs them; that saves a copy. From Done on nobody may change the contents.
// Retained memory is no longer counted in the server's MemoryBytes: it is the
// export's to bound.
type Buffer struct {
	mem  []byte // the whole class, page-aligned
	n    int    // bytes in use
	refs atomic.Int32
	pool *bufferPool // nil: left to the garbage collector
}

// NewBuffer returns a buffer of n bytes that belongs to no pool, with one
// reference. The contents are zero.
func NewBuffer(n int) *Buffer {
	b := &Buffer{mem: alignedBytes(n), n: n}
	b.refs.Store(1)
	return b
}

// Bytes returns the contents. The slice must not be used after the caller's
// reference has been released.
func (b *Buffer) Bytes() []byte { return b.mem[:b.n] }

// Len returns the number of bytes in use.
func (b *Buffer) Len() int { return b.n }

// Retain takes another reference. The caller must hold one already.
func (b *Buffer) Retain() {
	if b.refs.Add(1) <= 1 {
		panic("nbd: buffer retained after its last release")
	}
}

// Release gives up one reference.
func (b *Buffer) Release() {
	switch n := b.refs.Add(-1); {
	case n > 0:
	case n < 0:
		panic("nbd: buffer released more often than retained")
	case b.pool != nil:
		b.pool.put(b)
	}
}

// bufferPool keeps released buffers by class: powers of two from 4 KiB up. It
// bounds what lies idle; what is in use is bounded by the server's budget.
type bufferPool struct {
	idleMax int64
	idle    atomic.Int64 // bytes in all free lists
	inUse   atomic.Int64 // bytes out of the pool
	classes []bufferClass
}

type bufferClass struct {
	mu   sync.Mutex
	free []*Buffer // last in, first out: the warmest memory is reused first
	_    [32]byte  // keeps the locks of neighbours on separate cache lines
}

func newBufferPool(maxLength int, idleMax int64) *bufferPool {
	return &bufferPool{idleMax: idleMax, classes: make([]bufferClass, classOf(maxLength)+1)}
}

// classOf returns the class whose buffers hold n bytes.
func classOf(n int) int {
	if n <= 1<<minClassBits {
		return 0
	}
	return bits.Len(uint(n-1)) - minClassBits
}

// classSize returns the bytes that a buffer for n bytes really takes.
func classSize(n int) int64 { return 1 << (classOf(n) + minClassBits) }

// get returns a buffer of n bytes with one reference and unspecified contents.
func (p *bufferPool) get(n int) *Buffer {
	i := classOf(n)
	if i >= len(p.classes) {
		panic(fmt.Sprintf("nbd: buffer of %d bytes above the largest class", n))
	}
	c := &p.classes[i]
	var b *Buffer
	c.mu.Lock()
	if k := len(c.free); k > 0 {
		b = c.free[k-1]
		c.free[k-1] = nil
		c.free = c.free[:k-1]
	}
	c.mu.Unlock()
	if b == nil {
		b = &Buffer{mem: alignedBytes(int(classSize(n))), pool: p}
	} else {
		p.idle.Add(-int64(len(b.mem)))
	}
	p.inUse.Add(int64(len(b.mem)))
	b.n = n
	b.refs.Store(1)
	return b
}

func (p *bufferPool) put(b *Buffer) {
	size := int64(len(b.mem))
	p.inUse.Add(-size)
	if p.idle.Add(size) > p.idleMax {
		p.idle.Add(-size)
		return
	}
	c := &p.classes[classOf(len(b.mem))]
	c.mu.Lock()
	c.free = append(c.free, b)
	c.mu.Unlock()
}

// alignedBytes allocates n bytes that start on a page. The allocator aligns
// most of these sizes by itself; only the others cost another page.
func alignedBytes(n int) []byte {
	if n == 0 {
		return nil
	}
	mem := make([]byte, n)
	if misalignment(mem) == 0 {
		return mem
	}
	mem = make([]byte, n+bufferAlign)
	skip := (bufferAlign - misalignment(mem)) % bufferAlign
	return mem[skip : skip+n : skip+n]
}

func misalignment(p []byte) int {
	return int(uintptr(unsafe.Pointer(unsafe.SliceData(p))) % bufferAlign)
}
