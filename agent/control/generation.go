package control

import (
	"encoding/binary"
	"errors"
	"fmt"

	"flotilla/agent/core"

	bolt "go.etcd.io/bbolt"
)

// ErrGeneration is returned for a promise or a recovery that an earlier promise forbids.
var ErrGeneration = errors.New("generation is not above what was promised")

var (
	promisedKey = []byte("promised")
	behindKey   = []byte("behind")
)

// Generations is what an agent keeps of generations of its cluster beside what the replicated state says.
type Generations struct {
	Promised uint64 // the agent talks to nobody of an older one
	Behind   uint64 // one that has begun without this agent, which is of no use any more; 0 for none
}

// Generations returns what was promised.
func (s *Store) Generations() (g Generations, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err = s.usable(); err == nil {
		err = s.db.View(func(tx *bolt.Tx) error {
			for _, x := range []struct {
				key []byte
				to  *uint64
			}{{promisedKey, &g.Promised}, {behindKey, &g.Behind}} {
				if *x.to, err = getNumber(tx.Bucket(stateBucket), x.key); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return Generations{}, fmt.Errorf("read control log %s: %w", s.path, err)
	}
	return g, nil
}

// Promise makes durable that the agent talks to nobody of a generation older than this.
func (s *Store) Promise(generation uint64) error {
	return s.update(func(tx *bolt.Tx) error { return putNumber(tx.Bucket(stateBucket), promisedKey, generation) })
}

// MarkBehind makes durable that a generation has begun without this agent.
func (s *Store) MarkBehind(generation uint64) error {
	return s.update(func(tx *bolt.Tx) error { return putNumber(tx.Bucket(stateBucket), behindKey, generation) })
}

// Recover puts the first state of a generation in the place of everything that the log holds. After a crash it holds
// either all of the old or all of the new.
func (s *Store) Recover(generation uint64, b core.Boot) error {
	if b.HardState == nil || b.Snapshot == nil || len(b.Entries) > 0 {
		return fmt.Errorf("recover control log %s: a generation begins with a state and nothing else: %w", s.path, ErrOrder)
	}
	return s.update(func(tx *bolt.Tx) error {
		state := tx.Bucket(stateBucket)
		promised, err := getNumber(state, promisedKey)
		if err != nil {
			return err
		}
		if generation < promised {
			return fmt.Errorf("recover as generation %d: %d was promised: %w", generation, promised, ErrGeneration)
		}
		if err := tx.DeleteBucket(entryBucket); err != nil {
			return err
		}
		if _, err := tx.CreateBucket(entryBucket); err != nil {
			return err
		}
		err = errors.Join(
			putNumber(state, promisedKey, generation),
			putRecord(state, stateBucket, hardKey, b.HardState),
			putRecord(state, stateBucket, snapshotKey, b.Snapshot),
		)
		if err == nil {
			tx.OnCommit(func() { s.at = positionOf(b) }) // mu is held
		}
		return err
	})
}

// update makes a change durable. A failure of the disk ends the store, as it does for Save.
func (s *Store) update(change func(tx *bolt.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.usable()
	if err == nil {
		if err = s.db.Update(change); err != nil && !errors.Is(err, ErrGeneration) {
			s.err = err
		}
	}
	if err != nil {
		return fmt.Errorf("save to control log %s: %w", s.path, err)
	}
	return nil
}

// A number is a u64 behind its checksum.
const numberLength = recordHeaderLength + 8

func putNumber(b *bolt.Bucket, key []byte, n uint64) error {
	raw := binary.BigEndian.AppendUint64(make([]byte, recordHeaderLength, numberLength), n)
	binary.BigEndian.PutUint32(raw, recordSum(stateBucket, key, raw[recordHeaderLength:]))
	return b.Put(key, raw)
}

// getNumber returns 0 for a number that was never put.
func getNumber(b *bolt.Bucket, key []byte) (uint64, error) {
	raw := b.Get(key)
	if raw == nil {
		return 0, nil
	}
	if len(raw) != numberLength || binary.BigEndian.Uint32(raw) != recordSum(stateBucket, key, raw[recordHeaderLength:]) {
		return 0, fmt.Errorf("%s %s does not match its checksum: %w", stateBucket, key, ErrCorrupt)
	}
	return binary.BigEndian.Uint64(raw[recordHeaderLength:]), nil
}
