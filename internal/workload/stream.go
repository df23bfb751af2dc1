package workload

import (
	"sync"
	"time"
)

// Update is one write of a client.
type Update struct {
	Offset   int64
	Length   int64
	Issued   time.Duration // since the clients' start
	Answered time.Duration // 0 while it is not
}

// Stream is the updates of one area of a volume, in order: each is issued when the one before was answered.
type Stream struct {
	id         uint64
	Name       string // for people
	start, end int64  // its area

	mu      sync.Mutex
	updates []Update // update i at i-1; only the last may be without an answer
}

// issue remembers a write before it is sent, and returns its index.
func (s *Stream) issue(offset, length int64, at time.Duration) (index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.updates = append(s.updates, Update{Offset: offset, Length: length, Issued: at})
	return uint64(len(s.updates))
}

// answer remembers that a write was acknowledged, and returns how long it took.
func (s *Stream) answer(index uint64, at time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := &s.updates[index-1]
	u.Answered = max(at, 1)
	return u.Answered - u.Issued
}

// All returns the updates. The clients must have ended, or at least what is appended later does not count.
func (s *Stream) All() []Update {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.updates[:len(s.updates):len(s.updates)]
}

// Tally counts what was acknowledged.
type Tally struct {
	Updates, Bytes int64
}

// Acknowledged counts the acknowledged updates above an index.
func Acknowledged(updates []Update, above uint64) (t Tally) {
	for _, u := range updates[min(above, uint64(len(updates))):] {
		if u.Answered != 0 {
			t.Updates++
			t.Bytes += u.Length
		}
	}
	return t
}

// fill makes the content of an update whose first block is at offset.
func fill(p []byte, run, id, index uint64, offset int64) {
	for at := 0; at < len(p); at += BlockSize {
		number := uint32((offset + int64(at)) / BlockSize)
		blockName{run: run, stream: id, index: index, number: number}.fill(p[at : at+BlockSize])
	}
}
