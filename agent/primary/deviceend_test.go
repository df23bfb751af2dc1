package primary

import (
	"strings"
	"testing"

	"flotilla/blockdev"
	"flotilla/blockdev/faulty"
)

var endLimits = Limits{Extent: 4096}

// endDevice is a device with a volume of so many bytes and its bitmap.
func endDevice(size int64) *blockdev.Memory {
	return blockdev.NewMemory(size + endLimits.endLength(size))
}

func TestEndOfDeviceIsRefused(t *testing.T) {
	const size = 1 << 20
	for name, c := range map[string]struct {
		dev  blockdev.Device
		want string
	}{
		"no room": {blockdev.NewMemory(size + 4095), "needs"},
		"data at the end": {func() blockdev.Device {
			dev := endDevice(size)
			if _, err := dev.WriteAt([]byte{1}, dev.Size()-1); err != nil {
				t.Fatal(err)
			}
			return dev
		}(), "no bitmap"},
		"nothing can be read": {func() blockdev.Device {
			dev := faulty.New(endDevice(size))
			dev.Inject(faulty.Fault{Op: faulty.Read, Times: -1})
			return dev
		}(), "injected fault"},
	} {
		if _, err := newDeviceEnd(c.dev, &endLimits, size); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEndOfDeviceTouchesNothingElse writes and removes bits behind a volume full of data.
func TestEndOfDeviceTouchesNothingElse(t *testing.T) {
	const size = 1<<20 + 5*512 // the bitmap begins at the next unit
	dev := blockdev.NewMemory(2 << 20)
	fill := make([]byte, size)
	for i := range fill {
		fill[i] = 0xa5
	}
	if _, err := dev.WriteAt(fill, 0); err != nil {
		t.Fatal(err)
	}
	m, err := newDeviceEnd(dev, &endLimits, size)
	if err != nil {
		t.Fatal(err)
	}
	shape := bitShape{volume: 1, size: size, extent: endLimits.Extent}
	a, fresh, reason := openActivity(m, shape, false)
	if err := a.commit(); err != nil || !fresh || reason != nil {
		t.Fatal(err, fresh, reason)
	}
	same := func() {
		t.Helper()
		got := make([]byte, size)
		if _, err := dev.ReadAt(got, 0); err != nil || string(got) != string(fill) {
			t.Errorf("the volume was written: %v", err)
		}
	}
	same()
	m, err = newDeviceEnd(dev, &endLimits, size)
	if err != nil {
		t.Fatal(err)
	}
	b, fresh, reason := openActivity(m, shape, false)
	if fresh || reason != nil {
		t.Errorf("the bits are not found again: fresh %v, %v", fresh, reason)
	}
	if err := b.remove(); err != nil {
		t.Error(err)
	}
	same()
	rest := make([]byte, dev.Size()-size)
	if _, err := dev.ReadAt(rest, size); err != nil || !isZero(rest) {
		t.Errorf("something is left of the bits: %v", err)
	}
}

// TestUnreadableBits: what can not be read is taken as set, and the rest as it is.
func TestUnreadableBits(t *testing.T) {
	shape := bitShape{volume: 1, size: 20 * sectorBits * 4096, extent: 4096}
	dev := faulty.New(endDevice(shape.size))
	open := func() *activity {
		m, err := newDeviceEnd(dev, &endLimits, shape.size)
		if err != nil {
			t.Fatal(err)
		}
		a, _, _ := openActivity(m, shape, false)
		return a
	}
	a := open()
	a.resync()
	for i, n, _, _, ok := a.nextCopy(3); ok; i, n, _, _, ok = a.nextCopy(3) {
		a.copied(i, n, 1)
	}
	if _, err := a.clean(1, 0, maxExtents, dev.Flush); err != nil {
		t.Fatal(err)
	}
	if err := a.commit(); err != nil {
		t.Fatal(err)
	}
	end := dev.Size() - endLimits.endLength(shape.size)
	dev.Inject(faulty.Fault{Op: faulty.Read, Offset: end + endUnit, Length: 1, Times: -1})
	b := open()
	if got, want := b.ext.Marked(), 8*sectorBits; got != want {
		t.Errorf("%d bits are set, want the %d of the unit that can not be read", got, want)
	}
}

// TestSizeWithBitmap: as much as fits and no more, at the borders where extents double, too.
func TestSizeWithBitmap(t *testing.T) {
	l, err := Limits{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for _, device := range []int64{0, 511, 4096, 8192, 12288, 1 << 20, 10<<30 + 4097, 1 << 40, 1<<40 + 4096, 1<<40 + 64<<10, 1<<40 + 132<<10, 1<<40 + 1<<20, 5<<40 - 512} {
		size := SizeWithBitmap(device)
		if size < 0 || (size > 0 && size+l.endLength(size) > device) {
			t.Errorf("a device of %d bytes: a volume of %d does not fit", device, size)
		}
		// What is given away is a bitmap at most, as large as one can be, and a unit.
		if most := l.endLength(1<<40) + 2*endUnit; device-size > most {
			t.Errorf("a device of %d bytes: a volume of %d wastes %d", device, size, device-size)
		}
		if size == 0 {
			continue
		}
		if _, err := newDeviceEnd(sized{device}, &l, size); err != nil {
			t.Errorf("a device of %d bytes with a volume of %d: %v", device, size, err)
		}
	}
}

// sized is an empty device of any size.
type sized struct{ size int64 }

func (s sized) Size() int64                             { return s.size }
func (s sized) BlockSizes() blockdev.BlockSizes         { return blockdev.BlockSizes{} }
func (s sized) ReadAt(p []byte, off int64) (int, error) { return len(p), nil }
func (s sized) WriteAt(p []byte, _ int64) (int, error)  { return len(p), nil }
func (s sized) Flush() error                            { return nil }
func (s sized) Trim(_, _ int64) error                   { return nil }
func (s sized) WriteZeroes(_, _ int64, _ bool) error    { return nil }
func (s sized) Close() error                            { return nil }
