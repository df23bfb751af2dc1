package blockdev

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// raw is a block device of the kernel as a Device.
//
// To trim, it asks the kernel to punch a hole: that frees the storage and
// promises zeroes, or is refused. BLKDISCARD is not used, because after it a
// device may return anything, even something else each time; and to write zeroes
// after it would allocate again what it had freed. A device that cannot do both
// gets zeroes by BLKZEROOUT, which the device does itself where it can.
type raw struct {
	handle
	// noPunch and noZeroOut remember that the device lacks an operation.
	noPunch, noZeroOut atomic.Bool
}

var _ Device = (*raw)(nil)

// newRaw makes a device of an open block device, which it owns if there is no
// error.
func newRaw(path string, fd int, opts Options) (*raw, error) {
	var bytes uint64
	var logical, protected int32
	var physical, optimal uint32
	for _, q := range []struct {
		name string
		ask  func() error
	}{
		{"size", func() error { return ioctl(fd, unix.BLKGETSIZE64, &bytes) }},
		{"sector size", func() error { return ioctl(fd, unix.BLKSSZGET, &logical) }},
		{"physical sector size", func() error { return ioctl(fd, unix.BLKPBSZGET, &physical) }},
		{"optimal request size", func() error { return ioctl(fd, unix.BLKIOOPT, &optimal) }},
		{"write protection", func() error { return ioctl(fd, unix.BLKROGET, &protected) }},
	} {
		if err := q.ask(); err != nil {
			return nil, fmt.Errorf("ask %s for its %s: %w", path, q.name, err)
		}
	}
	if protected != 0 && !opts.ReadOnly {
		return nil, fmt.Errorf("open %s for writing: %w; lift its write protection (blockdev --setrw) or open it read-only", path, ErrReadOnly)
	}
	if logical < minSector || logical&(logical-1) != 0 {
		return nil, fmt.Errorf("open %s: sector size of %d bytes is not a power of two from %d up", path, logical, minSector)
	}
	// Behind the last whole sector nothing can be reached.
	size := int64(bytes) &^ int64(logical-1)
	r := &raw{handle: handle{path: path, fd: fd, readOnly: opts.ReadOnly}}
	r.size.Store(size)
	r.init()
	if !opts.Buffered {
		r.align, r.memAlign = directAlignment(fd, int(logical))
		r.directEnd.Store(size)
	}
	preferred := int(optimal)
	if preferred < filePreferred || preferred&(preferred-1) != 0 { // A stripe of three disks, say.
		preferred = filePreferred
	}
	r.sizes = newBlockSizes(int(logical), int(physical), preferred)
	return r, nil
}

// Trim implements Device.
func (r *raw) Trim(off, length int64) error { return r.zero("trim", off, length, true) }

// WriteZeroes implements Device.
func (r *raw) WriteZeroes(off, length int64, mayTrim bool) error {
	return r.zero("write zeroes to", off, length, mayTrim)
}

// zero hands the whole sectors of the range to the kernel and writes the rest.
func (r *raw) zero(op string, off, length int64, free bool) error {
	if err := r.enterChange(op, off, length); err != nil {
		return err
	}
	defer r.gate.leave()
	sector, end := int64(r.sizes.Logical), off+length
	first := min((off+sector-1)&^(sector-1), end)
	last := max(end&^(sector-1), first)
	err := r.writeZeroData(off, first-off)
	if err == nil && first < last {
		err = r.zeroSectors(first, last-first, free)
	}
	if err == nil {
		err = r.writeZeroData(last, end-last)
	}
	if err != nil {
		return opError(op, off, length, r.path, err)
	}
	return nil
}

// zeroSectors zeroes whole sectors in the best way that the device has.
func (r *raw) zeroSectors(off, length int64, free bool) error {
	if free && !r.noPunch.Load() {
		done, err := r.try(&r.noPunch, off, length, func() error {
			return unix.Fallocate(r.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
		})
		if done || err != nil {
			return err
		}
	}
	if !r.noZeroOut.Load() {
		span := [2]uint64{uint64(off), uint64(length)}
		done, err := r.try(&r.noZeroOut, off, length, func() error {
			return ioctl(r.fd, unix.BLKZEROOUT, &span)
		})
		if done || err != nil {
			return err
		}
	}
	return r.writeZeroData(off, length)
}

// try runs one way of zeroing under the lock of its sectors. It returns false
// without an error, and notes it in missing, if the device does not know the way.
func (r *raw) try(missing *atomic.Bool, off, length int64, way func() error) (done bool, err error) {
	g, err := r.lockSectors(off, length)
	if err != nil {
		return false, err
	}
	defer g.Unlock()
	err = retry(way)
	if isUnsupported(err) {
		missing.Store(true)
		return false, nil
	}
	return err == nil, err
}
