//go:build linux

package usage

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"flotilla/blockdev/loop"

	"golang.org/x/sys/unix"
)

// Use is one thing that a file or device is used for.
type Use struct {
	// What names the user: "mounted on /srv", "/dev/loop3 is on it".
	What string
	// Remedy is what ends it.
	Remedy string
	// Left says that it is a loop device that blockdev/loop has attached, and takes again.
	Left bool
}

func (u Use) String() string { return u.What + " (" + u.Remedy + ")" }

// Describe joins uses for a message.
func Describe(uses []Use) string {
	var parts []string
	for _, u := range uses {
		parts = append(parts, u.String())
	}
	return strings.Join(parts, "; ")
}

// host is where the kernel says what it uses.
type host struct {
	proc, sys string
	loops     func(dev, inode uint64) ([]loop.Attached, error)
	stat      func(path string) (unix.Stat_t, error)
}

var thisHost = host{proc: "/proc", sys: "/sys", loops: loop.Of, stat: stat}

func stat(path string) (st unix.Stat_t, err error) {
	err = unix.Stat(path, &st)
	return st, err
}

// Of returns what uses the regular file or block device at path, this process's own descriptors aside.
func Of(path string) ([]Use, error) { return thisHost.of(path) }

func (h host) of(path string) ([]Use, error) {
	st, err := h.stat(path)
	if err != nil {
		return nil, fmt.Errorf("look for users of %s: %w", path, err)
	}
	var uses []Use
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		uses, err = h.ofDevice(st.Rdev)
	} else {
		uses, err = h.ofFile(&st)
	}
	if err != nil {
		return nil, fmt.Errorf("look for users of %s: %w", path, err)
	}
	return uses, nil
}

// ofFile looks for what the kernel does not refuse a second user of.
func (h host) ofFile(st *unix.Stat_t) ([]Use, error) {
	uses, err := h.swapped(func(other *unix.Stat_t) bool { return other.Dev == st.Dev && other.Ino == st.Ino })
	if err != nil {
		return nil, err
	}
	on, err := h.loops(st.Dev, st.Ino)
	if err != nil {
		return nil, err
	}
	for _, a := range on {
		remedy := "losetup -d " + a.Path
		if a.Ours {
			remedy = "it was attached for `loop:`: name the file so, or " + remedy
		}
		uses = append(uses, Use{What: "the loop device " + a.Path + " is on it", Remedy: remedy, Left: a.Ours})
		at, err := h.stat(a.Path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		above, err := h.ofDevice(at.Rdev)
		if err != nil {
			return nil, err
		}
		for _, u := range above {
			uses = append(uses, Use{What: a.Path + ": " + u.What, Remedy: u.Remedy})
		}
	}
	return uses, nil
}

// ofDevice looks at a block device, at the partitions on it, and at the disk that it is a partition of.
func (h host) ofDevice(rdev uint64) ([]Use, error) {
	own, err := h.ofNode(rdev)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.EvalSymlinks(h.node(rdev))
	if errors.Is(err, fs.ErrNotExist) {
		return own, nil // without sysfs, or the device is gone
	}
	if err != nil {
		return nil, err
	}
	var related []string
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		related = []string{filepath.Dir(dir)}
	} else {
		parts, err := filepath.Glob(filepath.Join(dir, "*", "partition"))
		if err != nil {
			return nil, err
		}
		for _, p := range parts {
			related = append(related, filepath.Dir(p))
		}
	}
	for _, r := range related {
		number, err := deviceNumber(filepath.Join(r, "dev"))
		if err != nil {
			return nil, err
		}
		uses, err := h.ofNode(number)
		if err != nil {
			return nil, err
		}
		for _, u := range uses {
			own = append(own, Use{What: "/dev/" + filepath.Base(r) + ": " + u.What, Remedy: u.Remedy})
		}
	}
	return own, nil
}

// node returns the directory of a block device in sysfs.
func (h host) node(rdev uint64) string {
	return filepath.Join(h.sys, "dev", "block", fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev)))
}

// ofNode looks at one block device alone.
func (h host) ofNode(rdev uint64) ([]Use, error) {
	uses, err := h.mounted(rdev)
	if err != nil {
		return nil, err
	}
	swapped, err := h.swapped(func(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == rdev })
	if err != nil {
		return nil, err
	}
	holders, err := os.ReadDir(filepath.Join(h.node(rdev), "holders"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	uses = append(uses, swapped...)
	for _, e := range holders {
		uses = append(uses, h.holder(e.Name()))
	}
	return uses, nil
}

// holder says what a device is that the kernel has built on another.
func (h host) holder(name string) Use {
	read := func(file string) string {
		text, err := os.ReadFile(filepath.Join(h.sys, "block", name, file))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	kind, remedy := "the device", "take that down, or use it instead"
	switch mapped := read("dm/name"); {
	case strings.HasPrefix(read("dm/uuid"), "LVM-"):
		kind, name, remedy = "the LVM volume", mapped, "vgchange -an its volume group, or use the logical volume"
	case strings.HasPrefix(read("dm/uuid"), "CRYPT-"):
		kind, name, remedy = "the encrypted volume", mapped, "cryptsetup close "+mapped+", or use that"
	case strings.HasPrefix(read("dm/uuid"), "mpath-"):
		kind, name, remedy = "the multipath device", mapped, "use that instead"
	case mapped != "":
		kind, name, remedy = "the mapped device", mapped, "dmsetup remove "+mapped+", or use that"
	case strings.HasPrefix(name, "md"):
		kind, remedy = "the RAID array", "mdadm --stop /dev/"+name+", or use that"
	case strings.HasPrefix(name, "bcache"):
		kind, remedy = "the cached device", "take that down, or use /dev/"+name
	}
	return Use{What: kind + " " + name + " is built on it", Remedy: remedy}
}

// mounted finds mounts by the number of the device and, for file systems that have a number of their own such as btrfs, by
// its name.
func (h host) mounted(rdev uint64) ([]Use, error) {
	number := fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev))
	var uses []Use
	err := h.lines("self/mountinfo", func(line string) {
		fields := strings.Fields(line)
		dash := -1
		for i, f := range fields {
			if f == "-" && i >= 6 {
				dash = i
				break
			}
		}
		if dash < 0 || dash+2 >= len(fields) {
			return
		}
		is := fields[2] == number
		if source := unescape(fields[dash+2]); !is && strings.HasPrefix(source, "/dev/") {
			st, err := h.stat(source)
			is = err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == rdev
		}
		if is {
			at := unescape(fields[4])
			uses = append(uses, Use{What: "mounted on " + at + " as " + fields[dash+1], Remedy: "umount " + at})
		}
	})
	return uses, err
}

// swapped finds swap files and devices.
func (h host) swapped(is func(*unix.Stat_t) bool) ([]Use, error) {
	var uses []Use
	err := h.lines("swaps", func(line string) {
		name, _, _ := strings.Cut(line, " ")
		name, _, _ = strings.Cut(name, "\t")
		name = unescape(name)
		if !strings.HasPrefix(name, "/") { // the heading
			return
		}
		if st, err := h.stat(name); err == nil && is(&st) {
			uses = append(uses, Use{What: "swap space in use", Remedy: "swapoff " + name})
		}
	})
	return uses, err
}

// lines reads a file of proc; a kernel without it has none of what it lists.
func (h host) lines(name string, do func(line string)) error {
	f, err := os.Open(filepath.Join(h.proc, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		do(s.Text())
	}
	return s.Err()
}

// unescape undoes the octal escapes by which proc writes spaces and the like.
func unescape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if n, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// deviceNumber reads "major:minor".
func deviceNumber(file string) (uint64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	major, minor, _ := strings.Cut(strings.TrimSpace(string(text)), ":")
	a, errA := strconv.ParseUint(major, 10, 32)
	b, errB := strconv.ParseUint(minor, 10, 32)
	if err := errors.Join(errA, errB); err != nil {
		return 0, fmt.Errorf("read %s: %w", file, err)
	}
	return unix.Mkdev(uint32(a), uint32(b)), nil
}
