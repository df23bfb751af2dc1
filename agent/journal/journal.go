package journal

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"flotilla/agent/vfs"
	"flotilla/wire"
)

var (
	// ErrFull is returned when a record does not fit: the limit is reached, or the disk is full. It can pass.
	ErrFull = errors.New("journal is full")
	// ErrLost is returned for good once a write or flush has failed: what the disk holds is no longer known.
	ErrLost = errors.New("journal is lost")
	// ErrRot is returned when something that was durable cannot be read back as it was written.
	ErrRot = errors.New("journal has rotted below its durable mark")
	// ErrBusy is returned to a NoWait append when the memory for pending records is used up.
	ErrBusy = errors.New("journal has too much waiting for the disk")
	// ErrTooLarge is returned for a payload that can never fit; see Journal.MaxRecord.
	ErrTooLarge = errors.New("record is too large for the journal")
	// ErrFreed is returned when a Ref points into a segment that is gone.
	ErrFreed = errors.New("record has been freed")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("journal is closed")
	// ErrVersion is returned by Open for a format that this program does not know.
	ErrVersion = errors.New("journal has an unknown format")
)

// Ref says where a record's payload lies. It is good from Append until the record's set is freed, but not
// once done was called with an error, and it stays the same over restarts.
type Ref struct {
	Segment uint64
	Offset  int64  // in the segment, in bytes
	Length  uint32 // in bytes
}

// Record is a record that Open found. The payload is good only during the call that hands it over.
type Record struct {
	Group   wire.GroupID
	Set     wire.Set
	Tag     uint64
	Payload []byte
	Ref     Ref
}

// Journal holds records until they are freed. Make it with Open. Its methods may be called from several goroutines.
type Journal struct {
	fs   vfs.FS
	opt  Options
	wake chan struct{} // capacity 1: the flusher should look
	stop chan struct{} // closed by Close
	done chan struct{} // closed by the flusher at its end

	mu   sync.Mutex
	room sync.Cond // on mu: a batch was taken, or the journal failed or closed

	// Guarded by mu.
	err      error // sticky: wraps ErrLost
	closed   bool  // Append and Read refuse
	released bool  // Close has closed the files; what a reader still used, its release closes
	waiting  int   // appends in room.Wait
	segs     map[uint64]*segment
	used     int64 // bytes of segs
	nextID   uint64
	tail     *segment // where the next batch goes, unless it begins a segment; nil in an empty journal
	end      int64    // offset in tail after the last batch taken
	cur      *batch   // collecting; nil when empty. It belongs after fly
	fly      *batch   // being written; its buf does not change. nil when the flusher rests
	buf      []byte   // the buffer that no batch uses
	freed    map[wire.GroupID]wire.Set
	stats    Stats

	// Owned by the flusher once it runs.
	spares    []spare
	lastStart time.Time // of a flush
	marked    bool      // the last batch on disk is a mark, or proves what came before in another way
}

// Stats are counters since Open and sizes now.
type Stats struct {
	Appends  uint64 // records made durable
	Bytes    uint64 // their payload
	Batches  uint64 // writes, with marks
	Syncs    uint64 // of segments' data
	Segments int    // files in use
	Used     int64  // their bytes
	Live     int64  // payload bytes of groups that still need a segment: an upper bound of what is needed
}

// Append stores one record. See Entry. It returns where the record lies, and calls done when it is durable (nil) or
// failed: ErrFull if the disk is full, ErrLost. When Append itself fails, done is not called.
//
// The payload is copied; the parts may be used again at once. Append waits while too much is pending, unless the entry
// says NoWait. done runs on the flusher, in the order of appends; it must return soon and call neither Close nor
// an Append that waits.
func (j *Journal) Append(e Entry, done func(Ref, error)) (Ref, error) {
	rh, err := j.header(e)
	if err != nil {
		return Ref{}, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		if err := j.usableLocked(); err != nil {
			return Ref{}, err
		}
		ok, err := j.makeRoomLocked(recordSize(int(rh.length)), e.Urgent)
		if err != nil {
			return Ref{}, err
		}
		if ok {
			break
		}
		if e.NoWait {
			return Ref{}, fmt.Errorf("append %d bytes: %w", rh.length, ErrBusy)
		}
		j.waiting++
		j.wakeFlusher()
		j.room.Wait()
		j.waiting--
	}
	ref := j.cur.add(&rh, e.Parts, done)
	j.wakeFlusher()
	return ref, nil
}

// usableLocked says why the journal takes nothing any more. j.mu is held.
func (j *Journal) usableLocked() error {
	if j.err != nil {
		return j.err
	}
	if j.closed {
		return ErrClosed
	}
	return nil
}

func (j *Journal) wakeFlusher() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// Err returns nil while the journal works, and otherwise an error that wraps ErrLost.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// Usage returns in bytes what the segments take, what they may take, and which part of that is kept for urgent records.
func (j *Journal) Usage() (used, limit, reserve int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.used, j.opt.Limit, j.opt.Reserve
}

// MaxRecord returns the length of the largest payload that Append takes, in bytes: a little less than half a segment.
func (j *Journal) MaxRecord() int { return j.opt.maxRecord() }

// Stats returns the counters.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.stats
	s.Segments, s.Used = len(j.segs), j.used
	for _, seg := range j.segs {
		for g, c := range seg.groups {
			if c.upTo > j.freed[g] {
				s.Live += c.bytes
			}
		}
	}
	return s
}

// Free says that the records of a group's sets up to and including upTo are no longer needed. It does not wait for the
// disk. Records appended later with such a set count as freed at once. What was freed is not remembered over a restart.
func (j *Journal) Free(g wire.GroupID, upTo wire.Set) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if upTo <= j.freed[g] {
		return
	}
	j.freed[g] = upTo
	for _, s := range j.segs {
		j.buryLocked(s)
	}
}

// Close flushes what is pending, writes the mark and releases the files. It returns the error that made the journal
// lost, if any. Later calls return the same.
func (j *Journal) Close() error {
	j.mu.Lock()
	first := !j.closed
	j.closed = true
	j.room.Broadcast()
	j.mu.Unlock()
	if first {
		close(j.stop)
	}
	<-j.done
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.err
	j.released = true
	for _, s := range j.segs {
		if s.file != nil && s.readers == 0 {
			err = errors.Join(err, s.file.Close())
			s.file = nil
		}
	}
	return err
}

// failLocked makes the journal lost. j.mu is held.
func (j *Journal) failLocked(cause error) {
	if j.err == nil {
		j.err = fmt.Errorf("%w: %w", ErrLost, cause)
	}
}

// lostName is the file that stands for a journal that must not be opened again.
const lostName = "lost"

// leaveLostMark writes the file. It is not flushed on purpose, and failing to write it is no further loss:
// see the package comment.
func (j *Journal) leaveLostMark(cause error) {
	f, err := j.fs.Create(path.Join(j.opt.Dir, lostName))
	if err == nil {
		_, err = f.WriteAt([]byte(cause.Error()+"\n"), 0)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		j.opt.Logger.Error("cannot mark the journal as lost", "dir", j.opt.Dir, "err", err)
	}
}

// checkLostMark refuses a journal that was lost before.
func checkLostMark(fsys vfs.FS, dir string) error {
	name := path.Join(dir, lostName)
	there, err := vfs.Exists(fsys, name)
	if err != nil || !there {
		return err
	}
	why, err := vfs.ReadFile(fsys, name, 1<<16)
	if err != nil {
		why = []byte(err.Error())
	}
	return fmt.Errorf("%w: %s was left by an earlier failure (%s); remove the directory and join as a new component",
		ErrLost, name, strings.TrimSpace(string(why)))
}
