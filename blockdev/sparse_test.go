package blockdev_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"flotilla/blockdev"
	"flotilla/blockdev/blockdevtest"

	"golang.org/x/sys/unix"
)

// allocated returns the bytes of storage that a file takes. The file system is
// flushed first, because some allocate late.
func allocated(t testing.TB, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := errors.Join(f.Sync(), unix.Fstat(int(f.Fd()), &st)); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// sparseCase is a device and the file whose storage shows what it allocates.
type sparseCase struct {
	dev     blockdev.Device
	backing string
}

func sparseCases(t *testing.T, size int64) map[string]sparseCase {
	cases := map[string]sparseCase{}
	for name, opts := range map[string]blockdev.Options{"buffered": {}, "direct": {Direct: true}} {
		d, path := newFile(t, t.TempDir(), size, opts)
		cases[name] = sparseCase{d, path}
	}
	d, path := newFile(t, shmDir(t), size, blockdev.Options{})
	cases["tmpfs"] = sparseCase{d, path}
	return cases
}

func TestSparseStaysSparse(t *testing.T) {
	const size = 64 << 20
	cases := sparseCases(t, size)
	loop, backing := blockdevtest.Loop(t, blockdevtest.LoopConfig{Size: size, SectorSize: 512})
	d := mustOpen(t, loop, blockdev.Options{})
	t.Cleanup(func() { closeQuietly(t, d) })
	cases["loop"] = sparseCase{d, backing}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			check := func(when string, least, most int64) {
				t.Helper()
				if err := c.dev.Flush(); err != nil {
					t.Fatal(err)
				}
				if n := allocated(t, c.backing); n < least || n > most {
					t.Errorf("%s the file takes %d bytes, want %d to %d", when, n, least, most)
				}
			}
			const slack = 256 << 10 // metadata, and borders
			check("when new", 0, slack)
			p := bytes.Repeat([]byte{7}, 8<<20)
			if _, err := c.dev.WriteAt(p, 16<<20); err != nil {
				t.Fatal(err)
			}
			check("written", 8<<20, 8<<20+slack)
			if err := c.dev.Trim(18<<20, 4<<20); err != nil {
				t.Fatal(err)
			}
			check("half trimmed", 4<<20, 4<<20+slack)
			if err := c.dev.WriteZeroes(16<<20, 8<<20, true); err != nil {
				t.Fatal(err)
			}
			check("zeroed away", 0, slack)
			if err := c.dev.Trim(0, size); err != nil {
				t.Fatal(err)
			}
			check("all trimmed", 0, slack)
			if err := c.dev.WriteZeroes(32<<20, 4<<20, false); err != nil {
				t.Fatal(err)
			}
			check("zeroed in place", 4<<20, 4<<20+slack)
		})
	}
}

func TestExtentsFindHoles(t *testing.T) {
	const size = 8 << 20
	cases := sparseCases(t, size)
	cases["memory"] = sparseCase{dev: blockdev.NewMemory(size)}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			for _, off := range []int64{1 << 20, 4 << 20} {
				if _, err := c.dev.WriteAt(bytes.Repeat([]byte{1}, 1<<20), off); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.dev.Trim(4<<20+256<<10, 256<<10); err != nil {
				t.Fatal(err)
			}
			want := []blockdev.Extent{
				{Offset: 0, Length: 1 << 20, Hole: true},
				{Offset: 1 << 20, Length: 1 << 20},
				{Offset: 2 << 20, Length: 2 << 20, Hole: true},
				{Offset: 4 << 20, Length: 256 << 10},
				{Offset: 4<<20 + 256<<10, Length: 256 << 10, Hole: true},
				{Offset: 4<<20 + 512<<10, Length: 512 << 10},
				{Offset: 5 << 20, Length: 3 << 20, Hole: true},
			}
			var got []blockdev.Extent
			for e, err := range blockdev.Extents(c.dev, 0, size) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, e)
			}
			if len(got) != len(want) {
				t.Fatalf("got %+v, want %+v", got, want)
			}
			for i := range got {
				if got[i] != want[i] {
					t.Errorf("extent %d is %+v, want %+v", i, got[i], want[i])
				}
			}
			part := 0
			for e, err := range blockdev.Extents(c.dev, 1<<20+5, 2<<20) {
				if part++; err != nil || e.Hole != (part == 2) {
					t.Errorf("extent %d of a part: %+v, %v", part, e, err)
				}
			}
			if part != 2 {
				t.Errorf("a part has %d extents, want 2", part)
			}
		})
	}
}

// TestExtentsCloseInside closes a device in the middle of an iteration.
func TestExtentsCloseInside(t *testing.T) {
	file, _ := newFile(t, t.TempDir(), 1<<20, blockdev.Options{})
	for _, d := range []blockdev.Device{file, blockdev.NewMemory(1 << 20)} {
		if _, err := d.WriteAt([]byte{1}, 512<<10); err != nil {
			t.Fatal(err)
		}
		var last error
		for _, err := range blockdev.Extents(d, 0, d.Size()) {
			if last = err; err == nil {
				closeQuietly(t, d)
			}
		}
		if !errors.Is(last, blockdev.ErrClosed) {
			t.Errorf("%v: iteration over a closed device ended with %v", d, last)
		}
	}
}

// TestFlushFailureSticks lets the kernel lose dirty pages: a loop device, through
// the page cache, on a sparse file whose file system is full.
func TestFlushFailureSticks(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("blockdev-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		blockdevtest.SkipOrFail(t, "test mounts a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	loop, _ := blockdevtest.Loop(t, blockdevtest.LoopConfig{Size: 8 << 20, SectorSize: 4096, Backing: filepath.Join(dir, "backing")})
	d := mustOpen(t, loop, blockdev.Options{Buffered: true})
	defer closeQuietly(t, d)
	if _, err := d.WriteAt(bytes.Repeat([]byte{1}, 6<<20), 0); err != nil {
		t.Fatalf("write into the page cache: %v", err)
	}
	first := d.Flush()
	if first == nil {
		t.Fatal("flush of more than fits succeeded")
	}
	if err := d.Trim(0, 8<<20); err != nil {
		t.Fatal(err)
	}
	for range 2 { // Now the kernel alone would say that all is well.
		if err := d.Flush(); !errors.Is(err, blockdev.ErrFlushFailed) || !errors.Is(err, unix.EIO) && !errors.Is(err, unix.ENOSPC) {
			t.Errorf("flush after a failed one: %v", err)
		}
	}
}
