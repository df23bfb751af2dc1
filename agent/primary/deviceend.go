package primary

import (
	"errors"
	"fmt"
	"slices"

	"flotilla/blockdev"
)

// endUnit is what the bitmap at the end of a device is aligned to and a multiple of, and what of it is read at a time.
const endUnit = 4096

// deviceEnd keeps bits in the last bytes of the volume's own device, behind those that are served.
//
// The device is flushed as a whole, so that a flush of the bits waits for the application's writes, too. It is written in
// place: what replace leaves behind when it is cut short is a mixture of old and new sectors. Those of another shape count
// for nothing, and of the same shape either has every bit that matters.
type deviceEnd struct {
	dev  blockdev.Device
	off  int64
	size int64
}

var _ bitMedium = (*deviceEnd)(nil)

// endLength returns how many bytes at the end of a device the bits of a volume of size bytes take.
func (l *Limits) endLength(size int64) int64 {
	n := int64(bitShape{size: size, extent: l.extentFor(size)}.length())
	return (n + endUnit - 1) / endUnit * endUnit
}

// SizeWithBitmap returns how large a volume a device of so many bytes has room for when its bitmap lies at the end of the
// device; 0 where there is no room.
func SizeWithBitmap(device int64) int64 {
	l, err := Limits{}.withDefaults()
	if err != nil {
		panic("primary: the default limits are invalid: " + err.Error())
	}
	device = device / endUnit * endUnit
	size := max(0, device-l.endLength(device))
	if size+l.endLength(size) > device { // the extents of a somewhat smaller volume are smaller
		size = max(0, device-l.endLength(size))
	}
	return size
}

// newDeviceEnd returns the end of a device as a medium. It refuses a device without room behind the volume, and one whose
// end holds something else: it may be data.
func newDeviceEnd(dev blockdev.Device, l *Limits, size int64) (*deviceEnd, error) {
	length := l.endLength(size)
	e := &deviceEnd{dev: dev, off: (dev.Size() - length) / endUnit * endUnit, size: length}
	if e.off < size {
		return nil, fmt.Errorf("the device has %d bytes, and the volume with its bitmap behind it needs %d: enlarge the device, or make the volume smaller",
			dev.Size(), (size+endUnit-1)/endUnit*endUnit+length)
	}
	raw, unread := e.read(int(length))
	ours, empty := false, true
	for pos := 0; pos < len(raw); pos += bitSector {
		sector := raw[pos : pos+bitSector]
		ours = ours || isBits(sector)
		empty = empty && isZero(sector)
	}
	switch {
	case ours || (empty && unread == nil):
		return e, nil
	case unread != nil:
		return nil, fmt.Errorf("look at the last %d bytes of the device, for its bitmap: %w", length, unread)
	}
	return nil, fmt.Errorf("the last %d bytes of the device, from %d on, hold something that is no bitmap: if they are not needed make them zero (`fallocate -z -o %d -l %d DEVICE`), or make the volume without a bitmap at its end",
		length, e.off, e.off, length)
}

func isZero(p []byte) bool { return !slices.ContainsFunc(p, func(b byte) bool { return b != 0 }) }

// read returns n bytes, zeroes for what could not be read, and the first reason for that.
func (e *deviceEnd) read(n int) (raw []byte, first error) {
	raw = make([]byte, n)
	for pos := 0; pos < n; pos += endUnit {
		part := raw[pos:min(pos+endUnit, n)]
		if _, err := e.dev.ReadAt(part, e.off+int64(pos)); err != nil {
			clear(part)
			if first == nil {
				first = err
			}
		}
	}
	return raw, first
}

func (e *deviceEnd) String() string {
	return fmt.Sprintf("at the end of the device, from byte %d on", e.off)
}

// load takes what can not be read for damaged, and only that.
func (e *deviceEnd) load(n int) ([]byte, error) {
	raw, err := e.read(n)
	if isZero(raw) {
		return nil, err
	}
	return raw, nil
}

func (e *deviceEnd) write(p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > e.size {
		panic("primary: a write outside of the bitmap at the end of a device")
	}
	_, err := e.dev.WriteAt(p, e.off+off)
	return err
}

func (e *deviceEnd) sync() error { return e.dev.Flush() }

// replace writes whole units, which need not be read before, so that it also mends one that can not be read.
func (e *deviceEnd) replace(all []byte) error {
	units := make([]byte, e.size)
	copy(units, all)
	return errors.Join(e.write(units, 0), e.sync())
}

// abandon does nothing: replace writes every sector again.
func (e *deviceEnd) abandon() error { return nil }

// close does nothing: the device is the volume's.
func (e *deviceEnd) close() error { return nil }

// remove makes the end of the device zero, so that nobody takes the rest for a volume.
func (e *deviceEnd) remove() error {
	if err := errors.Join(e.dev.WriteZeroes(e.off, e.size, false), e.sync()); err != nil {
		return fmt.Errorf("remove the activity log %v: %w", e, err)
	}
	return nil
}
