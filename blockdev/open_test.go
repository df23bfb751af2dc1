package blockdev_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flotilla/blockdev"
	"flotilla/blockdev/blockdevtest"

	"golang.org/x/sys/unix"
)

// oddSize is no multiple of a sector and ends inside a page.
const oddSize = 2<<20 + 5*512 + 77

func mustOpen(t testing.TB, path string, opts blockdev.Options) blockdev.Device {
	t.Helper()
	d, err := blockdev.Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// newFile opens a new file in dir and closes it at the end of the test.
func newFile(t testing.TB, dir string, size int64, opts blockdev.Options) (blockdev.Device, string) {
	t.Helper()
	path := filepath.Join(dir, "device")
	d, err := blockdev.Create(path, size, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeQuietly(t, d) })
	return d, path
}

// newRaw opens a new loop device and closes it at the end of the test.
func newRaw(t testing.TB, sector int, opts blockdev.Options) blockdev.Device {
	t.Helper()
	path, _ := blockdevtest.Loop(t, blockdevtest.LoopConfig{Size: 2<<20 + int64(3*sector), SectorSize: sector})
	d := mustOpen(t, path, opts)
	t.Cleanup(func() { closeQuietly(t, d) })
	return d
}

func closeQuietly(t testing.TB, d blockdev.Device) {
	if err := d.Close(); err != nil && !errors.Is(err, blockdev.ErrClosed) {
		t.Errorf("close: %v", err)
	}
}

// shmDir returns a new directory on tmpfs, which lacks some operations of disk
// file systems.
func shmDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "blockdev")
	if err != nil {
		blockdevtest.SkipOrFail(t, "test needs a tmpfs: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestFileSuite(t *testing.T) {
	for _, c := range []struct {
		name string
		dir  func(testing.TB) string
		size int64
		opts blockdev.Options
	}{
		{"buffered", testing.TB.TempDir, 2 << 20, blockdev.Options{}},
		{"buffered odd", testing.TB.TempDir, oddSize, blockdev.Options{Exclusive: true}},
		{"direct", testing.TB.TempDir, 2 << 20, blockdev.Options{Direct: true}},
		{"direct sectors", testing.TB.TempDir, 2<<20 + 512, blockdev.Options{Direct: true}},
		{"direct odd", testing.TB.TempDir, oddSize, blockdev.Options{Direct: true, Exclusive: true}},
		{"tmpfs odd", shmDir, oddSize, blockdev.Options{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			blockdevtest.Run(t, func(t testing.TB) blockdev.Device {
				d, _ := newFile(t, c.dir(t), c.size, c.opts)
				return d
			})
		})
	}
}

func TestRawSuite(t *testing.T) {
	for _, c := range []struct {
		name   string
		sector int
		opts   blockdev.Options
	}{
		{"direct 512", 512, blockdev.Options{Exclusive: true}},
		{"direct 4096", 4096, blockdev.Options{Exclusive: true}},
		{"buffered 512", 512, blockdev.Options{Buffered: true}},
		{"buffered 4096", 4096, blockdev.Options{Buffered: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			blockdevtest.Run(t, func(t testing.TB) blockdev.Device {
				return newRaw(t, c.sector, c.opts)
			})
		})
	}
}

// TestSuiteWithoutHelp takes from file systems and devices what they can do.
func TestSuiteWithoutHelp(t *testing.T) {
	for name, open := range map[string]func(t testing.TB) blockdev.Device{
		"buffered": func(t testing.TB) blockdev.Device {
			d, _ := newFile(t, t.TempDir(), oddSize, blockdev.Options{})
			return blockdev.WithoutHelp(d)
		},
		"direct": func(t testing.TB) blockdev.Device {
			d, _ := newFile(t, t.TempDir(), oddSize, blockdev.Options{Direct: true})
			return blockdev.WithoutHelp(d)
		},
		"raw": func(t testing.TB) blockdev.Device { return blockdev.WithoutHelp(newRaw(t, 4096, blockdev.Options{})) },
		"raw, zeroes only": func(t testing.TB) blockdev.Device {
			return blockdev.WithoutPunch(newRaw(t, 512, blockdev.Options{}))
		},
	} {
		t.Run(name, func(t *testing.T) { blockdevtest.Run(t, open) })
	}
}

func TestMemorySuite(t *testing.T) {
	for name, size := range map[string]int64{"whole": 2 << 20, "odd": oddSize} {
		t.Run(name, func(t *testing.T) {
			blockdevtest.Run(t, func(testing.TB) blockdev.Device { return blockdev.NewMemory(size) })
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	newFile(t, dir, 4096, blockdev.Options{})
	for _, c := range []struct {
		path string
		opts blockdev.Options
		want error
		text string
	}{
		{filepath.Join(dir, "absent"), blockdev.Options{}, fs.ErrNotExist, "absent"},
		{dir, blockdev.Options{}, blockdev.ErrNotBlockStorage, dir},
		{filepath.Join(dir, "fifo"), blockdev.Options{}, blockdev.ErrNotBlockStorage, "fifo"},
		{"/dev/null", blockdev.Options{ReadOnly: true}, blockdev.ErrNotBlockStorage, "/dev/null"},
		{filepath.Join(dir, "device"), blockdev.Options{Direct: true, Buffered: true}, nil, "contradict"},
	} {
		d, err := blockdev.Open(c.path, c.opts)
		if err == nil {
			closeQuietly(t, d)
			t.Errorf("open %s %+v: no error", c.path, c.opts)
			continue
		}
		if c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("open %s: %v, want %v and %q in it", c.path, err, c.want, c.text)
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	_, path := newFile(t, dir, 4096, blockdev.Options{})
	if _, err := blockdev.Create(path, 8192, blockdev.Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create over a file: %v, want exists", err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != 4096 {
		t.Errorf("the file there was changed: %v, %v", st, err)
	}
	for size, opts := range map[int64]blockdev.Options{-1: {}, 4096: {Direct: true, Buffered: true}} {
		other := filepath.Join(dir, "other")
		if _, err := blockdev.Create(other, size, opts); err == nil {
			t.Errorf("create %d bytes %+v: no error", size, opts)
		}
		if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a failed create left a file: %v", err)
		}
	}
}

func TestExclusive(t *testing.T) {
	tests := map[string]func(t *testing.T) string{
		"file": func(t *testing.T) string {
			d, path := newFile(t, t.TempDir(), 1<<20, blockdev.Options{})
			closeQuietly(t, d)
			return path
		},
		"loop": func(t *testing.T) string {
			path, _ := blockdevtest.Loop(t, blockdevtest.LoopConfig{Size: 1 << 20, SectorSize: 512})
			return path
		},
	}
	for name, setUp := range tests {
		t.Run(name, func(t *testing.T) {
			path := setUp(t)
			holder := mustOpen(t, path, blockdev.Options{Exclusive: true})
			defer closeQuietly(t, holder)
			for _, readOnly := range []bool{false, true} {
				d, err := blockdev.Open(path, blockdev.Options{Exclusive: true, ReadOnly: readOnly})
				if err == nil {
					closeQuietly(t, d)
				}
				if !errors.Is(err, blockdev.ErrInUse) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "stop") {
					t.Errorf("second open: %v, want in use, the path and a remedy", err)
				}
			}
			looker := mustOpen(t, path, blockdev.Options{ReadOnly: true})
			closeQuietly(t, looker)
			if err := holder.Close(); err != nil {
				t.Fatal(err)
			}
			again := mustOpen(t, path, blockdev.Options{Exclusive: true})
			closeQuietly(t, again)
		})
	}
}

func TestReadOnly(t *testing.T) {
	d, path := newFile(t, t.TempDir(), 1<<20, blockdev.Options{})
	if _, err := d.WriteAt([]byte("content"), 10); err != nil {
		t.Fatal(err)
	}
	loop, _ := blockdevtest.Loop(t, blockdevtest.LoopConfig{Size: 1 << 20, SectorSize: 512})
	for _, path := range []string{path, loop} {
		r := mustOpen(t, path, blockdev.Options{ReadOnly: true})
		defer closeQuietly(t, r)
		_, werr := r.WriteAt([]byte{1}, 0)
		for op, err := range map[string]error{"write": werr, "trim": r.Trim(0, 4096), "zero": r.WriteZeroes(0, 4096, false)} {
			if !errors.Is(err, blockdev.ErrReadOnly) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v, want read-only and the path", op, err)
			}
		}
		if err := r.Flush(); err != nil {
			t.Errorf("flush of a read-only device: %v", err)
		}
		if _, err := r.ReadAt(make([]byte, 100), 3); err != nil {
			t.Error(err)
		}
	}
}

func TestWriteProtected(t *testing.T) {
	loop, _ := blockdevtest.Loop(t, blockdevtest.LoopConfig{Size: 1 << 20, SectorSize: 512, ReadOnly: true})
	d, err := blockdev.Open(loop, blockdev.Options{})
	if err == nil {
		closeQuietly(t, d)
	}
	if !errors.Is(err, blockdev.ErrReadOnly) || !strings.Contains(err.Error(), loop) {
		t.Errorf("open a protected device for writing: %v, want read-only and the path", err)
	}
	closeQuietly(t, mustOpen(t, loop, blockdev.Options{ReadOnly: true}))
}

func TestRawSizes(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		path, _ := blockdevtest.Loop(t, blockdevtest.LoopConfig{Size: 1<<20 + 512, SectorSize: sector})
		d := mustOpen(t, path, blockdev.Options{})
		defer closeQuietly(t, d)
		want := int64(1<<20+512) &^ int64(sector-1)
		if d.Size() != want || d.BlockSizes().Logical != sector {
			t.Errorf("sector %d: size %d, %+v, want %d", sector, d.Size(), d.BlockSizes(), want)
		}
	}
}

func TestFileShrunkBehindOurBack(t *testing.T) {
	d, path := newFile(t, t.TempDir(), 1<<20, blockdev.Options{})
	if err := os.Truncate(path, 100_000); err != nil {
		t.Fatal(err)
	}
	n, err := d.ReadAt(make([]byte, 1000), 99_500)
	if n != 500 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read over the new end: %d, %v", n, err)
	}
}

// TestSurvivesReopen reads by another open, through the page cache, what was
// written directly, and the other way round.
func TestSurvivesReopen(t *testing.T) {
	for _, direct := range []bool{false, true} {
		d, path := newFile(t, t.TempDir(), oddSize, blockdev.Options{Direct: direct})
		want := []byte(strings.Repeat("0123456789", 1000))
		off := int64(oddSize - len(want))
		if _, err := d.WriteAt(want, off); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.Flush(), d.Close()); err != nil {
			t.Fatal(err)
		}
		again := mustOpen(t, path, blockdev.Options{ReadOnly: true, Direct: !direct})
		defer closeQuietly(t, again)
		got := make([]byte, len(want))
		if _, err := again.ReadAt(got, off); err != nil || string(got) != string(want) {
			t.Errorf("direct %v: content differs after opening again: %v", direct, err)
		}
	}
}
