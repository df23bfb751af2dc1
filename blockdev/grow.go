package blockdev

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrTooSmall says that a device has not the size that is needed.
var ErrTooSmall = errors.New("device is too small")

// Grower is what a Device also implements if its storage may be enlarged while it is open.
type Grower interface {
	// Grow asks the storage for its size, and makes it the device's where it is larger. It returns the device's size then.
	// Calls under way, and those that come meanwhile, may still see the old one.
	Grow() (int64, error)
}

// Grow has d take in what its storage has got since it was opened, and returns its size.
func Grow(d Device) (int64, error) {
	if g, ok := d.(Grower); ok {
		return g.Grow()
	}
	return d.Size(), nil
}

// GrowTo is Grow for who needs at least so many bytes: with fewer it fails with ErrTooSmall.
func GrowTo(d Device, size int64) error {
	if d.Size() >= size {
		return nil
	}
	has, err := Grow(d)
	if err != nil {
		return err
	}
	if has < size {
		return fmt.Errorf("%w: it has %d bytes and %d are needed: enlarge it", ErrTooSmall, has, size)
	}
	return nil
}

var (
	_ Grower = (*file)(nil)
	_ Grower = (*raw)(nil)
	_ Grower = (*looped)(nil)
	_ Grower = (*Memory)(nil)
)

// Grow implements Grower. What a file with direct I/O gets goes through the page cache where its old end does, and past it
// otherwise: so no byte ever changes from one to the other.
func (f *file) Grow() (int64, error) {
	return f.growTo(func() (int64, error) {
		var st unix.Stat_t
		err := retry(func() error { return unix.Fstat(f.fd, &st) })
		if f.align != 0 && f.tailFD < 0 {
			st.Size &^= int64(f.align - 1)
		}
		return st.Size, err
	})
}

// Grow implements Grower.
func (r *raw) Grow() (int64, error) {
	return r.growTo(func() (int64, error) {
		var bytes uint64
		err := ioctl(r.fd, unix.BLKGETSIZE64, &bytes)
		return int64(bytes) &^ int64(r.sizes.Logical-1), err
	})
}

func (h *handle) growTo(ask func() (int64, error)) (int64, error) {
	if !h.gate.enter() {
		return h.Size(), fmt.Errorf("ask %s for its size: %w", h.path, ErrClosed)
	}
	defer h.gate.leave()
	has, err := ask()
	if err != nil {
		return h.Size(), fmt.Errorf("ask %s for its size: %w", h.path, err)
	}
	for {
		size := h.size.Load()
		if has <= size {
			return size, nil
		}
		if h.align != 0 && h.tailFD < 0 {
			h.directEnd.Store(has) // before the size: who sees that finds the way
		}
		if h.size.CompareAndSwap(size, has) {
			return has, nil
		}
	}
}

// Enlarge gives the device more storage, as an operator gives it to a disk: Grow takes it in.
func (m *Memory) Enlarge(size int64) {
	for {
		had := m.storage.Load()
		if size <= had || m.storage.CompareAndSwap(had, size) {
			return
		}
	}
}

// Grow implements Grower.
func (m *Memory) Grow() (int64, error) {
	if !m.gate.enter() {
		return m.Size(), fmt.Errorf("ask %s for its size: %w", m, ErrClosed)
	}
	defer m.gate.leave()
	for i := range m.locks {
		m.locks[i].Lock()
		defer m.locks[i].Unlock()
	}
	if size := m.storage.Load(); size > m.size.Load() {
		m.chunks = append(m.chunks, make([]*[memoryChunk]byte, memoryChunks(size)-len(m.chunks))...)
		m.size.Store(size)
	}
	return m.size.Load(), nil
}
