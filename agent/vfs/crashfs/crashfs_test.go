package crashfs_test

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"flotilla/agent/vfs"
	"flotilla/agent/vfs/crashfs"
)

func create(t *testing.T, fsys *crashfs.FS, name string) vfs.File {
	t.Helper()
	f, err := fsys.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t *testing.T, f vfs.File, b []byte, off int64) {
	t.Helper()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func sync(t *testing.T, fsys *crashfs.FS, f vfs.File) {
	t.Helper()
	if err := errors.Join(f.Sync(), fsys.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
}

// outcomes runs a scene over many seeds, restarts, and counts what the file then holds; "-" is no file.
func outcomes(t *testing.T, scene func(fsys *crashfs.FS)) map[string]int {
	t.Helper()
	out := map[string]int{}
	for seed := range uint64(300) {
		fsys := crashfs.New(seed)
		scene(fsys)
		fsys.Restart()
		data, err := vfs.ReadFile(fsys, "/f", 1<<20)
		if err != nil {
			out["-"]++
			continue
		}
		var sectors []byte
		for ; len(data) > 0; data = data[min(512, len(data)):] {
			sectors = append(sectors, data[0])
		}
		out[string(sectors)]++
	}
	return out
}

func fill(c byte, sectors int) []byte { return bytes.Repeat([]byte{c}, 512*sectors) }

func TestFlushedIsKept(t *testing.T) {
	out := outcomes(t, func(fsys *crashfs.FS) {
		f := create(t, fsys, "/f")
		write(t, f, fill('a', 3), 0)
		sync(t, fsys, f)
	})
	if len(out) != 1 || out["aaa"] == 0 {
		t.Errorf("flushed data became %v", out)
	}
}

func TestUnflushedIsLostTornOrKept(t *testing.T) {
	out := outcomes(t, func(fsys *crashfs.FS) {
		f := create(t, fsys, "/f")
		write(t, f, fill('a', 3), 0)
		sync(t, fsys, f)
		write(t, f, fill('b', 3), 0)
	})
	for _, want := range []string{"aaa", "baa", "bba", "bbb", "aba", "aab", "abb", "bab"} {
		if out[want] == 0 {
			t.Errorf("never %q: %v", want, out)
		}
	}
}

func TestUnsyncedNamesAreLostOrKept(t *testing.T) {
	out := outcomes(t, func(fsys *crashfs.FS) {
		f := create(t, fsys, "/f")
		write(t, f, fill('a', 1), 0)
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	})
	if out["a"] == 0 || out["-"] == 0 || len(out) != 2 {
		t.Errorf("created: %v", out)
	}
	out = outcomes(t, func(fsys *crashfs.FS) {
		f := create(t, fsys, "/f")
		write(t, f, fill('a', 1), 0)
		sync(t, fsys, f)
		g := create(t, fsys, "/g")
		write(t, g, fill('b', 1), 0)
		if err := errors.Join(g.Sync(), fsys.Rename("/g", "/f")); err != nil {
			t.Fatal(err)
		}
	})
	if out["a"] == 0 || out["b"] == 0 || len(out) != 2 {
		t.Errorf("renamed: %v", out)
	}
}

func TestFailedFlushLosesPages(t *testing.T) {
	out := outcomes(t, func(fsys *crashfs.FS) {
		f := create(t, fsys, "/f")
		write(t, f, fill('a', 1), 0)
		sync(t, fsys, f)
		write(t, f, fill('b', 1), 0)
		fsys.SetHook(func(op crashfs.Op) error {
			if op.Kind == crashfs.Sync {
				return syscall.EIO
			}
			return nil
		})
		if err := f.Sync(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("flush: %v", err)
		}
		fsys.SetHook(nil)
		got := make([]byte, 1)
		if _, err := f.ReadAt(got, 0); err != nil || got[0] != 'b' {
			t.Fatalf("the cache shows %q, %v", got, err)
		}
		sync(t, fsys, f)
	})
	if out["a"] == 0 || out["b"] == 0 {
		t.Errorf("after a failed flush and one that went well: %v", out)
	}
}

func TestKillKeepsTheCache(t *testing.T) {
	for seed := range uint64(20) {
		fsys := crashfs.New(seed)
		f := create(t, fsys, "/f")
		fsys.KillAt(1)
		write(t, f, fill('a', 1), 0)
		if err := f.Sync(); !errors.Is(err, crashfs.ErrDown) {
			t.Errorf("a dead process flushes: %v", err)
		}
		fsys.Restart()
		if err := f.Sync(); !errors.Is(err, crashfs.ErrDown) {
			t.Errorf("a dead handle answers %v", err)
		}
		if data, err := vfs.ReadFile(fsys, "/f", 512); err != nil || !bytes.Equal(data, fill('a', 1)) {
			t.Errorf("%d bytes, %v", len(data), err)
		}
	}
}

func TestKilledIsNotFlushed(t *testing.T) {
	out := outcomes(t, func(fsys *crashfs.FS) {
		f := create(t, fsys, "/f")
		sync(t, fsys, f)
		write(t, f, fill('a', 1), 0)
		fsys.Kill()
		fsys.Restart()
	})
	if out[""] == 0 || out["a"] == 0 {
		t.Errorf("a power cut after a kill: %v", out)
	}
}

func TestCutAt(t *testing.T) {
	fsys := crashfs.New(1)
	f := create(t, fsys, "/f")
	fsys.CutAt(2)
	write(t, f, fill('a', 1), 0)
	if _, err := f.WriteAt(fill('b', 1), 0); !errors.Is(err, crashfs.ErrDown) || !fsys.Down() {
		t.Errorf("the second operation: %v", err)
	}
	if _, err := fsys.Open("/f"); !errors.Is(err, crashfs.ErrDown) {
		t.Errorf("without power: %v", err)
	}
	if fsys.Ops() != 3 {
		t.Errorf("%d operations", fsys.Ops())
	}
}

func TestSpace(t *testing.T) {
	fsys := crashfs.New(1)
	f := create(t, fsys, "/f")
	fsys.SetSpace(1000)
	write(t, f, fill('a', 1), 0)
	if n, err := f.WriteAt(fill('b', 1), 512); !vfs.IsFull(err) || n != 488 {
		t.Errorf("write: %d, %v", n, err)
	}
	write(t, f, fill('c', 1), 0)
	if err := f.Allocate(2000); !vfs.IsFull(err) {
		t.Errorf("allocate: %v", err)
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	write(t, f, fill('b', 1), 0)
}

func TestSameSeedSameOutcome(t *testing.T) {
	run := func() string {
		fsys := crashfs.New(42)
		f := create(t, fsys, "/f")
		sync(t, fsys, f)
		for i := range 20 {
			write(t, f, fill(byte('a'+i), 2), int64(i*700))
		}
		fsys.Restart()
		data, err := vfs.ReadFile(fsys, "/f", 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if first, second := run(), run(); first != second {
		t.Error("two runs of one seed differ")
	}
}

func TestCorrupt(t *testing.T) {
	fsys := crashfs.New(1)
	f := create(t, fsys, "/f")
	write(t, f, []byte("abc"), 0)
	sync(t, fsys, f)
	if err := fsys.Corrupt("/f", 1, 3); err != nil {
		t.Fatal(err)
	}
	if err := fsys.Corrupt("/f", 3, 3); err == nil {
		t.Error("rot outside of the file")
	}
	fsys.Restart()
	if data, err := vfs.ReadFile(fsys, "/f", 10); string(data) != "aac" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}
