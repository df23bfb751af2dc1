package control

import (
	"fmt"

	"flotilla/agent/core"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// follow returns where the log stands after a Ready, or ErrOrder for one that would break the invariants.
func (at position) follow(rd core.Ready) (position, error) {
	if hs := rd.HardState; hs != nil {
		old := at.hard
		switch {
		case hs.GetTerm() < old.GetTerm():
			return at, fmt.Errorf("term %d is below term %d: %w", hs.GetTerm(), old.GetTerm(), ErrOrder)
		case hs.GetTerm() == old.GetTerm() && old.GetVote() != 0 && hs.GetVote() != old.GetVote():
			return at, fmt.Errorf("vote for %d in term %d is the second, after one for %d: %w", hs.GetVote(), hs.GetTerm(), old.GetVote(), ErrOrder)
		case hs.GetCommit() < old.GetCommit():
			return at, fmt.Errorf("committed index %d is below %d: %w", hs.GetCommit(), old.GetCommit(), ErrOrder)
		}
		at.hard = proto.CloneOf(hs)
	}
	if !raft.IsEmptySnap(rd.Snapshot) {
		index := rd.Snapshot.GetMetadata().GetIndex()
		switch {
		case index < at.snapshot:
			return at, fmt.Errorf("snapshot at index %d is below the one at %d: %w", index, at.snapshot, ErrOrder)
		case rd.Compact > 0 && index > at.last:
			return at, fmt.Errorf("own snapshot at index %d is above the last entry, %d: %w", index, at.last, ErrOrder)
		}
		at.snapshot = index
		if rd.Compact == 0 {
			at.last = index // it replaces the whole log
		}
	}
	for i, e := range rd.Entries {
		index := e.GetIndex()
		switch {
		case i == 0 && (index <= at.snapshot || index > at.last+1):
			return at, fmt.Errorf("entry %d does not fit between snapshot %d and last entry %d: %w", index, at.snapshot, at.last, ErrOrder)
		case i > 0 && index != at.last+1:
			return at, fmt.Errorf("entry %d follows entry %d: %w", index, at.last, ErrOrder)
		}
		at.last = index
	}
	if commit := at.hard.GetCommit(); (at.hard != nil || at.snapshot > 0) && (commit < at.snapshot || commit > at.last) {
		return at, fmt.Errorf("committed index %d is not from %d (snapshot) to %d (last entry): %w", commit, at.snapshot, at.last, ErrOrder)
	}
	return at, nil
}

// read returns what the file holds, checked.
func (s *Store) read() (core.Boot, error) {
	var b core.Boot
	err := s.db.View(func(tx *bolt.Tx) error {
		state := tx.Bucket(stateBucket)
		if raw := state.Get(hardKey); raw != nil {
			b.HardState = &raftpb.HardState{}
			if err := decodeRecord(stateBucket, hardKey, raw, b.HardState); err != nil {
				return err
			}
		}
		if raw := state.Get(snapshotKey); raw != nil {
			b.Snapshot = &raftpb.Snapshot{}
			if err := decodeRecord(stateBucket, snapshotKey, raw, b.Snapshot); err != nil {
				return err
			}
		}
		next := b.Snapshot.GetMetadata().GetIndex() + 1
		c := tx.Bucket(entryBucket).Cursor()
		for key, raw := c.First(); key != nil; key, raw = c.Next() {
			e := &raftpb.Entry{}
			if err := decodeRecord(entryBucket, key, raw, e); err != nil {
				return err
			}
			if string(key) != string(entryKey(next)) || e.GetIndex() != next {
				return fmt.Errorf("entry %d stands under key %x where entry %d should be: %w", e.GetIndex(), key, next, ErrCorrupt)
			}
			b.Entries = append(b.Entries, e)
			next++
		}
		last := next - 1
		if commit := b.HardState.GetCommit(); commit < b.Snapshot.GetMetadata().GetIndex() || commit > last {
			return fmt.Errorf("committed index %d is not from %d (snapshot) to %d (last entry): %w",
				commit, b.Snapshot.GetMetadata().GetIndex(), last, ErrCorrupt)
		}
		return nil
	})
	if err != nil {
		return core.Boot{}, err
	}
	return b, nil
}

func putRecord(b *bolt.Bucket, bucket, key []byte, m proto.Message) error {
	raw, err := encodeRecord(bucket, key, m)
	if err != nil {
		return err
	}
	return b.Put(key, raw)
}

// deleteEntries deletes the entries first..last, which may be none.
func deleteEntries(b *bolt.Bucket, first, last uint64) error {
	for index := first; index <= last; index++ {
		if err := b.Delete(entryKey(index)); err != nil {
			return err
		}
	}
	return nil
}
