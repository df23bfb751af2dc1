package blockdev

import "context"

// Direct I/O moves whole sectors of h.align bytes, to and from memory aligned to
// h.memAlign. What does not fit goes through a bounce buffer: for a read the
// sectors around the range are read; for a write the first and the last sector
// are read, the new bytes are laid over them, and all is written back:
//
//	sectors    |-------|-------|-------|-------|
//	request         [=====================]
//	read first |-------|               |-------|
//	written    |....[=====================]....|
//
// Between the read and the write nobody else may change these sectors. So such
// a write locks them exclusively, and writes of whole sectors lock theirs shared.

// readDirect reads a range that lies in the direct part.
func (h *handle) readDirect(p []byte, off int64) (int, error) {
	if h.fits(off, int64(len(p))) && isAligned(p, h.memAlign) {
		return preadFull(h.fd, p, off)
	}
	b := h.bounces.get()
	defer h.bounces.put(b)
	done := 0
	for done < len(p) {
		pos := off + int64(done)
		start, end := h.bounceSpan(pos, len(p)-done)
		if _, err := preadFull(h.fd, b.buf[:end-start], start); err != nil {
			return done, err
		}
		done += copy(p[done:], b.buf[pos-start:end-start])
	}
	return done, nil
}

// writeDirect writes a range that lies in the direct part.
func (h *handle) writeDirect(p []byte, off int64) (int, error) {
	if h.fits(off, int64(len(p))) && isAligned(p, h.memAlign) {
		g, err := h.sectors.RLock(context.Background(), off, int64(len(p)))
		if err != nil {
			return 0, err
		}
		defer g.Unlock()
		return pwriteFull(h.fd, p, off)
	}
	b := h.bounces.get()
	defer h.bounces.put(b)
	done := 0
	for done < len(p) {
		n, err := h.writeBounced(b.buf, p[done:], off+int64(done))
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// writeBounced writes as much of p as fits into buf with the sectors around it,
// and returns how much that was.
func (h *handle) writeBounced(buf, p []byte, off int64) (int, error) {
	start, end := h.bounceSpan(off, len(p))
	n := int(min(int64(len(p)), end-off))
	g, err := h.lockSectors(off, int64(n))
	if err != nil {
		return 0, err
	}
	defer g.Unlock()
	buf = buf[:end-start]
	sector := int64(h.align)
	if off != start {
		if _, err := preadFull(h.fd, buf[:sector], start); err != nil {
			return 0, err
		}
	}
	// The last sector is read unless it is the first one too and just was.
	if off+int64(n) != end && (off == start || end-start > sector) {
		if _, err := preadFull(h.fd, buf[end-start-sector:], end-sector); err != nil {
			return 0, err
		}
	}
	copy(buf[off-start:], p[:n])
	if _, err := pwriteFull(h.fd, buf, start); err != nil {
		return 0, err
	}
	return n, nil
}

// lockSectors locks the sectors that the range touches: shared if it fills
// them, otherwise exclusively. Without direct I/O there is nothing to guard and
// the lock is for an empty range.
func (h *handle) lockSectors(off, length int64) (RangeGuard, error) {
	if h.align == 0 {
		return h.sectors.RLock(context.Background(), 0, 0)
	}
	if h.fits(off, length) {
		return h.sectors.RLock(context.Background(), off, length)
	}
	start := h.sectorStart(off)
	return h.sectors.Lock(context.Background(), start, h.sectorEnd(off+length)-start)
}

// bounceSpan returns the sectors around n bytes from off on, but not more of
// them than a bounce buffer holds.
func (h *handle) bounceSpan(off int64, n int) (start, end int64) {
	start = h.sectorStart(off)
	return start, min(h.sectorEnd(off+int64(n)), start+bounceSize)
}

func (h *handle) fits(off, length int64) bool { return (off|length)&int64(h.align-1) == 0 }

func (h *handle) sectorStart(off int64) int64 { return off &^ int64(h.align-1) }

// sectorEnd never overflows: the range lies in a file whose size the kernel
// keeps a page away from the largest int64.
func (h *handle) sectorEnd(off int64) int64 {
	return (off + int64(h.align-1)) &^ int64(h.align-1)
}
