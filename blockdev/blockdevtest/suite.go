// Package blockdevtest is the test suite that every blockdev.Device has to pass,
// and what tests need to get at block devices.
package blockdevtest

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"flotilla/blockdev"
)

// MinSize is the smallest size in bytes of a device that Run accepts.
const MinSize = 1 << 20

// Run tests that the devices that open returns behave as blockdev.Device says.
// open is called several times. It returns each time a writable device of at
// least MinSize bytes that reads as zeroes and that nobody else uses; Run closes
// it.
func Run(t *testing.T, open func(t testing.TB) blockdev.Device) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, d blockdev.Device)
	}{
		{"geometry", testGeometry},
		{"read back", testReadBack},
		{"edges", testEdges},
		{"out of range", testOutOfRange},
		{"empty", testEmpty},
		{"zeroes", testZeroes},
		{"buffer is not kept", testBufferNotKept},
		{"extents", testExtents},
		{"neighbours", testNeighbours},
		{"mixed neighbours", testMixedNeighbours},
		{"overlap", testOverlap},
		{"close waits", testCloseWaits},
		{"closed", testClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := open(t)
			if d.Size() < MinSize {
				t.Fatalf("device has %d bytes; the suite needs %d", d.Size(), MinSize)
			}
			t.Cleanup(func() {
				if err := d.Close(); err != nil && !errors.Is(err, blockdev.ErrClosed) {
					t.Errorf("close: %v", err)
				}
			})
			c.test(t, d)
		})
	}
	t.Run("model", func(t *testing.T) { testModel(t, open) })
}

// pattern returns n bytes, none of them zero, that depend on the seed.
func pattern(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.UintN(255) + 1)
	}
	return p
}

func write(t testing.TB, d blockdev.Device, p []byte, off int64) {
	t.Helper()
	if n, err := d.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("write %d bytes at %d: wrote %d: %v", len(p), off, n, err)
	}
}

// wantContent fails unless the device holds want at off.
func wantContent(t testing.TB, d blockdev.Device, want []byte, off int64) {
	t.Helper()
	got := bytes.Repeat([]byte{0xEE}, len(want))
	if n, err := d.ReadAt(got, off); n != len(got) || err != nil {
		t.Fatalf("read %d bytes at %d: read %d: %v", len(got), off, n, err)
	}
	if i := firstDifference(got, want); i >= 0 {
		t.Fatalf("range %d+%d: byte at offset %d is %#x, want %#x", off, len(want), off+int64(i), got[i], want[i])
	}
}

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

func testGeometry(t *testing.T, d blockdev.Device) {
	s := d.BlockSizes()
	for _, v := range []int{s.Logical, s.Physical, s.Preferred} {
		if v <= 0 || v&(v-1) != 0 {
			t.Errorf("%+v: not all powers of two", s)
		}
	}
	if s.Logical < 512 || s.Physical < s.Logical || s.Preferred < s.Physical {
		t.Errorf("%+v: not 512 <= logical <= physical <= preferred", s)
	}
}

func testReadBack(t *testing.T, d blockdev.Device) {
	wantContent(t, d, make([]byte, MinSize), 0)
	for _, n := range []int{1, 511, 512, 4096, 4097, 300_000} {
		for _, off := range []int64{0, 1, 512, 4095, 65536 - 7} {
			p := pattern(uint64(n)+uint64(off), n)
			write(t, d, p, off)
			wantContent(t, d, p, off)
		}
	}
	if err := d.Flush(); err != nil {
		t.Fatalf("flush: %v", err)
	}
}

// testEdges writes at and over every kind of border, and looks at what lies beside.
func testEdges(t *testing.T, d blockdev.Device) {
	model := pattern(1, 600_000) // Ends well before the tail of the smallest device.
	write(t, d, model, 0)
	end := d.Size()
	tail := pattern(2, 9000)
	write(t, d, tail, end-int64(len(tail)))
	for i, c := range []struct{ off, n int64 }{
		{4095, 1}, {4096, 1}, {4095, 2}, {511, 1}, {512, 512}, {500, 30}, {8192 - 3, 4102}, {65535, 65538}, {262144 - 1, 262146},
	} {
		p := pattern(uint64(10+i), int(c.n))
		write(t, d, p, c.off)
		copy(model[c.off:], p)
	}
	wantContent(t, d, model, 0)
	for i, c := range []struct{ before, n int64 }{{1, 1}, {512, 512}, {513, 513}, {4096, 4096}, {5000, 4999}, {8999, 8000}} {
		p := pattern(uint64(30+i), int(c.n))
		write(t, d, p, end-c.before)
		copy(tail[int64(len(tail))-c.before:], p)
		wantContent(t, d, tail, end-int64(len(tail)))
	}
}

func testOutOfRange(t *testing.T, d blockdev.Device) {
	size := d.Size()
	want := pattern(3, 4096)
	write(t, d, want, size-4096)
	for _, c := range []struct{ off, n int64 }{
		{-1, 1}, {-1, 0}, {size, 1}, {size + 1, 0}, {size - 1, 2}, {size - 4095, 4096}, {math.MaxInt64, 1}, {math.MinInt64, 1},
	} {
		p := make([]byte, c.n)
		rn, rerr := d.ReadAt(p, c.off)
		wn, werr := d.WriteAt(p, c.off)
		if rn != 0 || wn != 0 {
			t.Errorf("range %d+%d: read %d and wrote %d bytes", c.off, c.n, rn, wn)
		}
		for op, err := range map[string]error{"read": rerr, "write": werr, "trim": d.Trim(c.off, c.n), "write zeroes": d.WriteZeroes(c.off, c.n, false)} {
			if !errors.Is(err, blockdev.ErrOutOfRange) {
				t.Errorf("%s of range %d+%d: %v, want out of range", op, c.off, c.n, err)
			}
		}
		if err := extentsError(d, c.off, c.n); !errors.Is(err, blockdev.ErrOutOfRange) {
			t.Errorf("extents of range %d+%d: %v, want out of range", c.off, c.n, err)
		}
	}
	for _, n := range []int64{-1, math.MinInt64, math.MaxInt64} {
		if err := errors.Join(d.Trim(1, n), d.WriteZeroes(1, n, true)); !errors.Is(err, blockdev.ErrOutOfRange) {
			t.Errorf("zeroing %d bytes: %v, want out of range", n, err)
		}
	}
	wantContent(t, d, want, size-4096)
}

func extentsError(d blockdev.Device, off, length int64) error {
	for _, err := range blockdev.Extents(d, off, length) {
		if err != nil {
			return err
		}
	}
	return nil
}

func testEmpty(t *testing.T, d blockdev.Device) {
	for _, off := range []int64{0, 1, d.Size()} {
		if n, err := d.ReadAt(nil, off); n != 0 || err != nil {
			t.Errorf("empty read at %d: %d, %v", off, n, err)
		}
		if n, err := d.WriteAt(nil, off); n != 0 || err != nil {
			t.Errorf("empty write at %d: %d, %v", off, n, err)
		}
		for e, err := range blockdev.Extents(d, off, 0) {
			t.Errorf("empty range at %d has extent %+v, %v", off, e, err)
		}
		if err := errors.Join(d.Trim(off, 0), d.WriteZeroes(off, 0, true), d.WriteZeroes(off, 0, false)); err != nil {
			t.Errorf("empty zeroing at %d: %v", off, err)
		}
	}
}

// zeroings are the ways to make a range read as zeroes.
var zeroings = []struct {
	name string
	zero func(d blockdev.Device, off, n int64) error
}{
	{"trim", func(d blockdev.Device, off, n int64) error { return d.Trim(off, n) }},
	{"zero, may trim", func(d blockdev.Device, off, n int64) error { return d.WriteZeroes(off, n, true) }},
	{"zero", func(d blockdev.Device, off, n int64) error { return d.WriteZeroes(off, n, false) }},
}

// testZeroes looks at what was zeroed, at what lies beside it, and at what is
// written over it.
func testZeroes(t *testing.T, d blockdev.Device) {
	size := d.Size()
	for zi, z := range zeroings {
		for i, c := range []struct{ off, n int64 }{
			{0, 4096}, {4096, 65536}, {1, 1}, {100, 300}, {511, 2}, {513, 4096}, {5000, 200_000}, {65536, 131072},
			{0, MinSize}, {size - 1, 1}, {size - 512, 512}, {size - 5000, 5000}, {size - 5000, 4000},
		} {
			start := max(0, c.off-8192)
			model := pattern(uint64(100*zi+i), int(min(size, c.off+c.n+8192)-start))
			write(t, d, model, start)
			if err := z.zero(d, c.off, c.n); err != nil {
				t.Fatalf("%s %d+%d: %v", z.name, c.off, c.n, err)
			}
			clear(model[c.off-start:][:c.n])
			wantContent(t, d, model, start)
			if err := d.Flush(); err != nil {
				t.Fatalf("flush: %v", err)
			}
			wantContent(t, d, model, start)
			p := pattern(uint64(i), int(c.n/2))
			write(t, d, p, c.off)
			copy(model[c.off-start:], p)
			wantContent(t, d, model, start)
		}
	}
}

func testBufferNotKept(t *testing.T, d blockdev.Device) {
	for _, off := range []int64{0, 77} {
		p := pattern(4, 10_000)
		want := bytes.Clone(p)
		write(t, d, p, off)
		clear(p)
		wantContent(t, d, want, off)
		if _, err := d.WriteAt(p, off); err != nil || !bytes.Equal(p, make([]byte, len(p))) {
			t.Errorf("write changed the caller's buffer, or failed: %v", err)
		}
	}
}

// testExtents checks that extents cover the range in order, without gaps, and
// that what is called a hole reads as zeroes.
func testExtents(t *testing.T, d blockdev.Device) {
	size := d.Size()
	write(t, d, pattern(5, 70_000), 100_000)
	write(t, d, pattern(6, 1), 512*1024)
	write(t, d, pattern(7, 1), size-1)
	if err := d.Trim(120_000, 10_000); err != nil {
		t.Fatalf("trim: %v", err)
	}
	for _, c := range []struct{ off, n int64 }{{0, size}, {1, size - 2}, {100_001, 5}, {size - 1, 1}, {0, 1}, {119_000, 13_000}} {
		if err := checkExtents(d, c.off, c.n); err != nil {
			t.Errorf("extents of %d+%d: %v", c.off, c.n, err)
		}
	}
	for range blockdev.Extents(d, 0, size) {
		break // An iteration may be left.
	}
}

func checkExtents(d blockdev.Device, off, length int64) error {
	pos := off
	for e, err := range blockdev.Extents(d, off, length) {
		if err != nil {
			return err
		}
		if e.Offset != pos || e.Length <= 0 || e.Length > off+length-pos {
			return fmt.Errorf("%+v does not go on at %d", e, pos)
		}
		pos += e.Length
		if !e.Hole {
			continue
		}
		p := make([]byte, e.Length)
		if _, err := d.ReadAt(p, e.Offset); err != nil {
			return err
		}
		if i := firstDifference(p, make([]byte, len(p))); i >= 0 {
			return fmt.Errorf("%+v is called a hole and has data at %d", e, e.Offset+int64(i))
		}
	}
	if pos != off+length {
		return fmt.Errorf("they end at %d", pos)
	}
	return nil
}
