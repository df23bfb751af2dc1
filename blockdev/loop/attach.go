//go:build linux

package loop

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrUnavailable says that there are no loop devices here, or that this process may not use them.
	ErrUnavailable = errors.New("loop devices are not available")
	// ErrInUse says that the file is locked, or is below a loop device that is not to be taken.
	ErrInUse = errors.New("file is in use")
)

// control is the device by which the kernel names free loop devices.
const control = "/dev/loop-control"

// Options say how Attach attaches. The zero value is a writable device with sectors of 512 bytes, or of what direct I/O to
// the file wants.
type Options struct {
	// ReadOnly makes the device write-protected.
	ReadOnly bool
	// SectorSize is the logical sector size in bytes, a power of two from 512 to a page; 0 leaves it to the kernel.
	SectorSize int
	// Exclusive claims the file by flock and the device by O_EXCL: no mount, no other claim. A lock stays with the device
	// for as long as that is attached.
	Exclusive bool
	// Cached leaves direct I/O to the file off, so that the file goes through the page cache.
	Cached bool

	// twoSteps leaves LOOP_CONFIGURE out, for tests.
	twoSteps bool
}

// Device is an attached loop device that this process holds open.
type Device struct {
	path   string
	file   string
	fd     int
	reused bool
	direct bool
}

// Path returns the path of the device, such as /dev/loop3.
func (d *Device) Path() string { return d.path }

// File returns the path of the file below, as it was given.
func (d *Device) File() string { return d.file }

// Reused reports whether the device was there already, left by an earlier process.
func (d *Device) Reused() bool { return d.reused }

// Direct reports whether the kernel reads and writes the file past the page cache.
func (d *Device) Direct() bool { return d.direct }

// When another process takes the free device that the kernel had named, or holds it a moment before it does, Attach tries
// again, at most so often and after such a pause.
const (
	attachAttempts = 128
	attachPause    = 10 * time.Millisecond
)

// Attach attaches a loop device to a regular file, or takes the one that an earlier process of this program has left on
// it. The size of the file must be a multiple of the sectors: a loop device does not reach what is behind the last whole one.
func Attach(file string, o Options) (*Device, error) {
	backing, err := openBacking(file, o)
	if err != nil {
		return nil, err
	}
	defer unix.Close(backing)
	left, err := findLeft(file, backing)
	if err != nil {
		return nil, err
	}
	if left != "" {
		return takeLeft(left, file, backing, o)
	}
	if o.Exclusive {
		if err := lock(file, backing); err != nil {
			return nil, err
		}
	}
	ctl, err := unix.Open(control, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("attach a loop device to %s: %w: open %s: %w: use the file itself, or load the kernel's module loop (modprobe loop) and run as root", file, ErrUnavailable, control, err)
	}
	defer unix.Close(ctl)
	for range attachAttempts {
		d, err := attachFree(ctl, file, backing, o)
		if errors.Is(err, unix.EBUSY) {
			time.Sleep(attachPause)
			continue
		}
		return d, err
	}
	return nil, fmt.Errorf("attach a loop device to %s: no device stayed free in %d attempts: try again", file, attachAttempts)
}

// openBacking opens the file below and refuses what would not do.
func openBacking(file string, o Options) (fd int, err error) {
	flags := unix.O_RDWR
	if o.ReadOnly {
		flags = unix.O_RDONLY
	}
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil { // before it is opened: to open the wrong thing can block
		return -1, fmt.Errorf("attach a loop device to %s: %w", file, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, fmt.Errorf("attach a loop device to %s: it is no regular file: leave out `loop:` to use a block device", file)
	}
	if o.SectorSize != 0 && (o.SectorSize < 512 || o.SectorSize > unix.Getpagesize() || o.SectorSize&(o.SectorSize-1) != 0) {
		return -1, fmt.Errorf("attach a loop device to %s: a sector size of %d bytes is not a power of two from 512 to %d", file, o.SectorSize, unix.Getpagesize())
	}
	if err := CheckSize(file, st.Size, o.SectorSize); err != nil {
		return -1, fmt.Errorf("attach a loop device to %s: %w", file, err)
	}
	if fd, err = unix.Open(file, flags|unix.O_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("attach a loop device to %s: open it: %w", file, err)
	}
	return fd, nil
}

// CheckSize refuses a file of which a loop device would not show all. A sector size of 0 is the smallest.
func CheckSize(file string, size int64, sectorSize int) error {
	sector := int64(max(sectorSize, 512))
	if size > 0 && size%sector == 0 {
		return nil
	}
	whole := (size/sector + 1) * sector
	return fmt.Errorf("its size of %d bytes is not a multiple of the sectors of %d, and a loop device would not show the rest: make it %d (truncate -s %d %s), or use the file itself",
		size, sector, whole, whole, file)
}

// lock claims the file. The kernel keeps the descriptor's open file below the device, and with it the lock.
func lock(file string, fd int) error {
	err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("attach a loop device to %s: %w: another process locks it: stop that one (lslocks shows it)", file, ErrInUse)
	}
	if err != nil {
		return fmt.Errorf("attach a loop device to %s: lock it: %w", file, err)
	}
	return nil
}

// attachFree attaches the device that the kernel names as free. EBUSY says that another process was quicker.
func attachFree(ctl int, file string, backing int, o Options) (*Device, error) {
	number, err := unix.IoctlRetInt(ctl, unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("attach a loop device to %s: find a free one: %w", file, err)
	}
	d := &Device{path: fmt.Sprintf("/dev/loop%d", number), file: file}
	if d.fd, err = openNode(d.path, o); err != nil {
		return nil, fmt.Errorf("attach a loop device to %s: open %s: %w", file, d.path, err)
	}
	if err := d.configure(backing, o); err != nil {
		return nil, errors.Join(fmt.Errorf("attach %s to %s: %w", d.path, file, err), unix.Close(d.fd))
	}
	if !o.Cached {
		d.setDirect(true)
	}
	info, err := unix.IoctlLoopGetStatus64(d.fd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach %s to %s: ask for its status: %w", d.path, file, err), unix.Close(d.fd))
	}
	d.direct = info.Flags&unix.LO_FLAGS_DIRECT_IO != 0
	return d, nil
}

// nodeWait bounds the wait for the file of a device that the kernel has just made: udev may make it.
const nodeWait = 2 * time.Second

func openNode(path string, o Options) (fd int, err error) {
	flags := unix.O_RDWR | unix.O_CLOEXEC
	if o.ReadOnly {
		flags = unix.O_RDONLY | unix.O_CLOEXEC
	}
	if o.Exclusive {
		flags |= unix.O_EXCL
	}
	for until := time.Now().Add(nodeWait); ; time.Sleep(10 * time.Millisecond) {
		fd, err = unix.Open(path, flags, 0)
		if err == unix.EINTR {
			continue
		}
		if err != unix.ENOENT || time.Now().After(until) {
			return fd, err
		}
	}
}

// configure puts the file below the device.
func (d *Device) configure(backing int, o Options) error {
	info := unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}
	if o.ReadOnly {
		info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(info.File_name[:len(info.File_name)-1], mark+d.file)
	config := unix.LoopConfig{Fd: uint32(backing), Size: uint32(o.SectorSize), Info: info}
	err := unix.EINVAL
	if !o.twoSteps {
		err = errno(unix.IoctlLoopConfigure(d.fd, &config))
	}
	// A kernel that does not know the request says EINVAL, which may also mean that it does not like the configuration; the
	// older way finds that out.
	if err != unix.EINVAL && err != unix.ENOTTY {
		return asError(err)
	}
	if err := unix.IoctlSetInt(d.fd, unix.LOOP_SET_FD, backing); err != nil {
		return err
	}
	if o.SectorSize != 0 {
		if err := unix.IoctlSetInt(d.fd, unix.LOOP_SET_BLOCK_SIZE, o.SectorSize); err != nil {
			return errors.Join(fmt.Errorf("set sectors of %d bytes: %w", o.SectorSize, err), d.clear())
		}
	}
	info.Flags &^= unix.LO_FLAGS_READ_ONLY // it is so by the file's descriptor, and not to be set
	for range attachAttempts {
		err = errno(unix.IoctlLoopSetStatus64(d.fd, &info))
		if err != unix.EAGAIN { // the page cache of the device was not empty yet
			break
		}
		time.Sleep(attachPause)
	}
	if err != 0 {
		return errors.Join(fmt.Errorf("set its status: %w", err), d.clear())
	}
	return nil
}

// setDirect turns direct I/O on where the file system has it, and it is no error where it has not.
func (d *Device) setDirect(on bool) {
	value := 0
	if on {
		value = 1
	}
	_ = unix.IoctlSetInt(d.fd, unix.LOOP_SET_DIRECT_IO, value)
}

// Grow has the device take the size of the file, which has become larger.
func (d *Device) Grow() error {
	if err := unix.IoctlSetInt(d.fd, unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("have %s take the size of %s: %w", d.path, d.file, err)
	}
	return nil
}

// Close gives the device up. It is detached when nobody else has it open any more.
func (d *Device) Close() error {
	if err := unix.Close(d.fd); err != nil {
		return fmt.Errorf("close %s: %w", d.path, err)
	}
	return nil
}

// Detach detaches the device at once or, if others have it open, when they close it, and closes it.
func (d *Device) Detach() error {
	return errors.Join(d.clear(), d.Close())
}

func (d *Device) clear() error {
	err := unix.IoctlSetInt(d.fd, unix.LOOP_CLR_FD, 0)
	if err != nil && !errors.Is(err, unix.ENXIO) { // it was detached already
		return fmt.Errorf("detach %s: %w", d.path, err)
	}
	return nil
}

// errno makes an error of a system call a number, 0 for none.
func errno(err error) unix.Errno {
	n, _ := errors.AsType[unix.Errno](err)
	return n
}

func asError(n unix.Errno) error {
	if n == 0 {
		return nil
	}
	return n
}
