package blockdev_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"flotilla/blockdev"
	"flotilla/blockdev/blockdevtest"

	"golang.org/x/sys/unix"
)

const benchSize = 64 << 20

// TestHotPathDoesNotAllocate covers what every request of a volume goes through.
func TestHotPathDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	buffered, _ := newFile(t, t.TempDir(), 1<<20, blockdev.Options{})
	direct, _ := newFile(t, t.TempDir(), 1<<20, blockdev.Options{Direct: true})
	memory := blockdev.NewMemory(1 << 20)
	bitmap := mustBitmap(t, 1<<20, 4096)
	var lock blockdev.RangeLock
	aligned, odd := blockdev.AlignedBuffer(4096), blockdev.AlignedBuffer(8192)[7:4103]
	for name, f := range map[string]func() error{
		"buffered write":       func() error { _, err := buffered.WriteAt(aligned, 8192); return err },
		"buffered read":        func() error { _, err := buffered.ReadAt(aligned, 8192); return err },
		"direct write":         func() error { _, err := direct.WriteAt(aligned, 8192); return err },
		"direct read":          func() error { _, err := direct.ReadAt(aligned, 8192); return err },
		"direct write bounced": func() error { _, err := direct.WriteAt(odd, 8192+100); return err },
		"direct read bounced":  func() error { _, err := direct.ReadAt(odd, 8192+100); return err },
		"memory write":         func() error { _, err := memory.WriteAt(aligned, 8192); return err },
		"memory read":          func() error { _, err := memory.ReadAt(aligned, 8192); return err },
		"flush":                buffered.Flush,
		"range lock": func() error {
			g, err := lock.Lock(context.Background(), 0, 4096)
			if err == nil {
				g.Unlock()
			}
			return err
		},
		"bitmap": func() error {
			_, serr := bitmap.SetRange(5000, 10_000)
			if _, err := bitmap.ClearRange(0, 1<<20); err != nil {
				return err
			}
			return serr
		},
	} {
		var failed error
		// One in many may be the collector's emptying the pool of buffers.
		if n := testing.AllocsPerRun(50, func() {
			if err := f(); err != nil {
				failed = err
			}
		}); n != 0 || failed != nil {
			t.Errorf("%s allocates %v times a call, %v", name, n, failed)
		}
	}
}

// BenchmarkWrite4k writes 4 KiB pieces in turn, on tmpfs by the bare system call
// and by the file device, and in memory; and on loop past the page cache.
func BenchmarkWrite4k(b *testing.B) {
	run := func(name string, write func(p []byte, off int64) (int, error), p []byte) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			var off int64
			for b.Loop() {
				if _, err := write(p, off); err != nil {
					b.Fatal(err)
				}
				off = (off + 4096) % (benchSize - 4096)
			}
		})
	}
	fill := func(d blockdev.Device) blockdev.Device {
		if _, err := d.WriteAt(make([]byte, benchSize), 0); err != nil {
			b.Fatal(err)
		}
		return d
	}
	file, path := newFile(b, shmDir(b), benchSize, blockdev.Options{})
	fill(file)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())
	p := blockdev.AlignedBuffer(4096)
	run("tmpfs/pwrite", func(p []byte, off int64) (int, error) { return unix.Pwrite(fd, p, off) }, p)
	run("tmpfs/os.File", f.WriteAt, p)
	run("tmpfs/device", file.WriteAt, p)
	run("memory", fill(blockdev.NewMemory(benchSize)).WriteAt, p)
	loop, _ := blockdevtest.Loop(b, blockdevtest.LoopConfig{
		Size: benchSize, SectorSize: 512, Backing: filepath.Join(shmDir(b), "loop"),
	})
	raw := fill(mustOpen(b, loop, blockdev.Options{Exclusive: true}))
	defer closeQuietly(b, raw)
	run("loop/aligned", raw.WriteAt, p)
	run("loop/unaligned memory", raw.WriteAt, blockdev.AlignedBuffer(8192)[7:4103])
	run("loop/unaligned offset", func(p []byte, off int64) (int, error) { return raw.WriteAt(p, off+100) }, p)
}
