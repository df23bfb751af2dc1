package control

import (
	"errors"
	"fmt"
	"sync"

	"flotilla/agent/core"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Errors of a Store.
var (
	ErrLocked   = errors.New("another process has it open")
	ErrVersion  = errors.New("format version not supported")
	ErrCorrupt  = errors.New("control log is damaged")
	ErrNotEmpty = errors.New("control log is not empty")
	ErrOrder    = errors.New("does not follow from what the control log holds") // a bug of the caller's
	ErrClosed   = errors.New("control log is closed")
)

// fillPercent of the entries' pages: keys only ascend, so half-filled pages would stay so.
const fillPercent = 0.9

// Store is one open control log. It is safe for concurrent use.
type Store struct {
	path string

	mu  sync.Mutex // guards what follows; held during a Save, since Saves have an order
	db  *bolt.DB   // nil after Close
	at  position
	err error // of the first write that failed
}

// position is where the durable log stands.
type position struct {
	hard     *raftpb.HardState // nil before the first
	snapshot uint64            // index, 0 for none
	last     uint64            // index of the last entry, or snapshot
}

func positionOf(b core.Boot) position {
	at := position{hard: b.HardState, snapshot: b.Snapshot.GetMetadata().GetIndex()}
	at.last = at.snapshot + uint64(len(b.Entries))
	return at
}

func (at position) empty() bool { return at.hard == nil && at.last == 0 }

// Boot returns what the log holds: all nil for a new one.
func (s *Store) Boot() (core.Boot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return core.Boot{}, fmt.Errorf("read control log %s: %w", s.path, err)
	}
	b, err := s.read()
	if err != nil {
		return core.Boot{}, fmt.Errorf("read control log %s: %w", s.path, err)
	}
	return b, nil
}

// Initialize puts the first state of a cluster into a new log. It fails with ErrNotEmpty for any other.
func (s *Store) Initialize(b core.Boot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return fmt.Errorf("initialize control log %s: %w", s.path, err)
	}
	if !s.at.empty() {
		return fmt.Errorf("initialize control log %s: this agent is part of a cluster already; use an empty state directory: %w", s.path, ErrNotEmpty)
	}
	if err := s.save(core.Ready{HardState: b.HardState, Snapshot: b.Snapshot, Entries: b.Entries}); err != nil {
		return fmt.Errorf("initialize control log %s: %w", s.path, err)
	}
	return nil
}

// Save makes a Ready durable, all of it or nothing. Its Messages are the caller's. After an error of the disk every later
// call fails; ErrOrder says that the Ready contradicts the log, and nothing was written.
func (s *Store) Save(rd core.Ready) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.usable()
	if err == nil {
		err = s.save(rd)
	}
	if err != nil {
		return fmt.Errorf("save to control log %s: %w", s.path, err)
	}
	return nil
}

// Close waits for a Save under way and lets go of the file. A second Close changes nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	if err := db.Close(); err != nil {
		return fmt.Errorf("close control log %s: %w", s.path, err)
	}
	return nil
}

func (s *Store) usable() error {
	if s.db == nil {
		return ErrClosed
	}
	if s.err != nil {
		return fmt.Errorf("an earlier write failed: restart the agent: %w", s.err)
	}
	return nil
}

func (s *Store) save(rd core.Ready) error {
	after, err := s.at.follow(rd)
	if err != nil {
		return err
	}
	hasSnapshot := !raft.IsEmptySnap(rd.Snapshot)
	if rd.HardState == nil && !hasSnapshot && len(rd.Entries) == 0 {
		return nil
	}
	err = s.db.Update(func(tx *bolt.Tx) error {
		state, entries := tx.Bucket(stateBucket), tx.Bucket(entryBucket)
		entries.FillPercent = fillPercent
		if rd.HardState != nil {
			if err := putRecord(state, stateBucket, hardKey, rd.HardState); err != nil {
				return err
			}
		}
		if hasSnapshot {
			if err := putRecord(state, stateBucket, snapshotKey, rd.Snapshot); err != nil {
				return err
			}
			last := s.at.last
			if rd.Compact > 0 {
				last = min(last, after.snapshot)
			}
			if err := deleteEntries(entries, s.at.snapshot+1, last); err != nil {
				return err
			}
		}
		if len(rd.Entries) > 0 {
			if err := deleteEntries(entries, rd.Entries[0].GetIndex(), s.at.last); err != nil {
				return err
			}
		}
		for _, e := range rd.Entries {
			if err := putRecord(entries, entryBucket, entryKey(e.GetIndex()), e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.err = err
		return err
	}
	s.at = after
	return nil
}
