// Package vfs is the file system as the agent's durable parts see it: the journal, bitmaps and small state files.
//
// It is an interface so that a test can put crashfs in its place, which loses, tears and reorders whatever was not
// flushed. OS returns the real one. The interface offers only what those parts need, and is explicit about what makes
// a change durable:
//
//   - the bytes of a file: File.Sync or File.SyncData on it;
//   - its name: FS.SyncDir on the directory that holds the name, after Create, Rename or Remove.
//
// Nothing else makes anything durable, and a Sync that failed must never be tried again: the kernel may have dropped
// the unwritten pages and will report success the second time.
package vfs

import (
	"errors"
	"io"
	"syscall"
)

// ErrUnsupported is returned by File.Allocate where the file system cannot reserve space. The caller goes on without.
var ErrUnsupported = errors.New("not supported by this file system")

// FS is a file system. Names are slash-separated paths. Errors wrap the io/fs sentinels: fs.ErrNotExist for a name
// that is not there. All methods may be called from several goroutines.
type FS interface {
	// Create makes an empty file for reading and writing. A file of that name is emptied first.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// Rename gives a file a new name in one step; a file that had that name before is gone.
	Rename(oldname, newname string) error
	// Remove takes a file's name away. Handles that are open go on working.
	Remove(name string) error
	// List returns the base names in a directory, sorted.
	List(dir string) ([]string, error)
	// MkdirAll makes a directory and its parents where they are missing, durably.
	MkdirAll(dir string) error
	// SyncDir makes the names in a directory durable as they are now.
	SyncDir(dir string) error
	// Space returns the size in bytes of the disk that a directory is on, and how much of it an ordinary user may still take.
	Space(dir string) (size, free int64, err error)
}

// File is an open file. ReadAt and WriteAt may run at the same time on different ranges.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size returns the file's length in bytes.
	Size() (int64, error)
	// Truncate sets the file's length in bytes; what is new reads as zeroes.
	Truncate(size int64) error
	// Allocate reserves disk space for the bytes [0, size) and makes the file at least that long.
	// It returns ErrUnsupported where that cannot be done.
	Allocate(size int64) error
	// Sync makes the file's bytes and metadata durable.
	Sync() error
	// SyncData makes the file's bytes durable, and of its metadata what is needed to read them.
	SyncData() error
}

// IsFull reports whether an error says that the disk or the user's quota is full, a state that can pass.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
