package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// FormatVersion is the version of the file that this build writes, and the highest that it reads.
const FormatVersion = 1

// lockWait is how long Open waits for another process to let go of the file: an agent that is just being restarted.
const lockWait = 2 * time.Second

// newSuffix marks a file that is being made, as a pattern.
const newSuffix = ".new*"

var (
	formatBucket = []byte("format")
	versionKey   = []byte("version")
	stateBucket  = []byte("state")
	hardKey      = []byte("hard")
	snapshotKey  = []byte("snapshot")
	entryBucket  = []byte("entries")
)

// Open opens the control log at path, made if there is none; its directory exists. It fails with ErrLocked while another
// process has it open, with ErrVersion for a file of a newer release, and with ErrCorrupt for what is no control log.
func Open(path string) (*Store, error) {
	s, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("open control log %s: %w", path, err)
	}
	return s, nil
}

func open(path string) (*Store, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	db, err := bolt.Open(path, 0o600, boltOptions())
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%w: stop the other agent that uses this state directory", ErrLocked)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrChecksum):
		return nil, fmt.Errorf("%w: %w", err, ErrCorrupt)
	case err != nil:
		return nil, err
	}
	s := &Store{path: path, db: db}
	if err := errors.Join(db.View(checkFormat), removeUnfinished(path)); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	boot, err := s.read()
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s.at = positionOf(boot)
	return s, nil
}

// boltOptions: the list of free pages is found by a scan at the next start instead of being written with every Save.
func boltOptions() *bolt.Options {
	return &bolt.Options{Timeout: lockWait, NoFreelistSync: true, FreelistType: bolt.FreelistMapType, NoStatistics: true}
}

func checkFormat(tx *bolt.Tx) error {
	b := tx.Bucket(formatBucket)
	if b == nil || tx.Bucket(stateBucket) == nil || tx.Bucket(entryBucket) == nil {
		return fmt.Errorf("it is a bbolt file, but not a control log: %w", ErrCorrupt)
	}
	raw := b.Get(versionKey)
	if len(raw) != 4 {
		return fmt.Errorf("its format version has %d bytes: %w", len(raw), ErrCorrupt)
	}
	if v := binary.BigEndian.Uint32(raw); v != FormatVersion {
		return fmt.Errorf("format version is %d and this release reads %d: run the release that wrote it, or a newer one: %w",
			v, FormatVersion, ErrVersion)
	}
	return nil
}

// create makes an empty control log. It gets its name when it is whole and durable, so that a crash leaves none or a
// whole one, and never replaces a file that somebody else has just made.
func create(path string) (err error) {
	dir := filepath.Dir(path)
	temp, err := os.CreateTemp(dir, filepath.Base(path)+newSuffix)
	if err != nil {
		return err
	}
	defer func() {
		// Who has just made the file before us may have removed ours already.
		if e := os.Remove(temp.Name()); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}()
	if err := temp.Close(); err != nil {
		return err
	}
	db, err := bolt.Open(temp.Name(), 0o600, boltOptions())
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{formatBucket, stateBucket, entryBucket} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(formatBucket).Put(versionKey, binary.BigEndian.AppendUint32(nil, FormatVersion))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Link(temp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err // where another process was faster, its file is as good as ours
	}
	return syncDirectory(dir)
}

// removeUnfinished removes what a crash inside create has left. The caller holds the lock of the finished file.
func removeUnfinished(path string) error {
	literal := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
	names, err := filepath.Glob(literal + newSuffix)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
