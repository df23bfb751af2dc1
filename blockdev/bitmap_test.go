package blockdev_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"sync"
	"testing"

	"flotilla/blockdev"

	"pgregory.net/rapid"
)

func mustBitmap(t testing.TB, size, extent int64) *blockdev.Bitmap {
	t.Helper()
	b, err := blockdev.NewBitmap(size, extent)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func setBits(b *blockdev.Bitmap) []int64 {
	var got []int64
	for i, ok := b.NextSet(0); ok; i, ok = b.NextSet(i + 1) {
		got = append(got, i)
	}
	return got
}

func TestBitmapRounding(t *testing.T) {
	const extent, size = 100 - 36, 64*10 + 5 // 11 extents of 64 bytes, the last one short
	for _, c := range []struct {
		off, n     int64
		set, clear []int64
	}{
		{0, 64, []int64{0}, []int64{0}},
		{0, 1, []int64{0}, nil},
		{63, 2, []int64{0, 1}, nil},
		{64, 0, nil, nil},
		{1, 190, []int64{0, 1, 2}, []int64{1}},
		{64, 128, []int64{1, 2}, []int64{1, 2}},
		{640, 5, []int64{10}, []int64{10}},
		{641, 4, []int64{10}, nil},
		{640, 4, []int64{10}, nil},
		{639, 6, []int64{9, 10}, []int64{10}},
		{size, 0, nil, nil},
		{0, size, []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
	} {
		b := mustBitmap(t, size, extent)
		n, err := b.SetRange(c.off, c.n)
		if got := setBits(b); err != nil || !slices.Equal(got, c.set) || n != int64(len(c.set)) || b.Count() != n {
			t.Errorf("set %d+%d: bits %v, %d changed, count %d, %v; want %v", c.off, c.n, got, n, b.Count(), err, c.set)
		}
		if dirty, err := b.TestRange(c.off, c.n); err != nil || dirty != (len(c.set) > 0) {
			t.Errorf("test %d+%d: %v, %v", c.off, c.n, dirty, err)
		}
		for i := range b.Len() {
			b.Set(i)
		}
		n, err = b.ClearRange(c.off, c.n)
		var gone []int64
		for i := range b.Len() {
			if !b.Test(i) {
				gone = append(gone, i)
			}
		}
		if err != nil || !slices.Equal(gone, c.clear) || n != int64(len(gone)) || b.Count() != b.Len()-n {
			t.Errorf("clear %d+%d: bits %v, %d changed, count %d, %v; want %v", c.off, c.n, gone, n, b.Count(), err, c.clear)
		}
	}
}

func TestBitmapRefuses(t *testing.T) {
	for _, c := range [][2]int64{{-1, 64}, {10, 0}, {10, -64}, {10, 3}, {1 << 40, 512}, {1<<62 + 1, 1 << 10}} {
		if _, err := blockdev.NewBitmap(c[0], c[1]); !errors.Is(err, blockdev.ErrBadBitmap) {
			t.Errorf("bitmap of %v: %v, want bad bitmap", c, err)
		}
	}
	b := mustBitmap(t, 1000, 64)
	for _, c := range [][2]int64{{-1, 1}, {0, 1001}, {1001, 0}, {5, -1}, {1, 1<<63 - 1}} {
		_, serr := b.SetRange(c[0], c[1])
		_, cerr := b.ClearRange(c[0], c[1])
		_, terr := b.TestRange(c[0], c[1])
		for _, err := range []error{serr, cerr, terr} {
			if !errors.Is(err, blockdev.ErrOutOfRange) {
				t.Errorf("range %v: %v, want out of range", c, err)
			}
		}
	}
	for _, i := range []int64{-1, 16} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("bit %d of 16 did not panic", i)
				}
			}()
			b.Set(i)
		}()
	}
	if n, err := mustBitmap(t, 0, 64).SetRange(0, 0); n != 0 || err != nil {
		t.Errorf("empty bitmap: %d, %v", n, err)
	}
}

// TestBitmapModel compares a bitmap with a slice of bools.
func TestBitmapModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		extent := int64(1) << rapid.IntRange(0, 12).Draw(rt, "extent bits")
		size := rapid.Int64Range(1, 700*extent).Draw(rt, "size")
		b := mustBitmap(t, size, extent)
		want := make([]bool, b.Len())
		span := func(rt *rapid.T) (off, n int64) {
			off = rapid.Int64Range(0, size).Draw(rt, "offset")
			n = rapid.Int64Range(0, size-off).Draw(rt, "length")
			if rapid.Bool().Draw(rt, "to the end") {
				n = size - off
			}
			return off, n
		}
		rt.Repeat(map[string]func(*rapid.T){
			"set": func(rt *rapid.T) {
				off, n := span(rt)
				changed, err := b.SetRange(off, n)
				for i := range want {
					start, end := int64(i)*extent, min(size, int64(i+1)*extent)
					if n > 0 && start < off+n && off < end && !want[i] {
						want[i] = true
						changed--
					}
				}
				if err != nil || changed != 0 {
					rt.Fatalf("set %d+%d: off by %d, %v", off, n, changed, err)
				}
			},
			"clear": func(rt *rapid.T) {
				off, n := span(rt)
				changed, err := b.ClearRange(off, n)
				for i := range want {
					start, end := int64(i)*extent, min(size, int64(i+1)*extent)
					if off <= start && end <= off+n && want[i] {
						want[i] = false
						changed--
					}
				}
				if err != nil || changed != 0 {
					rt.Fatalf("clear %d+%d: off by %d, %v", off, n, changed, err)
				}
			},
			"bytes": func(rt *rapid.T) {
				data, err := b.MarshalBinary()
				if err != nil {
					rt.Fatal(err)
				}
				c, err := blockdev.ParseBitmap(data)
				if err != nil {
					rt.Fatal(err)
				}
				if c.Size() != size || c.ExtentSize() != extent || c.Count() != b.Count() || !slices.Equal(setBits(c), setBits(b)) {
					rt.Fatal("bitmap changed on its way through bytes")
				}
			},
			"": func(rt *rapid.T) { compareBitmap(rt, b, want) },
		})
	})
}

func compareBitmap(rt *rapid.T, b *blockdev.Bitmap, want []bool) {
	var bits []int64
	for i, set := range want {
		if set {
			bits = append(bits, int64(i))
		}
	}
	if got := setBits(b); !slices.Equal(got, bits) || b.Count() != int64(len(bits)) {
		rt.Fatalf("bits %v, count %d, want %v", got, b.Count(), bits)
	}
	most := rapid.Int64Range(0, 9*b.ExtentSize()).Draw(rt, "longest run")
	covered := make([]bool, len(want))
	var last int64 = -1
	for r := range b.Runs(0, most) {
		if r.Offset <= last || r.Length <= 0 || r.Length > max(most, b.ExtentSize()) || r.Offset+r.Length > b.Size() {
			rt.Fatalf("run %+v after offset %d", r, last)
		}
		last = r.Offset + r.Length - 1
		for i := r.Offset / b.ExtentSize(); i*b.ExtentSize() < r.Offset+r.Length; i++ {
			covered[i] = true
		}
	}
	if !slices.Equal(covered, want) {
		rt.Fatalf("runs cover %v, want %v", covered, want)
	}
}

func TestBitmapRuns(t *testing.T) {
	b := mustBitmap(t, 64*200+9, 64)
	for _, r := range [][2]int64{{60 * 64, 10 * 64}, {64 * 199, 64 + 9}} {
		if _, err := b.SetRange(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		from, most int64
		want       []blockdev.Run
	}{
		{0, 1 << 40, []blockdev.Run{{Offset: 60 * 64, Length: 640}, {Offset: 199 * 64, Length: 73}}},
		{-5, 4*64 + 63, []blockdev.Run{{Offset: 60 * 64, Length: 256}, {Offset: 64 * 64, Length: 256}, {Offset: 68 * 64, Length: 128}, {Offset: 199 * 64, Length: 73}}},
		{65*64 + 1, 1 << 40, []blockdev.Run{{Offset: 65 * 64, Length: 320}, {Offset: 199 * 64, Length: 73}}},
		{200 * 64, 0, []blockdev.Run{{Offset: 200 * 64, Length: 9}}},
		{1 << 60, 0, nil},
	} {
		if got := slices.Collect(b.Runs(c.from, c.most)); !slices.Equal(got, c.want) {
			t.Errorf("runs from %d of at most %d: %v, want %v", c.from, c.most, got, c.want)
		}
	}
	for r := range b.Runs(0, 64) { // What was yielded may be cleared.
		if _, err := b.ClearRange(r.Offset, r.Length); err != nil {
			t.Fatal(err)
		}
	}
	if b.Count() != 0 {
		t.Errorf("%d bits are left", b.Count())
	}
}

func TestBitmapConcurrent(t *testing.T) {
	const workers, extents = 8, 4096
	b := mustBitmap(t, extents*512, 512)
	var wg sync.WaitGroup
	var changed [workers]int64
	for w := range workers { // All set all; each bit is new to exactly one of them.
		wg.Go(func() {
			for i := range int64(extents / 3) {
				n, err := b.SetRange(i*3*512, 4*512)
				if err != nil {
					t.Error(err)
				}
				changed[w] += n
			}
		})
	}
	wg.Wait()
	var sum int64
	for _, n := range changed {
		sum += n
	}
	if want := int64(extents/3*3 + 1); sum != want || b.Count() != want {
		t.Errorf("%d bits changed, count %d, want %d", sum, b.Count(), want)
	}
	for w := range workers { // Each clears its own bits of each word.
		wg.Go(func() {
			for i := int64(w); i < extents; i += workers {
				b.Clear(i)
			}
		})
	}
	wg.Wait()
	if i, ok := b.NextSet(0); ok || b.Count() != 0 {
		t.Errorf("bit %d is left, count %d", i, b.Count())
	}
}

func TestBitmapPages(t *testing.T) {
	b := mustBitmap(t, 1000*512, 512)
	for _, i := range []int64{0, 63, 64, 500, 999} {
		b.Set(i)
	}
	c := mustBitmap(t, 1000*512, 512)
	c.Set(7)
	page := make([]byte, 32)
	for at := 0; at < b.ByteLen(); at += len(page) {
		p := page[:min(len(page), b.ByteLen()-at)]
		if err := errors.Join(b.ReadBytes(p, at), c.MergeBytes(p, at)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := setBits(c), []int64{0, 7, 63, 64, 500, 999}; !slices.Equal(got, want) || c.Count() != int64(len(want)) {
		t.Errorf("merged %v, count %d, want %v", got, c.Count(), want)
	}
	for _, r := range [][2]int{{8, b.ByteLen()}, {8, -8}, {8, 4}, {7, 0}, {b.ByteLen() + 8, 0}} {
		if err := b.ReadBytes(make([]byte, r[0]), r[1]); !errors.Is(err, blockdev.ErrBadBitmap) {
			t.Errorf("read %d bytes at %d: %v", r[0], r[1], err)
		}
		if err := b.MergeBytes(make([]byte, r[0]), r[1]); !errors.Is(err, blockdev.ErrBadBitmap) {
			t.Errorf("merge %d bytes at %d: %v", r[0], r[1], err)
		}
	}
	if err := c.MergeBytes([]byte{0, 0, 0, 0, 0, 1, 0, 0}, b.ByteLen()-8); !errors.Is(err, blockdev.ErrBadBitmap) {
		t.Errorf("merge of bit 1000 of 1000: %v", err)
	}
}

// seal puts the right checksum under bytes that are otherwise wrong.
func seal(p []byte) []byte {
	n := len(p) - 4
	binary.LittleEndian.PutUint32(p[n:], crc32.Checksum(p[:n], crc32.MakeTable(crc32.Castagnoli)))
	return p
}

func TestParseBitmapRefuses(t *testing.T) {
	b := mustBitmap(t, 100*512, 512)
	b.Set(99)
	good, err := b.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if len(good) != 24+16+4 {
		t.Fatalf("bitmap of 100 bits takes %d bytes", len(good))
	}
	for i := range good { // No single flipped byte goes through.
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		if _, err := blockdev.ParseBitmap(bad); !errors.Is(err, blockdev.ErrBadBitmap) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
		if _, err := blockdev.ParseBitmap(good[:i]); !errors.Is(err, blockdev.ErrBadBitmap) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
	for name, change := range map[string]func(p []byte){
		"version":     func(p []byte) { p[4] = 2 },
		"reserved":    func(p []byte) { p[6] = 1 },
		"size":        func(p []byte) { binary.LittleEndian.PutUint64(p[8:], 1<<62) },
		"negative":    func(p []byte) { binary.LittleEndian.PutUint64(p[8:], 1<<63) },
		"no extent":   func(p []byte) { binary.LittleEndian.PutUint64(p[16:], 0) },
		"odd extent":  func(p []byte) { binary.LittleEndian.PutUint64(p[16:], 513) },
		"bit behind":  func(p []byte) { p[24+8+5] = 0x80 },
		"tiny extent": func(p []byte) { binary.LittleEndian.PutUint64(p[16:], 1) },
	} {
		bad := bytes.Clone(good)
		change(bad)
		if _, err := blockdev.ParseBitmap(seal(bad)); !errors.Is(err, blockdev.ErrBadBitmap) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseBitmap(f *testing.F) {
	for _, size := range []int64{0, 1, 64 * 512, 65*512 + 1} {
		b := mustBitmap(f, size, 512)
		if _, err := b.SetRange(0, size); err != nil {
			f.Fatal(err)
		}
		data, _ := b.MarshalBinary()
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 28 {
			return
		}
		b, err := blockdev.ParseBitmap(seal(bytes.Clone(data)))
		if err != nil {
			return
		}
		again, err := b.MarshalBinary()
		if err != nil || !bytes.Equal(again[:len(again)-4], data[:len(data)-4]) {
			t.Errorf("bytes changed on their way through a bitmap: %v", err)
		}
		if int64(len(setBits(b))) != b.Count() {
			t.Errorf("count %d, and %d bits are set", b.Count(), len(setBits(b)))
		}
	})
}

func BenchmarkBitmapSetRange(b *testing.B) {
	m := mustBitmap(b, 1<<40, 64<<10)
	b.ReportAllocs()
	var off int64
	for b.Loop() {
		if _, err := m.SetRange(off, 4096); err != nil {
			b.Fatal(err)
		}
		off = (off + 12345*4096) % (1<<40 - 4096)
	}
}
