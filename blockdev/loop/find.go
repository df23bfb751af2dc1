//go:build linux

package loop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mark begins the name that the devices of this package carry, before as much of the file's path as there is room for. The
// name is for people and for findLeft only: the kernel knows the file by its inode.
const mark = "flotilla:"

// Attached is a loop device that is attached to a file.
type Attached struct {
	Path string // of the device
	Name string // what the device was told to be named, mostly a path
	// File is the path of the file below, as this process sees it; empty where the kernel does not say.
	File   string
	Device uint64 // st_dev of the file
	Inode  uint64
	Ours   bool // it carries this package's mark
}

// Of returns the loop devices on the file with that device and inode number. Without the right to ask a device for its file,
// the path that sysfs has for it decides.
func Of(dev, inode uint64) ([]Attached, error) {
	dirs, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		return nil, fmt.Errorf("look for loop devices: %w", err)
	}
	var out []Attached
	for _, dir := range dirs {
		a, err := status(dir)
		if errors.Is(err, unix.ENXIO) {
			continue // it was detached meanwhile
		}
		if err != nil {
			return nil, err
		}
		if a.Device == dev && a.Inode == inode {
			out = append(out, a)
		}
	}
	return out, nil
}

// status asks the device with that directory of sysfs for its file.
func status(dir string) (Attached, error) {
	a := Attached{Path: "/dev/" + filepath.Base(filepath.Dir(dir))}
	if text, err := os.ReadFile(filepath.Join(dir, "backing_file")); err == nil {
		a.File = strings.TrimSuffix(string(text), "\n")
	}
	fd, err := unix.Open(a.Path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		var info *unix.LoopInfo64
		info, err = unix.IoctlLoopGetStatus64(fd)
		err = errors.Join(err, unix.Close(fd))
		if err == nil {
			a.Device, a.Inode, a.Name = info.Device, info.Inode, unix.ByteSliceToString(info.File_name[:])
			a.Ours = strings.HasPrefix(a.Name, mark)
			return a, nil
		}
	}
	if errors.Is(err, unix.ENXIO) || a.File == "" {
		return a, unix.ENXIO
	}
	var st unix.Stat_t
	if unix.Stat(a.File, &st) == nil { // another namespace's path, or a deleted file's, names nothing here
		a.Device, a.Inode = st.Dev, st.Ino
	}
	return a, nil
}

// findLeft returns the path of the device of this package that is on the file already, "" if there is none. Another one on
// it is an error.
func findLeft(file string, backing int) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(backing, &st); err != nil {
		return "", fmt.Errorf("attach a loop device to %s: %w", file, err)
	}
	on, err := Of(st.Dev, st.Ino)
	if err != nil {
		return "", fmt.Errorf("attach a loop device to %s: %w", file, err)
	}
	left := ""
	for _, a := range on {
		if !a.Ours {
			return "", fmt.Errorf("attach a loop device to %s: %w: %s is on it already: detach that (losetup -d %s), or use %s instead of the file", file, ErrInUse, a.Path, a.Path, a.Path)
		}
		left = a.Path
	}
	return left, nil
}

// takeLeft opens a device that an earlier process has left. Its file is compared again once the device is held: it may
// have been detached, and attached to another file, since it was found.
func takeLeft(path, file string, backing int, o Options) (*Device, error) {
	fail := func(err error) error {
		return fmt.Errorf("attach a loop device to %s: take %s, which an earlier process has left on it: %w", file, path, err)
	}
	fd, err := openNode(path, o)
	if errors.Is(err, unix.EBUSY) {
		return nil, fail(fmt.Errorf("%w: another process holds it, or it is mounted: stop or unmount that (lsblk %s and fuser -v %s show it)", ErrInUse, path, path))
	}
	if err != nil {
		return nil, fail(err)
	}
	var st unix.Stat_t
	err = unix.Fstat(backing, &st)
	var info *unix.LoopInfo64
	if err == nil {
		info, err = unix.IoctlLoopGetStatus64(fd)
	}
	var readOnly int
	if err == nil {
		readOnly, err = unix.IoctlGetInt(fd, unix.BLKROGET)
	}
	var sector int
	if err == nil {
		sector, err = unix.IoctlGetInt(fd, unix.BLKSSZGET)
	}
	switch {
	case err != nil:
	case info.Device != st.Dev || info.Inode != st.Ino:
		err = errors.New("it is on another file now: try again")
	case readOnly != 0 && !o.ReadOnly:
		err = fmt.Errorf("%w: it is write-protected: have who holds it close it", ErrInUse)
	case o.SectorSize != 0 && sector != o.SectorSize:
		err = fmt.Errorf("%w: its sectors have %d bytes, not %d: have who holds it close it", ErrInUse, sector, o.SectorSize)
	case info.Offset != 0 || info.Sizelimit != 0:
		err = fmt.Errorf("%w: it shows only a part of the file: detach it (losetup -d %s)", ErrInUse, path)
	}
	d := &Device{path: path, file: file, fd: fd, reused: true}
	if err == nil {
		d.direct = info.Flags&unix.LO_FLAGS_DIRECT_IO != 0
		err = d.Grow() // the file may have become larger since
	}
	if err != nil {
		return nil, errors.Join(fail(err), unix.Close(fd))
	}
	return d, nil
}
