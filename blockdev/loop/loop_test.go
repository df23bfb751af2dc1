//go:build linux

package loop_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flotilla/blockdev/blockdevtest"
	"flotilla/blockdev/loop"

	"golang.org/x/sys/unix"
)

const size = 1 << 20

// newFile makes a sparse file, and skips the test where there are no loop devices.
func newFile(t testing.TB) string {
	t.Helper()
	blockdevtest.RequireLoop(t)
	path := filepath.Join(t.TempDir(), "image")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	return path
}

func attach(t testing.TB, file string, o loop.Options) *loop.Device {
	t.Helper()
	d, err := loop.Attach(file, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// on returns the loop devices on a file.
func on(t testing.TB, file string) []loop.Attached {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	out, err := loop.Of(st.Dev, st.Ino)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// wantDetached waits until nothing is on the file: udev, and other tests that look around, may have opened the device.
func wantDetached(t testing.TB, file string) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); len(on(t, file)) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("still attached: %+v", on(t, file))
		}
	}
}

func ask(t testing.TB, path string, request uint) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := unix.IoctlGetInt(int(f.Fd()), request)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAttach(t *testing.T) {
	for name, c := range map[string]struct {
		o      loop.Options
		sector int
	}{
		"one step":            {loop.Options{Exclusive: true, Cached: true}, 512},
		"direct":              {loop.Options{SectorSize: 4096}, 4096},
		"read-only":           {loop.Options{ReadOnly: true, SectorSize: 512}, 512},
		"two steps":           {loop.TwoSteps(loop.Options{Exclusive: true, Cached: true}), 512},
		"two steps, sectors":  {loop.TwoSteps(loop.Options{SectorSize: 4096}), 4096},
		"two steps read-only": {loop.TwoSteps(loop.Options{ReadOnly: true, SectorSize: 512}), 512},
	} {
		t.Run(name, func(t *testing.T) {
			file := newFile(t)
			d := attach(t, file, c.o)
			found := on(t, file)
			if len(found) != 1 || found[0].Path != d.Path() || !found[0].Ours || found[0].File != file || !strings.Contains(found[0].Name, "flotilla:/") {
				t.Errorf("%s is attached, found %+v", d.Path(), found)
			}
			if got := ask(t, d.Path(), unix.BLKSSZGET); got != c.sector {
				t.Errorf("sectors of %d bytes, want %d", got, c.sector)
			}
			if ro := ask(t, d.Path(), unix.BLKROGET) != 0; ro != c.o.ReadOnly {
				t.Errorf("write-protected %v, want %v", ro, c.o.ReadOnly)
			}
			text, err := os.ReadFile("/sys/block/" + filepath.Base(d.Path()) + "/loop/dio")
			if err != nil || (strings.TrimSpace(string(text)) == "1") != d.Direct() || (c.o.Cached && d.Direct()) {
				t.Errorf("direct I/O %q by sysfs, %v by the device: %v", text, d.Direct(), err)
			}
			if !c.o.ReadOnly {
				writeThrough(t, d.Path(), file)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			wantDetached(t, file)
		})
	}
}

// writeThrough fails unless what is written to the device is in the file.
func writeThrough(t *testing.T, device, file string) {
	t.Helper()
	want := bytes.Repeat([]byte("block device"), 512)[:4096]
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(want, 8192)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(all[8192:8192+4096], want) {
		t.Errorf("the file does not have what was written to the device (%v)", err)
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

func TestLeavesNothingBehind(t *testing.T) {
	file := newFile(t)
	before := openFDs(t)
	used := map[string]bool{}
	for i := range 100 {
		d := attach(t, file, loop.Options{Exclusive: true})
		used[d.Path()] = true
		end := d.Close
		if i%2 == 1 {
			end = d.Detach
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		wantDetached(t, file)
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
	if len(used) > 50 { // each that leaks is never used again
		t.Errorf("100 times took %d devices", len(used))
	}
}

func TestTakesWhatWasLeft(t *testing.T) {
	file := newFile(t)
	first := attach(t, file, loop.Options{Exclusive: true})
	witness, err := os.Open(first.Path()) // as a tool that looks at the device while its process is killed
	if err != nil {
		t.Fatal(err)
	}
	defer witness.Close()

	// While it is held nobody else gets it, and nobody locks the file.
	if d, err := loop.Attach(file, loop.Options{Exclusive: true}); !errors.Is(err, loop.ErrInUse) || !strings.Contains(err.Error(), first.Path()) {
		t.Fatalf("a second claim: %v, %v", d, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	locker, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer locker.Close()
	if err := unix.Flock(int(locker.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("lock the file below a device that was left: %v", err)
	}
	if err := os.Truncate(file, 2*size); err != nil {
		t.Fatal(err)
	}
	again := attach(t, file, loop.Options{Exclusive: true})
	if !again.Reused() || again.Path() != first.Path() || len(on(t, file)) != 1 {
		t.Errorf("attached %s (reused: %v), want %s; on the file: %+v", again.Path(), again.Reused(), first.Path(), on(t, file))
	}
	if end, err := witness.Seek(0, 2); err != nil || end != 2*size {
		t.Errorf("the device that was taken has %d bytes, its file %d: %v", end, 2*size, err)
	}
	if err := errors.Join(again.Close(), witness.Close()); err != nil {
		t.Fatal(err)
	}
	wantDetached(t, file)
}

func TestGrow(t *testing.T) {
	file := newFile(t)
	d := attach(t, file, loop.Options{})
	defer d.Close()
	if err := os.Truncate(file, 4*size); err != nil {
		t.Fatal(err)
	}
	if err := d.Grow(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if end, err := f.Seek(0, 2); err != nil || end != 4*size {
		t.Errorf("%d bytes after growth, want %d: %v", end, 4*size, err)
	}
}

func TestRefuses(t *testing.T) {
	file := newFile(t)
	dir := filepath.Dir(file)
	odd, locked, none := filepath.Join(dir, "odd"), filepath.Join(dir, "locked"), filepath.Join(dir, "none")
	for path, length := range map[string]int64{odd: size + 100, locked: size} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, length)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(locked)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	device, foreign := blockdevtest.Loop(t, blockdevtest.LoopConfig{Size: size, SectorSize: 512})
	for name, c := range map[string]struct {
		path string
		o    loop.Options
		text string
	}{
		"missing":         {none, loop.Options{}, "no such file"},
		"directory":       {dir, loop.Options{}, "no regular file"},
		"block device":    {device, loop.Options{}, "leave out `loop:`"},
		"odd size":        {odd, loop.Options{}, "truncate -s 1049088"},
		"sector size":     {file, loop.Options{SectorSize: 1000}, "1000 bytes is not a power of two"},
		"locked":          {locked, loop.Options{Exclusive: true}, "lslocks"},
		"of someone else": {foreign, loop.Options{}, "losetup -d " + device},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := loop.Attach(c.path, c.o)
			if err == nil {
				_ = d.Close()
				t.Fatal("it was attached")
			}
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v: want %q in it", err, c.text)
			}
		})
	}
}
