package blockdev

import (
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
)

const (
	// memoryChunk is the size in bytes of the unit in which a Memory allocates.
	memoryChunk = 64 << 10
	// memoryStripes is the number of locks that the chunks share.
	memoryStripes = 64
)

// Memory is a Device in memory. It holds only the chunks of 64 KiB that were
// written, and 8 bytes for each that was not. Each request is atomic for each
// chunk that it touches, whatever overlaps it.
type Memory struct {
	size    atomic.Int64 // it only rises, with all of locks held
	storage atomic.Int64 // what Grow makes the size
	gate    gate
	// locks[i%memoryStripes] guards chunks[i] and what it points to. No call
	// holds two of them.
	locks  [memoryStripes]sync.RWMutex
	chunks []*[memoryChunk]byte // nil reads as zeroes
}

var (
	_ Device       = (*Memory)(nil)
	_ ExtentMapper = (*Memory)(nil)
)

// NewMemory returns a device of size bytes that reads as zeroes. It panics if
// size is negative.
func NewMemory(size int64) *Memory {
	if size < 0 {
		panic(fmt.Sprintf("blockdev: memory device of %d bytes", size))
	}
	m := &Memory{chunks: make([]*[memoryChunk]byte, memoryChunks(size))}
	m.size.Store(size)
	m.storage.Store(size)
	m.gate.init()
	return m
}

func memoryChunks(size int64) int { return int((size + memoryChunk - 1) / memoryChunk) }

// String returns a name for messages.
func (m *Memory) String() string { return "memory device" }

// Size implements Device.
func (m *Memory) Size() int64 { return m.size.Load() }

// BlockSizes implements Device.
func (m *Memory) BlockSizes() BlockSizes { return newBlockSizes(minSector, 4096, memoryChunk) }

// enter admits a call. After nil, m.gate.leave must follow.
func (m *Memory) enter(op string, off, length int64) error {
	if !m.gate.enter() {
		return opError(op, off, length, m.String(), ErrClosed)
	}
	if err := checkRange(m.size.Load(), off, length); err != nil {
		m.gate.leave()
		return opError(op, off, length, m.String(), err)
	}
	return nil
}

// memoryPiece returns the chunk that off lies in, off's place there, and how
// many of the next length bytes lie there too.
func memoryPiece(off, length int64) (chunk, at, n int) {
	at = int(off % memoryChunk)
	return int(off / memoryChunk), at, int(min(length, int64(memoryChunk-at)))
}

// ReadAt implements Device.
func (m *Memory) ReadAt(p []byte, off int64) (int, error) {
	if err := m.enter("read", off, int64(len(p))); err != nil {
		return 0, err
	}
	defer m.gate.leave()
	for done := 0; done < len(p); {
		i, at, n := memoryPiece(off+int64(done), int64(len(p)-done))
		lock := &m.locks[i%memoryStripes]
		lock.RLock()
		if c := m.chunks[i]; c != nil {
			copy(p[done:done+n], c[at:])
		} else {
			clear(p[done : done+n])
		}
		lock.RUnlock()
		done += n
	}
	return len(p), nil
}

// WriteAt implements Device.
func (m *Memory) WriteAt(p []byte, off int64) (int, error) {
	if err := m.enter("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	defer m.gate.leave()
	for done := 0; done < len(p); {
		i, at, n := memoryPiece(off+int64(done), int64(len(p)-done))
		lock := &m.locks[i%memoryStripes]
		lock.Lock()
		copy(m.allocatedLocked(i)[at:], p[done:done+n])
		lock.Unlock()
		done += n
	}
	return len(p), nil
}

// Trim implements Device. It frees the chunks that lie wholly in the range.
func (m *Memory) Trim(off, length int64) error { return m.zero("trim", off, length, true) }

// WriteZeroes implements Device.
func (m *Memory) WriteZeroes(off, length int64, mayTrim bool) error {
	return m.zero("write zeroes to", off, length, mayTrim)
}

func (m *Memory) zero(op string, off, length int64, free bool) error {
	if err := m.enter(op, off, length); err != nil {
		return err
	}
	defer m.gate.leave()
	for length > 0 {
		i, at, n := memoryPiece(off, length)
		lock := &m.locks[i%memoryStripes]
		lock.Lock()
		switch {
		case free && m.coversLocked(i, at, n):
			m.chunks[i] = nil
		case !free:
			clear(m.allocatedLocked(i)[at : at+n])
		case m.chunks[i] != nil:
			clear(m.chunks[i][at : at+n])
		}
		lock.Unlock()
		off += int64(n)
		length -= int64(n)
	}
	return nil
}

// coversLocked reports whether n bytes from at on are all of chunk i that lies
// in the device; the last chunk may end behind it.
func (m *Memory) coversLocked(i, at, n int) bool {
	return at == 0 && int64(n) == min(memoryChunk, m.size.Load()-int64(i)*memoryChunk)
}

func (m *Memory) allocatedLocked(i int) *[memoryChunk]byte {
	if m.chunks[i] == nil {
		m.chunks[i] = new([memoryChunk]byte)
	}
	return m.chunks[i]
}

// Flush implements Device. Memory is as durable as it gets.
func (m *Memory) Flush() error {
	if err := m.enter("flush", 0, 0); err != nil {
		return err
	}
	m.gate.leave()
	return nil
}

// Extents implements ExtentMapper; holes are chunks that were never written, or
// freed.
func (m *Memory) Extents(off, length int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		for pos, end := off, off+length; ; {
			// The gate is left before each yield, so that the caller may close
			// the device inside its loop.
			if err := m.enter("map", pos, end-pos); err != nil {
				yield(Extent{}, err)
				return
			}
			if pos == end {
				m.gate.leave()
				return
			}
			e := m.nextExtent(pos, end)
			m.gate.leave()
			if !yield(e, nil) {
				return
			}
			pos += e.Length
		}
	}
}

// nextExtent returns the longest extent of one kind that starts at pos < end.
func (m *Memory) nextExtent(pos, end int64) Extent {
	e := Extent{Offset: pos}
	for pos < end {
		i, _, n := memoryPiece(pos, end-pos)
		lock := &m.locks[i%memoryStripes]
		lock.RLock()
		hole := m.chunks[i] == nil
		lock.RUnlock()
		if e.Length > 0 && hole != e.Hole {
			break
		}
		e.Hole = hole
		e.Length += int64(n)
		pos += int64(n)
	}
	return e
}

// Close implements Device and frees the memory.
func (m *Memory) Close() error {
	if !m.gate.shut() {
		return fmt.Errorf("close %s: %w", m, ErrClosed)
	}
	m.chunks = nil
	return nil
}
