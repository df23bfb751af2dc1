package primary

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sync"
	"sync/atomic"

	"flotilla/agent/vfs"
	"flotilla/wire"
)

// A spool keeps payloads of one group on disk that wait to be sent. It consists of segments: files that are written once, from
// their begin to their end, and are gone when nothing in them is needed any more. What is sent leaves in the order in which it
// came, nearly, so that space is free again soon.
//
// It only stands in for memory. Nothing of it is flushed, and each file loses its name before it is written, so that after a
// crash there is no spool: the bits have it all. There is no format either but the payloads, one behind the other. Where each
// lies, and the CRC-32C that it is sealed with and travels with, are in memory.

// errSpoolFull says that a spool takes no more for now: its limit, the agent's or the disk's.
var errSpoolFull = errors.New("the spool is full")

// errSpoolClosed says that the spool has gone with its group.
var errSpoolClosed = errors.New("the spool is closed")

const (
	// spoolSegments is how many segments a full spool has: what may be unused of its space is a part of one.
	spoolSegments = 64
	// minSegment holds the longest payload.
	minSegment = wire.MaxUpdateLength
	// A spool leaves a part of the disk free, for the control log and whatever else is there: this part of it, or as much as
	// this, whichever is less.
	spoolReservePart = 10
	spoolReserveMost = 1 << 30
)

// spoolTotal bounds what the spools of all groups of an agent take together.
type spoolTotal struct {
	limit int64
	used  atomic.Int64
}

// take takes n bytes, if there are so many.
func (t *spoolTotal) take(n int64) bool {
	if t.used.Add(n) > t.limit {
		t.used.Add(-n)
		return false
	}
	return true
}

type spool struct {
	fs    vfs.FS
	dir   string
	name  string // of its files
	total *spoolTotal
	size  int64 // of a segment; 0: by the limit

	mu sync.Mutex

	// The fields below are guarded by mu.

	limit  int64
	segs   []*segment // with files, the oldest first
	tail   *segment   // the one that is written, nil for none; only put and reap change it
	used   int64      // that files take
	live   int64      // of payloads that are needed
	full   bool       // the last put found no room, and nothing was given back since
	closed bool
}

// segment is one file. Its fields but the file are guarded by spool.mu.
type segment struct {
	spool *spool
	file  vfs.File
	size  int64
	end   int64 // what is written of it
	live  int64 // bytes of payloads that are needed
}

// spooled is a payload in a spool. It is a payload itself: who releases it last gives its space back.
type spooled struct {
	seg  *segment
	off  int64
	n    int32
	sum  uint32 // its update's Sum
	refs atomic.Int32
}

// Retain implements payload.
func (s *spooled) Retain() { s.refs.Add(1) }

// Release implements payload.
func (s *spooled) Release() {
	switch n := s.refs.Add(-1); {
	case n < 0:
		panic("primary: a place in the spool was released more often than retained")
	case n == 0:
		sp := s.seg.spool
		sp.mu.Lock()
		s.seg.live -= int64(s.n)
		sp.live -= int64(s.n)
		sp.mu.Unlock()
	}
}

// follows reports whether the payload lies right behind another.
func (s *spooled) follows(o *spooled) bool { return s.seg == o.seg && s.off == o.off+int64(o.n) }

// read reads the payload, and those that follow it, as many as fill p.
func (s *spooled) read(p []byte) error {
	_, err := s.seg.file.ReadAt(p, s.off)
	return err
}

// setLimit says how much the spool may take; what it has beyond that it keeps until it was sent.
func (s *spool) setLimit(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = bytes
}

// spoolRoom is how full a spool is, in bytes.
type spoolRoom struct {
	taken int64 // in use, or not yet free again
	set   int64 // its limit
	limit int64 // what it takes: the limit, or what it has taken when there is no more to be had
	live  int64 // of payloads that are needed
	used  int64 // by files
	full  bool
}

// free is what it still takes.
func (r *spoolRoom) free() int64 { return max(0, r.limit-r.taken) }

// fill is 0 for an empty spool and 1 for a full one.
func (r *spoolRoom) fill() float64 {
	if r.limit <= 0 {
		return 1
	}
	return min(1, float64(r.taken)/float64(r.limit))
}

func (s *spool) room() spoolRoom {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := spoolRoom{taken: s.used, set: s.limit, limit: s.limit, live: s.live, used: s.used, full: s.full}
	if s.tail != nil {
		r.taken -= s.tail.size - s.tail.end
	}
	if s.full {
		r.limit = min(r.limit, r.taken)
	}
	return r
}

// put writes payloads, one behind the other, and returns a place for each of the first ones: all of them, unless there is an
// error. A place has one reference. Only one goroutine calls put and reap. buf is used for the writing and returned.
func (s *spool) put(ups []wire.Update, buf []byte) (places []*spooled, _ []byte, err error) {
	for len(ups) > 0 {
		tail, err := s.writable(int64(len(ups[0].Data)))
		if err != nil {
			return places, buf, err
		}
		buf = buf[:0]
		off, n := tail.end, 0
		for n < len(ups) && tail.end+int64(len(buf)+len(ups[n].Data)) <= tail.size {
			buf = append(buf, ups[n].Data...)
			n++
		}
		if _, err := tail.file.WriteAt(buf, off); err != nil {
			if s.leave(tail, err) {
				err = errSpoolFull
			}
			return places, buf, fmt.Errorf("write %d bytes to the spool in %s: %w", len(buf), s.dir, err)
		}
		for i := range ups[:n] {
			p := &spooled{seg: tail, off: off, n: int32(len(ups[i].Data)), sum: ups[i].Sum}
			p.refs.Store(1)
			off += int64(p.n)
			places = append(places, p)
		}
		s.mu.Lock()
		tail.end += int64(len(buf))
		tail.live += int64(len(buf))
		s.live += int64(len(buf))
		s.mu.Unlock()
		ups = ups[n:]
	}
	return places, buf, nil
}

// leave has nothing more written to a segment in which a write failed, and reports whether that was for want of space.
func (s *spool) leave(seg *segment, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tail == seg {
		s.tail = nil
	}
	if vfs.IsFull(err) {
		s.full = true
	}
	return s.full
}

// writable returns a segment with room for n bytes.
func (s *spool) writable(n int64) (*segment, error) {
	s.reap()
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		return nil, errSpoolClosed
	case s.tail != nil && s.tail.size-s.tail.end >= n:
		defer s.mu.Unlock()
		return s.tail, nil
	}
	s.tail = nil
	size := max(s.segmentLocked(), n)
	fits := s.used+size <= s.limit && s.total.take(size)
	s.full = !fits
	s.mu.Unlock()
	if !fits {
		return nil, errSpoolFull
	}
	file, err := s.create(size)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && s.closed {
		err = errors.Join(errSpoolClosed, file.Close())
	}
	if err != nil {
		s.total.used.Add(-size)
		if s.full = errors.Is(err, errSpoolFull) || vfs.IsFull(err); s.full {
			err = errSpoolFull
		}
		return nil, err
	}
	s.tail = &segment{spool: s, file: file, size: size}
	s.segs = append(s.segs, s.tail)
	s.used += size
	return s.tail, nil
}

func (s *spool) segmentLocked() int64 {
	if s.size > 0 {
		return s.size
	}
	return max(s.limit/spoolSegments, minSegment)
}

// again looks whether a spool that was full has room for another segment now: others may have given some back.
func (s *spool) again() {
	s.mu.Lock()
	size := s.segmentLocked()
	look := s.full && !s.closed && s.used+size <= s.limit
	s.mu.Unlock()
	if !look || s.total.used.Load()+size > s.total.limit || !s.diskHas(size) {
		return
	}
	s.mu.Lock()
	s.full = false
	s.mu.Unlock()
}

func (s *spool) diskHas(size int64) bool {
	disk, free, err := s.fs.Space(s.dir)
	return err == nil && free-size >= min(disk/spoolReservePart, spoolReserveMost)
}

// create makes the file of a segment, with its space, and takes its name away.
func (s *spool) create(size int64) (vfs.File, error) {
	if err := s.fs.MkdirAll(s.dir); err != nil {
		return nil, fmt.Errorf("make the directory of the spool: %w", err)
	}
	disk, free, err := s.fs.Space(s.dir)
	if err != nil {
		return nil, err
	}
	if free-size < min(disk/spoolReservePart, spoolReserveMost) {
		return nil, errSpoolFull
	}
	name := path.Join(s.dir, s.name)
	file, err := s.fs.Create(name)
	if err != nil {
		return nil, fmt.Errorf("make a file of the spool: %w", err)
	}
	if err = s.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("take the name of a file of the spool away: %w", err), file.Close())
	}
	if err = file.Allocate(size); err != nil && !errors.Is(err, vfs.ErrUnsupported) {
		return nil, errors.Join(fmt.Errorf("take space for the spool: %w", err), file.Close())
	}
	return file, nil
}

// reap gives back what is not needed: segments that are written and of which nothing is, and all of them when nothing is at all.
func (s *spool) reap() {
	var gone []*segment
	s.mu.Lock()
	s.segs = slices.DeleteFunc(s.segs, func(seg *segment) bool {
		switch {
		case seg.live > 0:
			return false
		case seg == s.tail && s.live > 0:
			seg.end = 0 // it is written anew
			return false
		case seg == s.tail:
			s.tail = nil
		}
		gone = append(gone, seg)
		return true
	})
	s.dropLocked(gone)
	s.mu.Unlock()
	closeSegments(gone)
}

// dropLocked takes segments out of the account. mu is held.
func (s *spool) dropLocked(gone []*segment) {
	for _, seg := range gone {
		s.used -= seg.size
		s.total.used.Add(-seg.size)
		s.full = false
	}
}

func closeSegments(gone []*segment) {
	for _, seg := range gone {
		_ = seg.file.Close() // what it has is not needed, and it has no name: nothing depends on it
	}
}

// close gives everything back. What is read afterwards fails.
func (s *spool) close() {
	s.mu.Lock()
	s.closed = true
	gone := s.segs
	s.segs, s.tail = nil, nil
	s.dropLocked(gone)
	s.mu.Unlock()
	closeSegments(gone)
}

// busy reports whether there is something to be given back, or to be looked at again.
func (s *spool) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used > 0 || s.full
}

func (s *spool) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}
