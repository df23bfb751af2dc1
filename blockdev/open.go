package blockdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"flotilla/blockdev/usage"

	"golang.org/x/sys/unix"
)

// Options say how Open opens. The zero value is for reading and writing, a file
// through the page cache, a block device past it.
type Options struct {
	// ReadOnly lets everything that would change the device fail with ErrReadOnly.
	ReadOnly bool
	// Direct lets a regular file, too, be read and written with O_DIRECT. Not
	// every file system can do that.
	Direct bool
	// Buffered lets a block device be read and written through the page cache.
	// It contradicts Direct.
	Buffered bool
	// Exclusive claims the device until it is closed. A block device is claimed
	// from mounts and other claims of this kind (O_EXCL), a regular file from
	// others that lock it with flock. If it is taken, or used by the kernel in one
	// of the ways that package usage knows, Open fails with ErrInUse.
	Exclusive bool
}

// Open opens the regular file or the block device at path; symbolic links are
// followed. Anything else fails with ErrNotBlockStorage. A path that begins with
// LoopPrefix stands for a loop device on the file that it goes on to name.
func Open(path string, opts Options) (Device, error) {
	if file, ok := strings.CutPrefix(path, LoopPrefix); ok {
		return openLoop(file, opts)
	}
	return openPath(path, opts)
}

func openPath(path string, opts Options) (Device, error) {
	if opts.Direct && opts.Buffered {
		return nil, fmt.Errorf("open %s: direct and buffered contradict each other; choose one", path)
	}
	// The kind is asked before opening, because opening the wrong thing can block.
	var before, st unix.Stat_t
	if err := retry(func() error { return unix.Stat(path, &before) }); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	isBlock := before.Mode&unix.S_IFMT == unix.S_IFBLK
	if !isBlock && before.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("open %s: %w", path, ErrNotBlockStorage)
	}
	flags := 0
	if opts.Direct || isBlock && !opts.Buffered {
		flags |= unix.O_DIRECT
	}
	if opts.Exclusive && isBlock {
		flags |= unix.O_EXCL
	}
	fd, err := openDescriptor(path, opts.ReadOnly, flags)
	if err != nil {
		return nil, explainOpen(path, opts, flags, err)
	}
	err = unix.Fstat(fd, &st)
	if err == nil && (st.Dev != before.Dev || st.Ino != before.Ino || st.Mode&unix.S_IFMT != before.Mode&unix.S_IFMT) {
		err = errors.New("it was replaced while it was opened; try again")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), unix.Close(fd))
	}
	dev, err := newDevice(path, fd, &st, opts)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	if opts.Exclusive {
		// Once it is claimed: nobody else can begin to use it unseen, and what was begun before is seen.
		if err := unused(path); err != nil {
			return nil, errors.Join(err, dev.Close())
		}
	}
	return dev, nil
}

// unused returns an error with ErrInUse if the kernel uses the file or device.
func unused(path string) error {
	uses, err := usage.Of(path)
	if err != nil {
		return err
	}
	if len(uses) > 0 {
		return fmt.Errorf("open %s: %w: %s", path, ErrInUse, usage.Describe(uses))
	}
	return nil
}

func newDevice(path string, fd int, st *unix.Stat_t, opts Options) (Device, error) {
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return newRaw(path, fd, opts)
	}
	if opts.Exclusive {
		err := retry(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("open %s exclusively: %w; stop the process that locks it (lslocks shows it)", path, ErrInUse)
		}
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
	return newFile(path, fd, st, opts)
}

// Create makes a new regular file of size bytes that is all one hole, makes its
// name durable, and opens it. It fails if path exists.
func Create(path string, size int64, opts Options) (Device, error) {
	if size < 0 {
		return nil, fmt.Errorf("create %s: size of %d bytes is negative", path, size)
	}
	if err := createSparse(path, size); err != nil {
		return nil, err
	}
	dev, err := Open(path, opts)
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return dev, nil
}

// createSparse leaves no file behind if it fails.
func createSparse(path string, size int64) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("create device file: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(fmt.Errorf("create %s of %d bytes: %w", path, size, err), os.Remove(path))
		}
	}()
	if err := f.Truncate(size); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func openDescriptor(path string, readOnly bool, flags int) (int, error) {
	flags |= unix.O_CLOEXEC
	if readOnly {
		flags |= unix.O_RDONLY
	} else {
		flags |= unix.O_RDWR
	}
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Open(path, flags, 0)
		return err
	})
	return fd, err
}

// explainOpen adds to an error of open(2) what it means here and what to do.
func explainOpen(path string, opts Options, flags int, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		if err := unused(path); errors.Is(err, ErrInUse) {
			return err
		}
		return fmt.Errorf("open %s: %w; unmount it or stop what holds it (lsblk %s and fuser -v %s show it)", path, ErrInUse, path, path)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("open %s for writing: %w", path, ErrReadOnly)
	case errors.Is(err, unix.EINVAL) && flags&unix.O_DIRECT != 0:
		return fmt.Errorf("open %s: direct I/O is not possible there (%w); open it through the page cache", path, err)
	case errors.Is(err, unix.EACCES) && !opts.ReadOnly:
		return fmt.Errorf("open %s for reading and writing: %w", path, err)
	}
	return fmt.Errorf("open %s: %w", path, err)
}
