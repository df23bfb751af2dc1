package journal

import (
	"errors"
	"fmt"
	"path"
	"slices"

	"flotilla/agent/vfs"
	"flotilla/wire"
)

// Open opens the journal in opt.Dir, or begins one, and hands every record that is still there to replay, in the
// order of appending. Everything handed over is durable once Open has returned without error; before that it
// counts for nothing. An error of replay ends Open and is returned.
//
// Open fails with ErrRot if something is missing that was durable, and with ErrLost if the journal was lost before:
// the component must then declare itself lost. The journal must be closed after use.
func Open(fsys vfs.FS, opt Options, replay func(Record) error) (*Journal, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, err
	}
	j := &Journal{
		fs: fsys, opt: opt,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		segs: map[uint64]*segment{}, freed: map[wire.GroupID]wire.Set{}, nextID: 1, marked: true,
	}
	j.room.L = &j.mu
	if err := j.recover(replay); err != nil {
		var closing []error
		for _, s := range j.segs {
			closing = append(closing, s.file.Close())
		}
		return nil, fmt.Errorf("open journal %s: %w", opt.Dir, errors.Join(append([]error{err}, closing...)...))
	}
	opt.Logger.Info("journal is open", "dir", opt.Dir, "segments", len(j.segs), "bytes", j.used)
	j.wakeFlusher() // For the mark, if it is missing.
	go j.run()
	return j, nil
}

// recover fills the journal in from what is on disk.
func (j *Journal) recover(replay func(Record) error) error {
	if err := j.fs.MkdirAll(j.opt.Dir); err != nil {
		return err
	}
	if err := checkLostMark(j.fs, j.opt.Dir); err != nil {
		return err
	}
	found, err := j.openSegments()
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return j.syncNames()
	}
	last := found[len(found)-1]
	// A process that was killed may have left the last batch and the last names in the cache only. All else was
	// flushed before the newest segment got its header.
	if err := last.file.Sync(); err != nil {
		j.leaveLostMark(err)
		return fmt.Errorf("%w: flush segment %d: %w", ErrLost, last.id, err)
	}
	if err := j.syncNames(); err != nil {
		return err
	}
	gone, err := j.replaySegments(found, replay)
	if err != nil {
		return err
	}
	for _, e := range last.header.live {
		if j.segs[e.id] == nil && !gone[e.id] {
			return fmt.Errorf("segment %d, durable up to %d, is missing: %w", e.id, e.end, ErrRot)
		}
	}
	j.tail = last
	for _, s := range j.segs {
		if len(s.groups) == 0 {
			j.buryLocked(s) // Nobody else has the journal yet.
		}
	}
	j.dispose()
	return nil
}

// syncNames makes the names in the directory durable.
func (j *Journal) syncNames() error {
	if err := j.fs.SyncDir(j.opt.Dir); err != nil {
		j.leaveLostMark(err)
		return fmt.Errorf("%w: flush the directory: %w", ErrLost, err)
	}
	return nil
}

// openSegments opens every segment's file, in j.segs too, and returns them by rising number. It collects spares and removes
// the file of a segment that was never begun.
func (j *Journal) openSegments() ([]*segment, error) {
	names, err := j.fs.List(j.opt.Dir)
	if err != nil {
		return nil, err
	}
	var found []*segment
	for _, name := range names {
		full := path.Join(j.opt.Dir, name)
		if name == tempName {
			if err := j.fs.Remove(full); err != nil {
				return nil, err
			}
		} else if id, ok := parseName(name, spareSuffix); ok {
			j.nextID = max(j.nextID, id+1)
			if err := j.keepSpare(full); err != nil {
				return nil, err
			}
		} else if id, ok := parseName(name, segmentSuffix); ok {
			s, err := j.openSegment(full, id)
			if err != nil {
				return nil, err
			}
			j.nextID = max(j.nextID, id+1)
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b *segment) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	return found, nil
}

// keepSpare takes a spare over, or removes it.
func (j *Journal) keepSpare(name string) error {
	f, err := j.fs.Open(name)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if size == j.opt.SegmentSize && len(j.spares) < j.opt.Spares {
		j.spares = append(j.spares, spare{name, size})
		return nil
	}
	return j.fs.Remove(name)
}

// openSegment opens one segment's file and checks its header.
func (j *Journal) openSegment(name string, id uint64) (*segment, error) {
	f, err := j.fs.Open(name)
	if err != nil {
		return nil, err
	}
	h, err := readSegmentHeader(f)
	if err == nil && h.id != id {
		err = fmt.Errorf("segment header: it is that of segment %d: %w", h.id, errInvalid)
	}
	if err != nil {
		if errors.Is(err, errInvalid) {
			err = fmt.Errorf("%w: %w", err, ErrRot)
		}
		return nil, errors.Join(fmt.Errorf("segment %d: %w", id, err), f.Close())
	}
	s := newSegment(*h)
	s.file = f
	j.segs[id] = s
	j.used += h.size
	return s, nil
}

// replaySegments hands all records out. It returns the segments that the newest one says are gone.
func (j *Journal) replaySegments(found []*segment, replay func(Record) error) (map[uint64]bool, error) {
	last := found[len(found)-1]
	ends := map[uint64]int64{}
	for _, e := range last.header.live {
		ends[e.id] = e.end
	}
	var scan scanner
	gone := map[uint64]bool{}
	for _, s := range found {
		emit := func(r foundRecord) error {
			if r.kind == kindGone {
				if s == last {
					for _, id := range goneSegments(r.payload) {
						gone[id] = true
					}
				}
				return nil
			}
			s.note(r.group, r.set, int64(r.length))
			return replay(Record{r.group, r.set, r.tag, r.payload, Ref{s.id, r.off, r.length}})
		}
		var state foundSegment
		var err error
		if s == last {
			state, err = scan.last(s.file, &s.header, emit)
			j.end, j.marked = state.end, state.marked
		} else if end, needed := ends[s.id]; needed {
			state, err = scan.sealed(s.file, &s.header, end, emit)
			s.sealed, s.end = true, state.end
		} else {
			// The newest header does without it; only taking its file away was not done yet.
			s.sealed, s.buried, s.gone = true, true, true
		}
		if err != nil {
			return nil, err
		}
	}
	return gone, nil
}
