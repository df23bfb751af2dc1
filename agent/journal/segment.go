package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"flotilla/agent/vfs"
	"flotilla/wire"
)

const (
	segmentSuffix = ".seg"
	spareSuffix   = ".spare"
	tempName      = "segment.tmp"

	// tailBlocks are kept free of records at a segment's end, so that a mark and some gone records always find room,
	// even when no new segment can be had: freeing must not need space that only freeing can give. No second mark
	// is written before another record, so it takes one block at most.
	tailBlocks = 8
)

// segment is one file. The journal's mutex guards it, except that its file may be read and written without while
// readers, or the flusher, keep it from being closed.
type segment struct {
	id      uint64
	header  segmentHeader
	file    vfs.File // nil until the flusher has made it
	groups  map[wire.GroupID]covered
	end     int64 // after its last batch; set when sealed
	sealed  bool  // no batch will follow
	buried  bool  // nothing in it is needed; no new header lists it
	gone    bool  // that is durable, the file may go
	readers int
}

// spare is a file of a former segment.
type spare struct {
	name string
	size int64
}

func newSegment(h segmentHeader) *segment {
	return &segment{id: h.id, header: h, groups: map[wire.GroupID]covered{}}
}

func (s *segment) place(off int64) place { return place{s.id, s.header.salt, off} }

// dataEnd is the offset that records must not pass.
func (s *segment) dataEnd() int64 { return s.header.size - tailBlocks*block }

// note records that the segment holds a record.
func (s *segment) note(g wire.GroupID, set wire.Set, bytes int64) {
	c := s.groups[g]
	s.groups[g] = covered{max(c.upTo, set), c.bytes + bytes}
}

func segmentName(id uint64) string { return fmt.Sprintf("%016x%s", id, segmentSuffix) }

// parseName returns the number in a file's name.
func parseName(name, suffix string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != 16 {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 16, 64)
	return id, err == nil && fmt.Sprintf("%016x", id) == digits
}

// newSegmentLocked plans the segment after the tail. The flusher makes its file. j.mu is held.
func (j *Journal) newSegmentLocked() (*segment, error) {
	var salt [8]byte
	if _, err := io.ReadFull(j.opt.Random, salt[:]); err != nil {
		return nil, fmt.Errorf("append: draw a salt: %w", err)
	}
	h := segmentHeader{id: j.nextID, salt: binary.LittleEndian.Uint64(salt[:]), size: j.opt.SegmentSize}
	for _, s := range j.segs {
		switch {
		case s.buried:
		case s == j.tail:
			h.live = append(h.live, segmentEnd{s.id, j.end})
		default:
			h.live = append(h.live, segmentEnd{s.id, s.end})
		}
	}
	if len(h.live) > maxListed || h.length() > h.size/4 {
		return nil, fmt.Errorf("append: %d segments are in use, too many to list in one of %d bytes: %w", len(h.live), h.size, ErrFull)
	}
	slices.SortFunc(h.live, func(a, b segmentEnd) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	s := newSegment(h)
	j.nextID++
	j.segs[s.id] = s
	j.used += h.size
	return s, nil
}

// dropSegmentLocked forgets a segment that has no file. j.mu is held.
func (j *Journal) dropSegmentLocked(s *segment) {
	delete(j.segs, s.id)
	j.used -= s.header.size
}

// makeFile gives a planned segment its file. The name appears last, so that a segment's file always has a durable
// header. Only the flusher calls it.
func (j *Journal) makeFile(s *segment) (vfs.File, error) {
	f, temp, err := j.blankFile(s.header.size)
	if err != nil {
		return nil, fmt.Errorf("begin segment %d: %w", s.id, err)
	}
	undo := func(err error) (vfs.File, error) {
		if vfs.IsFull(err) {
			err = errors.Join(err, j.fs.Remove(temp))
		}
		return nil, fmt.Errorf("begin segment %d: %w", s.id, errors.Join(err, f.Close()))
	}
	if _, err := f.WriteAt(s.header.encode(), 0); err != nil {
		return undo(err)
	}
	if err := f.Sync(); err != nil {
		return undo(syncError{err})
	}
	if err := j.fs.Rename(temp, path.Join(j.opt.Dir, segmentName(s.id))); err != nil {
		return undo(err)
	}
	if err := j.fs.SyncDir(j.opt.Dir); err != nil {
		return undo(syncError{err})
	}
	return f, nil
}

// blankFile opens a spare, or makes and allocates a file.
func (j *Journal) blankFile(size int64) (vfs.File, string, error) {
	for len(j.spares) > 0 {
		sp := j.spares[len(j.spares)-1]
		j.spares = j.spares[:len(j.spares)-1]
		if sp.size == size {
			f, err := j.fs.Open(sp.name)
			return f, sp.name, err
		}
		if err := j.fs.Remove(sp.name); err != nil {
			return nil, "", err
		}
	}
	temp := path.Join(j.opt.Dir, tempName)
	f, err := j.fs.Create(temp)
	if err != nil {
		return nil, "", err
	}
	if j.opt.Preallocate {
		if err := f.Allocate(size); err != nil && !errors.Is(err, vfs.ErrUnsupported) {
			return nil, "", errors.Join(err, f.Close(), j.fs.Remove(temp))
		}
	}
	return f, temp, nil
}

// buryLocked looks whether a segment has become free, and lets the flusher record that. j.mu is held.
func (j *Journal) buryLocked(s *segment) {
	if !s.sealed || s.buried {
		return
	}
	for g, c := range s.groups {
		if c.upTo > j.freed[g] {
			return
		}
	}
	s.buried = true
	j.wakeFlusher()
}

// dispose takes the files of gone segments away, or makes spares of them. Only the flusher, or Open before it runs,
// calls it. A file that cannot be taken away is left for the next Open, which knows that it is not needed.
func (j *Journal) dispose() {
	j.mu.Lock()
	var old []*segment
	for _, s := range j.segs {
		if s.gone && s.readers == 0 {
			delete(j.segs, s.id)
			old = append(old, s)
		}
	}
	j.mu.Unlock()
	slices.SortFunc(old, func(a, b *segment) int { return int(int64(a.id) - int64(b.id)) })
	for _, s := range old {
		err := s.file.Close()
		err = errors.Join(err, j.discard(segmentName(s.id), s.id, s.header.size))
		if err != nil {
			j.opt.Logger.Error("cannot take a freed segment away", "segment", s.id, "err", err)
		}
		j.mu.Lock()
		j.used -= s.header.size
		j.mu.Unlock()
	}
	if len(old) == 0 || len(j.spares) == 0 {
		return
	}
	// A spare must have lost its old name for good before it gets a new content.
	if err := j.fs.SyncDir(j.opt.Dir); err != nil {
		j.opt.Logger.Error("cannot keep freed segments for use", "err", err)
		j.spares = nil
	}
}

// discard removes a segment's file or keeps it as a spare.
func (j *Journal) discard(name string, id uint64, size int64) error {
	name = path.Join(j.opt.Dir, name)
	if len(j.spares) >= j.opt.Spares || size != j.opt.SegmentSize {
		return j.fs.Remove(name)
	}
	to := path.Join(j.opt.Dir, fmt.Sprintf("%016x%s", id, spareSuffix))
	if err := j.fs.Rename(name, to); err != nil {
		return err
	}
	j.spares = append(j.spares, spare{to, size})
	return nil
}

// syncError marks a failed flush, which is final whatever its cause.
type syncError struct{ error }

func (e syncError) Unwrap() error { return e.error }
