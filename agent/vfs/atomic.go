package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
)

// tempSuffix marks the temporary file of WriteFileAtomic. One left over by a crash is overwritten by the next write.
const tempSuffix = ".tmp"

// WriteFileAtomic replaces the file's content durably: after a crash at any moment the file holds either all of the
// old or all of the new content, and the new one once this has returned nil. The file's directory must exist. Two
// calls for one file must not run at the same time.
func WriteFileAtomic(fsys FS, name string, data []byte) error {
	temp := name + tempSuffix
	if err := writeAndSync(fsys, temp, data); err != nil {
		// Best effort: the leftover does no harm, the first error is the one that matters.
		_ = fsys.Remove(temp)
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := fsys.Rename(temp, name); err != nil {
		_ = fsys.Remove(temp)
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := fsys.SyncDir(path.Dir(name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func writeAndSync(fsys FS, name string, data []byte) error {
	f, err := fsys.Create(name)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// ReadFile returns a whole file, which may hold at most limit bytes: state files are small, and a length found on
// disk is not trusted.
func ReadFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if size > limit {
		return nil, fmt.Errorf("read %s: it has %d bytes, at most %d are expected", name, size, limit)
	}
	data := make([]byte, size)
	if n, err := f.ReadAt(data, 0); err != nil && !(errors.Is(err, io.EOF) && int64(n) == size) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// Exists reports whether a file of that name is there.
func Exists(fsys FS, name string) (bool, error) {
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}
