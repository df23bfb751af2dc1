package blockdev

import (
	"errors"
	"fmt"
	"iter"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// file is a regular file as a Device.
type file struct {
	handle
	// noPunch and noZeroRange remember that the file system lacks an operation.
	noPunch, noZeroRange atomic.Bool
}

var (
	_ Device       = (*file)(nil)
	_ ExtentMapper = (*file)(nil)
)

// filePreferred is the request size in bytes that a file prefers: large enough
// for one seek or system call not to count, small enough not to wait for.
const filePreferred = 64 << 10

// newFile makes a device of an open regular file, which it owns if there is no
// error.
func newFile(path string, fd int, st *unix.Stat_t, opts Options) (*file, error) {
	f := &file{handle: handle{path: path, fd: fd, readOnly: opts.ReadOnly}}
	f.size.Store(st.Size)
	f.init()
	logical := minSector
	if opts.Direct {
		f.align, f.memAlign = directAlignment(fd, bounceAlign)
		logical = f.align
		f.directEnd.Store(st.Size)
		if st.Size%int64(f.align) != 0 {
			page := max(unix.Getpagesize(), f.align)
			f.directEnd.Store(st.Size &^ int64(page-1))
			if err := f.openTail(st); err != nil {
				return nil, err
			}
		}
	}
	f.sizes = newBlockSizes(logical, int(st.Blksize), filePreferred)
	return f, nil
}

// openTail opens the file a second time, through the page cache, for the bytes
// behind its last whole page.
func (f *file) openTail(st *unix.Stat_t) error {
	fd, err := openDescriptor(f.path, f.readOnly, 0)
	if err != nil {
		return fmt.Errorf("open the end of %s: %w", f.path, err)
	}
	var again unix.Stat_t
	err = unix.Fstat(fd, &again)
	if err == nil && (again.Dev != st.Dev || again.Ino != st.Ino) {
		err = errors.New("it was replaced while it was opened; try again")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("open the end of %s: %w", f.path, err), unix.Close(fd))
	}
	f.tailFD = fd
	return nil
}

// Trim implements Device by punching a hole.
func (f *file) Trim(off, length int64) error { return f.zero("trim", off, length, true) }

// WriteZeroes implements Device.
func (f *file) WriteZeroes(off, length int64, mayTrim bool) error {
	return f.zero("write zeroes to", off, length, mayTrim)
}

func (f *file) zero(op string, off, length int64, free bool) error {
	if err := f.enterChange(op, off, length); err != nil {
		return err
	}
	defer f.gate.leave()
	if length == 0 {
		return nil // fallocate calls it an error.
	}
	mode, missing := uint32(unix.FALLOC_FL_ZERO_RANGE), &f.noZeroRange
	if free {
		mode, missing = unix.FALLOC_FL_PUNCH_HOLE, &f.noPunch
	}
	if !missing.Load() {
		err := f.fallocate(mode|unix.FALLOC_FL_KEEP_SIZE, off, length)
		if err == nil {
			return nil
		}
		if !isUnsupported(err) {
			return opError(op, off, length, f.path, err)
		}
		missing.Store(true)
	}
	if err := f.writeZeroData(off, length); err != nil {
		return opError(op, off, length, f.path, err)
	}
	return nil
}

// fallocate changes the range as the mode says. The kernel zeroes parts of
// sectors itself, for which it must be alone with them like any such writer.
func (f *file) fallocate(mode uint32, off, length int64) error {
	g, err := f.lockSectors(off, length)
	if err != nil {
		return err
	}
	defer g.Unlock()
	return retry(func() error { return unix.Fallocate(f.fd, mode, off, length) })
}

// Extents implements ExtentMapper by what the file system knows. One that knows
// nothing calls everything data.
func (f *file) Extents(off, length int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		for pos, end := off, off+length; ; {
			// The gate is left before each yield, so that the caller may close
			// the device inside its loop.
			if err := f.enter("map", pos, end-pos); err != nil {
				yield(Extent{}, err)
				return
			}
			if pos == end {
				f.gate.leave()
				return
			}
			e, err := f.nextExtent(pos, end)
			f.gate.leave()
			if err != nil {
				yield(Extent{}, opError("map", pos, end-pos, f.path, err))
				return
			}
			if !yield(e, nil) {
				return
			}
			pos += e.Length
		}
	}
}

// nextExtent returns the extent that starts at pos < end. The seeks move the
// descriptor's position, which nobody uses.
func (f *file) nextExtent(pos, end int64) (Extent, error) {
	data, err := unix.Seek(f.fd, pos, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // There is no data up to the end of the file.
		return Extent{Offset: pos, Length: end - pos, Hole: true}, nil
	case errors.Is(err, unix.EINVAL) || isUnsupported(err):
		return Extent{Offset: pos, Length: end - pos}, nil
	case err != nil:
		return Extent{}, fmt.Errorf("seek data: %w", err)
	case data > pos:
		return Extent{Offset: pos, Length: min(data, end) - pos, Hole: true}, nil
	}
	hole, err := unix.Seek(f.fd, pos, unix.SEEK_HOLE)
	if err != nil {
		return Extent{}, fmt.Errorf("seek hole: %w", err)
	}
	if hole <= pos { // The data was punched away meanwhile. Calling it data is true enough, and goes on.
		hole = pos + int64(f.sizes.Logical)
	}
	return Extent{Offset: pos, Length: min(hole, end) - pos}, nil
}
