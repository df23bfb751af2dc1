package primary

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"flotilla/agent/vfs"
)

// stateFile keeps bits in a file of the agent's state directory.
type stateFile struct {
	fs   vfs.FS
	name string
	file vfs.File // nil while there is none that may be used
}

var _ bitMedium = (*stateFile)(nil)

func (s *stateFile) String() string { return s.name }

func (s *stateFile) load(n int) ([]byte, error) {
	file, err := s.fs.Open(s.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	raw := make([]byte, n)
	read, err := file.ReadAt(raw, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		// What can not be read sector by sector is taken as set as a whole.
		return nil, errors.Join(fmt.Errorf("%s: %w", s.name, err), file.Close())
	}
	s.file = file
	return raw[:read], nil
}

func (s *stateFile) write(p []byte, off int64) error {
	_, err := s.file.WriteAt(p, off)
	return err
}

func (s *stateFile) sync() error { return s.file.SyncData() }

// replace puts another file in the place of the old one, in one step.
func (s *stateFile) replace(all []byte) error {
	if err := s.close(); err != nil {
		return err
	}
	if err := vfs.WriteFileAtomic(s.fs, s.name, all); err != nil {
		return err
	}
	file, err := s.fs.Open(s.name)
	if err != nil {
		return fmt.Errorf("open it: %w", err)
	}
	s.file = file
	return nil
}

// abandon closes the file: a flush that failed must not be tried again on it, for its pages may be gone.
func (s *stateFile) abandon() error { return s.close() }

func (s *stateFile) close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

// remove is for a volume that is gone for good. IDs of volumes are never used again, so that a file that stays behind
// does no harm.
func (s *stateFile) remove() error {
	if err := errors.Join(s.close(), s.fs.Remove(s.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the activity log: %w", err)
	}
	return nil
}
