package demo

import (
	"sync"
	"time"
)

// update is one write of a client.
type update struct {
	offset   int64
	length   int64
	issued   time.Duration // since the run's start
	answered time.Duration // 0 while it is not
}

// stream is the updates of one area of a volume, in order: each is issued when the one before was answered.
type stream struct {
	id         uint64
	name       string // for people
	start, end int64  // its area

	mu      sync.Mutex
	updates []update // update i at i-1; only the last may be without an answer
}

// issue remembers a write before it is sent, and returns its index.
func (s *stream) issue(offset, length int64, at time.Duration) (index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.updates = append(s.updates, update{offset: offset, length: length, issued: at})
	return uint64(len(s.updates))
}

// answer remembers that a write was acknowledged, and returns how long it took.
func (s *stream) answer(index uint64, at time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := &s.updates[index-1]
	u.answered = max(at, 1)
	return u.answered - u.issued
}

// all returns the updates. The clients must have ended, or at least what is appended later does not count.
func (s *stream) all() []update {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.updates[:len(s.updates):len(s.updates)]
}

// tally counts what was acknowledged.
type tally struct {
	updates, bytes int64
}

// acknowledged counts the acknowledged updates above an index.
func acknowledged(updates []update, above uint64) (t tally) {
	for _, u := range updates[min(above, uint64(len(updates))):] {
		if u.answered != 0 {
			t.updates++
			t.bytes += u.length
		}
	}
	return t
}

// fill makes the content of an update whose first block is at offset.
func fill(p []byte, run, id, index uint64, offset int64) {
	for at := 0; at < len(p); at += blockSize {
		number := uint32((offset + int64(at)) / blockSize)
		blockName{run: run, stream: id, index: index, number: number}.fill(p[at : at+blockSize])
	}
}
