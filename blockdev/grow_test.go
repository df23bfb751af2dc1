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

// TestGrow: a device does not see what its storage has got before Grow, and has all of it afterwards; what was there stays.
func TestGrow(t *testing.T) {
	const before, after = 1<<20 + 1536, 2<<20 + 8192
	type made struct {
		dev     blockdev.Device
		enlarge func(size int64)
	}
	fromFile := func(o blockdev.Options, size int64) func(t *testing.T) made {
		return func(t *testing.T) made {
			path := filepath.Join(t.TempDir(), "dev")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			enlarge := func(size int64) {
				if err := os.Truncate(path, size); err != nil {
					t.Fatal(err)
				}
			}
			enlarge(size)
			dev, err := blockdev.Open(path, o)
			if err != nil && o.Direct {
				t.Skipf("no direct I/O here: %v", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			return made{dev, enlarge}
		}
	}
	fromLoop := func(t *testing.T) made {
		path, backing := blockdevtest.Loop(t, blockdevtest.LoopConfig{Size: before, SectorSize: 512})
		dev, err := blockdev.Open(path, blockdev.Options{Exclusive: true})
		if err != nil {
			t.Fatal(err)
		}
		return made{dev, func(size int64) {
			if err := os.Truncate(backing, size); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
				t.Fatal(err)
			}
		}}
	}
	for _, c := range []struct {
		name   string
		before int64
		make   func(t *testing.T) made
	}{
		{"memory", before, func(*testing.T) made { m := blockdev.NewMemory(before); return made{m, m.Enlarge} }},
		{"file", before, fromFile(blockdev.Options{}, before)},
		{"direct file", 1 << 20, fromFile(blockdev.Options{Direct: true}, 1<<20)},
		{"loop device", before, fromLoop},
		{"loop device of its own", before, func(t *testing.T) made {
			if _, err := os.Stat("/dev/loop-control"); err != nil || os.Getuid() != 0 {
				blockdevtest.SkipOrFail(t, "test needs loop devices: %v", err)
			}
			path := filepath.Join(t.TempDir(), "dev")
			enlarge := func(size int64) {
				if err := os.Truncate(path, size); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(path, make([]byte, before), 0o600); err != nil {
				t.Fatal(err)
			}
			dev, err := blockdev.Open(blockdev.LoopPrefix+path, blockdev.Options{Exclusive: true})
			if err != nil {
				t.Fatal(err)
			}
			return made{dev, enlarge}
		}},
		{"direct file with an odd end", before, fromFile(blockdev.Options{Direct: true}, before)},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := c.make(t)
			defer m.dev.Close()
			old := bytes.Repeat([]byte{7}, int(c.before))
			if _, err := m.dev.WriteAt(old, 0); err != nil {
				t.Fatal(err)
			}
			m.enlarge(after)
			if got := m.dev.Size(); got != c.before {
				t.Fatalf("the size is %d before Grow, want %d", got, c.before)
			}
			if _, err := m.dev.WriteAt([]byte{1}, c.before); !errors.Is(err, blockdev.ErrOutOfRange) {
				t.Fatalf("a write behind the end before Grow: %v", err)
			}
			if err := blockdev.GrowTo(m.dev, after+1); !errors.Is(err, blockdev.ErrTooSmall) {
				t.Fatalf("GrowTo more than there is: %v", err)
			}
			if err := blockdev.GrowTo(m.dev, after); err != nil || m.dev.Size() != after {
				t.Fatalf("GrowTo: %v, size %d", err, m.dev.Size())
			}
			border := bytes.Repeat([]byte{9}, 12288) // over the old end
			if _, err := m.dev.WriteAt(border, c.before-4096); err != nil {
				t.Fatal(err)
			}
			want := append(old[:c.before-4096:c.before-4096], border...)
			want = append(want, make([]byte, after-int64(len(want)))...)
			if err := m.dev.WriteZeroes(after-4096, 4096, true); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, after)
			if _, err := m.dev.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("the content is not what was written: %v", err)
			}
			if err := m.dev.Flush(); err != nil {
				t.Fatal(err)
			}
			if n, err := blockdev.Grow(m.dev); err != nil || n != after {
				t.Fatalf("a second Grow: %d, %v", n, err)
			}
		})
	}
}
