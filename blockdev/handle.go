package blockdev

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// handle is what regular files and block devices have in common: an open file
// descriptor, reads, writes, written zeroes and flushes.
//
// With align == 0 everything goes through the page cache. Otherwise the bytes
// below directEnd are read and written with O_DIRECT through fd (direct.go), and
// the rest, which only a regular file with an odd size has, through tailFD. The
// page cache never holds dirty pages of the direct part, because no page belongs
// to both.
type handle struct {
	path     string
	size     atomic.Int64 // it only rises
	sizes    BlockSizes
	readOnly bool

	gate   gate
	fd     int
	tailFD int // -1 if there is no tail

	align     int          // for offsets and lengths of direct I/O; 0 without direct I/O
	memAlign  int          // for memory of direct I/O
	directEnd atomic.Int64 // end of the direct part; a multiple of align

	// sectors is locked by writers of the direct part: shared by those that
	// write whole sectors, exclusively by those that merge into sectors what
	// they read from them. It is the last lock that anybody takes.
	sectors RangeLock
	bounces bouncePool

	flusher flusher
	sync    func() error // fdatasync of fd; bound once, so that a flush allocates nothing
}

// init completes a handle whose other fields are set. tailFD stays to be opened.
func (h *handle) init() {
	h.gate.init()
	h.tailFD = -1
	h.sync = func() error { return retry(func() error { return unix.Fdatasync(h.fd) }) }
}

// String returns the path.
func (h *handle) String() string { return h.path }

// Size implements Device.
func (h *handle) Size() int64 { return h.size.Load() }

// BlockSizes implements Device.
func (h *handle) BlockSizes() BlockSizes { return h.sizes }

// enter admits a call. After nil, h.gate.leave must follow.
func (h *handle) enter(op string, off, length int64) error {
	if !h.gate.enter() {
		return opError(op, off, length, h.path, ErrClosed)
	}
	if err := checkRange(h.size.Load(), off, length); err != nil {
		h.gate.leave()
		return opError(op, off, length, h.path, err)
	}
	return nil
}

// enterChange is enter for calls that change the device.
func (h *handle) enterChange(op string, off, length int64) error {
	if err := h.enter(op, off, length); err != nil {
		return err
	}
	if h.readOnly {
		h.gate.leave()
		return opError(op, off, length, h.path, ErrReadOnly)
	}
	return nil
}

// ReadAt implements Device.
func (h *handle) ReadAt(p []byte, off int64) (int, error) {
	if err := h.enter("read", off, int64(len(p))); err != nil {
		return 0, err
	}
	defer h.gate.leave()
	n, err := h.read(p, off)
	if err != nil {
		return n, opError("read", off, int64(len(p)), h.path, err)
	}
	return n, nil
}

func (h *handle) read(p []byte, off int64) (int, error) {
	if h.align == 0 {
		return preadFull(h.fd, p, off)
	}
	direct := h.directPart(off, len(p))
	n, err := h.readDirect(p[:direct], off)
	if err != nil || direct == len(p) {
		return n, err
	}
	n, err = preadFull(h.tailFD, p[direct:], off+int64(direct))
	return direct + n, err
}

// WriteAt implements Device.
func (h *handle) WriteAt(p []byte, off int64) (int, error) {
	if err := h.enterChange("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	defer h.gate.leave()
	n, err := h.write(p, off)
	if err != nil {
		return n, opError("write", off, int64(len(p)), h.path, err)
	}
	return n, nil
}

func (h *handle) write(p []byte, off int64) (int, error) {
	if h.align == 0 {
		return pwriteFull(h.fd, p, off)
	}
	direct := h.directPart(off, len(p))
	n, err := h.writeDirect(p[:direct], off)
	if err != nil || direct == len(p) {
		return n, err
	}
	n, err = pwriteFull(h.tailFD, p[direct:], off+int64(direct))
	return direct + n, err
}

// directPart returns how many of n bytes from off on lie in the direct part.
func (h *handle) directPart(off int64, n int) int {
	return int(max(0, min(int64(n), h.directEnd.Load()-off)))
}

// writeZeroData writes zeroes as data, for storage that has no better way.
func (h *handle) writeZeroData(off, length int64) error {
	if length == 0 {
		return nil
	}
	b := h.bounces.get()
	defer h.bounces.put(b)
	zeroes := b.buf[:min(length, bounceSize)]
	clear(zeroes)
	for length > 0 {
		n, err := h.write(zeroes[:min(length, int64(len(zeroes)))], off)
		if err != nil {
			return err
		}
		off += int64(n)
		length -= int64(n)
	}
	return nil
}

// Flush implements Device.
func (h *handle) Flush() error {
	if !h.gate.enter() {
		return fmt.Errorf("flush %s: %w", h.path, ErrClosed)
	}
	defer h.gate.leave()
	if h.readOnly {
		return nil
	}
	if err := h.flusher.flush(h.sync); err != nil {
		return fmt.Errorf("flush %s: %w", h.path, err)
	}
	return nil
}

// Close implements Device. Closing the descriptors gives up the exclusive hold.
func (h *handle) Close() error {
	if !h.gate.shut() {
		return fmt.Errorf("close %s: %w", h.path, ErrClosed)
	}
	if err := h.closeDescriptors(); err != nil {
		return fmt.Errorf("close %s: %w", h.path, err)
	}
	return nil
}

func (h *handle) closeDescriptors() error {
	err := unix.Close(h.fd)
	if h.tailFD >= 0 {
		err = errors.Join(err, unix.Close(h.tailFD))
	}
	return err
}
