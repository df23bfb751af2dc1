package peers

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	minBufferShift = 12 // 4 KiB
	maxBufferShift = 24 // 16 MiB; what is longer is not kept
)

// pool keeps buffers for payloads, by size. What it keeps unused the garbage collector takes back.
type pool struct {
	classes [maxBufferShift - minBufferShift + 1]sync.Pool
}

// buffer is one payload. It is given back by release, once.
type buffer struct {
	data    []byte
	release func() // the method giveBack, bound once for all the buffer's lives

	class *sync.Pool // nil for one that is not kept
	out   atomic.Bool
}

// get returns a buffer whose data has n bytes of any content.
func (p *pool) get(n int) *buffer {
	shift := max(minBufferShift, bits.Len(uint(max(n, 1)-1)))
	if shift > maxBufferShift {
		b := &buffer{data: make([]byte, n)}
		b.release = b.giveBack
		b.out.Store(true)
		return b
	}
	class := &p.classes[shift-minBufferShift]
	b, _ := class.Get().(*buffer)
	if b == nil {
		b = &buffer{data: make([]byte, 1<<shift), class: class}
		b.release = b.giveBack
	}
	b.data = b.data[:n]
	b.out.Store(true)
	return b
}

func (b *buffer) giveBack() {
	if !b.out.CompareAndSwap(true, false) {
		panic("peers: a buffer was released twice")
	}
	if b.class != nil {
		b.data = b.data[:cap(b.data)]
		b.class.Put(b)
	}
}
