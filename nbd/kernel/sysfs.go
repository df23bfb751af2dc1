package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Sysfs reads and sets what sysfs has of NBD devices. Root is where sysfs is mounted, "/sys" when empty.
//
//	block/nbdX/pid                    there while the device is set up
//	block/nbdX/backend                its identifier
//	block/nbdX/size                   in units of 512 bytes
//	block/nbdX/queue/…                settings
type Sysfs struct{ Root string }

func (s Sysfs) path(index int, parts ...string) string {
	root := s.Root
	if root == "" {
		root = "/sys"
	}
	return filepath.Join(append([]string{root, "block", "nbd" + strconv.Itoa(index)}, parts...)...)
}

func (s Sysfs) read(index int, parts ...string) (string, error) {
	text, err := os.ReadFile(s.path(index, parts...))
	return strings.TrimSpace(string(text)), err
}

// Devices returns the indices of all devices, set up or not, ascending.
func (s Sysfs) Devices() ([]int, error) {
	dir := filepath.Dir(s.path(0))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list block devices: %w", err)
	}
	var out []int
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), "nbd")
		if !ok {
			continue
		}
		if i, err := strconv.Atoi(number); err == nil && i >= 0 {
			out = append(out, i)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Device is what sysfs says of one device that is set up.
type Device struct {
	Index      int
	Identifier string // empty on kernels before 5.14
	Size       int64  // bytes
}

// Get returns a device, and false when it is not set up.
func (s Sysfs) Get(index int) (Device, bool, error) {
	d := Device{Index: index}
	if _, err := s.read(index, "pid"); err != nil {
		return d, false, ignoreMissing(err)
	}
	var err error
	if d.Identifier, err = s.read(index, "backend"); err != nil && ignoreMissing(err) != nil {
		return d, false, fmt.Errorf("read identifier of nbd%d: %w", index, err)
	}
	text, err := s.read(index, "size")
	if err != nil {
		return d, false, ignoreMissing(err) // it went away meanwhile
	}
	sectors, err := strconv.ParseInt(text, 10, 64)
	if err != nil || sectors < 0 || sectors > 1<<54 {
		return d, false, fmt.Errorf("read size of nbd%d: %q is no number of sectors", index, text)
	}
	d.Size = sectors << 9
	return d, true, nil
}

// ignoreMissing drops the errors of attributes that are not there. A device that is just being taken down answers ENODEV.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || isNoDevice(err) {
		return nil
	}
	return err
}

// Find returns the device with the identifier, and false when none is set up with it.
func (s Sysfs) Find(identifier string) (Device, bool, error) {
	all, err := s.Devices()
	if err != nil {
		return Device{}, false, err
	}
	for _, i := range all {
		d, there, err := s.Get(i)
		if err != nil {
			return Device{}, false, err
		}
		if there && d.Identifier == identifier {
			return d, true, nil
		}
	}
	return Device{}, false, nil
}

// setting is one of a queue's.
type setting struct{ name, value string }

// queueSettings are what a device is given: requests of up to 512 KiB (old kernels start with 64 or 128), no scheduler in front
// of a server that has one, read-ahead for a device whose server may be busy elsewhere, and so many requests at a time that a
// full queue is answered long before any of it is sent again.
func queueSettings() []setting {
	return []setting{{"max_sectors_kb", "512"}, {"scheduler", "none"}, {"read_ahead_kb", "1024"}, {"nr_requests", "64"}}
}

// Tune makes the queue settings of a device, and returns those that this kernel does not take.
func (s Sysfs) Tune(index int) error {
	var errs []error
	for _, q := range queueSettings() {
		if err := os.WriteFile(s.path(index, "queue", q.name), []byte(q.value), 0); err != nil {
			errs = append(errs, fmt.Errorf("set %s of nbd%d to %s: %w", q.name, index, q.value, err))
		}
	}
	return errors.Join(errs...)
}

// Missing names the features that the server offers by its transmission flags and the kernel does not use, found by what the
// queue of a device that is set up says.
func (s Sysfs) Missing(index int, serverFlags uint16) []string {
	var out []string
	for _, f := range []struct {
		flag      uint16
		name      string
		attribute string
		without   string
	}{
		{flagSendFlush, "flush", "write_cache", "write through"},
		{flagSendFUA, "FUA", "fua", "0"},
		{flagSendTrim, "trim", "discard_max_bytes", "0"},
		{flagSendWriteZeroes, "write-zeroes", "write_zeroes_max_bytes", "0"},
	} {
		if serverFlags&f.flag == 0 {
			continue
		}
		if value, err := s.read(index, "queue", f.attribute); err != nil || value == f.without {
			out = append(out, f.name)
		}
	}
	return out
}

// Transmission flags (NBD protocol, "Transmission flags"). The package of the protocol keeps its own to itself.
const (
	flagSendFlush       = 1 << 2
	flagSendFUA         = 1 << 3
	flagSendTrim        = 1 << 5
	flagSendWriteZeroes = 1 << 6
)
