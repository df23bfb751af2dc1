package vfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"syscall"
	"testing"

	"flotilla/agent/vfs"
	"flotilla/agent/vfs/crashfs"
)

// TestFS is what every implementation must do.
func TestFS(t *testing.T) {
	for name, c := range map[string]struct {
		fs  vfs.FS
		dir string
	}{"os": {vfs.OS(), t.TempDir()}, "crashfs": {crashfs.New(1), "/"}} {
		t.Run(name, func(t *testing.T) { suite(t, c.fs, path.Join(c.dir, "a", "b")) })
	}
}

func suite(t *testing.T, fsys vfs.FS, dir string) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(fsys.MkdirAll(dir))
	must(fsys.MkdirAll(dir))
	name := path.Join(dir, "f")
	_, err := fsys.Open(name)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open what is not there: %v", err)
	}
	if err := fsys.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remove what is not there: %v", err)
	}
	if err := fsys.Rename(name, name+"2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("rename what is not there: %v", err)
	}
	if _, err := fsys.Create(path.Join(dir, "no", "f")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("create in what is not there: %v", err)
	}
	if _, err := fsys.List(path.Join(dir, "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("list what is not there: %v", err)
	}

	f, err := fsys.Create(name)
	must(err)
	if n, err := f.WriteAt([]byte("hello"), 1000); n != 5 || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}
	buf := make([]byte, 10)
	if n, err := f.ReadAt(buf, 998); n != 7 || err != io.EOF || !bytes.Equal(buf[:n], []byte("\x00\x00hello")) {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	if n, err := f.ReadAt(buf, 2000); n != 0 || err != io.EOF {
		t.Errorf("read beyond the end: %d, %v", n, err)
	}
	size := func(want int64) {
		t.Helper()
		if n, err := f.Size(); n != want || err != nil {
			t.Errorf("size %d, %v, want %d", n, err, want)
		}
	}
	size(1005)
	must(f.Truncate(1002))
	size(1002)
	must(f.Truncate(1010))
	if n, _ := f.ReadAt(buf, 1000); !bytes.Equal(buf[:n], []byte("he\x00\x00\x00\x00\x00\x00\x00\x00")) {
		t.Errorf("after truncate: %q", buf[:n])
	}
	if err := f.Allocate(8192); err == nil {
		size(8192)
	} else if !errors.Is(err, vfs.ErrUnsupported) {
		t.Error(err)
	}
	must(f.Sync())
	must(f.SyncData())
	must(fsys.Rename(name, name+"2"))
	must(fsys.SyncDir(dir))
	must(f.Close())
	if err := f.Sync(); err == nil {
		t.Error("a closed file was flushed")
	}
	f, err = fsys.Open(name + "2")
	must(err)
	if n, _ := f.ReadAt(buf, 1000); !bytes.Equal(buf[:2], []byte("he")) {
		t.Errorf("after rename: %q", buf[:n])
	}
	must(fsys.Remove(name + "2"))
	if _, err := f.WriteAt([]byte("x"), 0); err != nil {
		t.Errorf("write to a removed file: %v", err)
	}
	must(f.Close())

	must(vfs.WriteFileAtomic(fsys, name, []byte("one")))
	must(vfs.WriteFileAtomic(fsys, name, []byte("three")))
	if data, err := vfs.ReadFile(fsys, name, 5); string(data) != "three" || err != nil {
		t.Errorf("read %q, %v", data, err)
	}
	if _, err := vfs.ReadFile(fsys, name, 4); err == nil {
		t.Error("a file above the limit was read")
	}
	for n, want := range map[string]bool{name: true, name + "2": false} {
		if there, err := vfs.Exists(fsys, n); there != want || err != nil {
			t.Errorf("exists %s: %v, %v", n, there, err)
		}
	}
	if size, free, err := fsys.Space(dir); err != nil || free < 0 || size < free {
		t.Errorf("space: %d of %d, %v", free, size, err)
	}
	if names, err := fsys.List(dir); !slices.Equal(names, []string{"f"}) || err != nil {
		t.Errorf("list: %v, %v", names, err)
	}
}

// TestWriteFileAtomic cuts the power at, or fails, each of its operations.
func TestWriteFileAtomic(t *testing.T) {
	old, new := bytes.Repeat([]byte("old"), 1000), bytes.Repeat([]byte("newer"), 1000)
	for _, fail := range []bool{false, true} {
		for seed := range uint64(200) {
			for k := 1; ; k++ {
				fsys := crashfs.New(seed)
				if err := vfs.WriteFileAtomic(fsys, "/state", old); err != nil {
					t.Fatal(err)
				}
				if fail {
					n := 0
					fsys.SetHook(func(op crashfs.Op) error {
						if op.Kind != crashfs.Read {
							n++
						}
						if n == k {
							return syscall.EIO
						}
						return nil
					})
				} else {
					fsys.CutAt(k)
				}
				err := vfs.WriteFileAtomic(fsys, "/state", new)
				fsys.SetHook(nil)
				fsys.Restart()
				data, readErr := vfs.ReadFile(fsys, "/state", 1<<20)
				if readErr != nil || err == nil && !bytes.Equal(data, new) || err != nil && !bytes.Equal(data, old) && !bytes.Equal(data, new) {
					t.Fatalf("seed %d, operation %d, fail %v: %d bytes, %v after %v", seed, k, fail, len(data), readErr, err)
				}
				if err == nil {
					if k < 5 {
						t.Fatalf("only %d operations", k)
					}
					break
				}
			}
		}
	}
}

func ExampleWriteFileAtomic() {
	fsys := crashfs.New(1)
	if err := vfs.WriteFileAtomic(fsys, "/state", []byte("42")); err != nil {
		fmt.Println(err)
	}
	fsys.Restart()
	data, err := vfs.ReadFile(fsys, "/state", 100)
	fmt.Println(string(data), err)
	// Output: 42 <nil>
}
