package primary

import (
	"context"
	"sync/atomic"

	"flotilla/nbd"
)

// copyBuffer is the payload of a copied piece.
type copyBuffer struct {
	mem  []byte // copyPiece bytes, page-aligned for direct I/O
	refs atomic.Int32
	idle chan *copyBuffer
}

// newCopyBuffers returns room for buffers of so many bytes together, two at least. A piece that is nearly all zeroes keeps
// its buffer until it is held, though it counts little in the queue; so it is their number that bounds memory.
func newCopyBuffers(bytes int64) chan *copyBuffer {
	n := int(max(bytes/copyPiece, 2))
	c := make(chan *copyBuffer, n)
	for range n {
		c <- nil
	}
	return c
}

// copyBuffer waits for a buffer. No range is held.
func (g *group) copyBuffer(ctx context.Context) (*copyBuffer, error) {
	select {
	case b := <-g.buffers:
		if b == nil {
			b = &copyBuffer{mem: nbd.NewBuffer(copyPiece).Bytes(), idle: g.buffers}
		}
		b.refs.Store(1)
		return b, nil
	case <-ctx.Done():
		return nil, errStopped
	}
}

// Retain implements payload.
func (b *copyBuffer) Retain() { b.refs.Add(1) }

// Release implements payload.
func (b *copyBuffer) Release() {
	switch n := b.refs.Add(-1); {
	case n < 0:
		panic("primary: copy buffer released more often than retained")
	case n == 0:
		b.idle <- b // there is room for every one
	}
}
