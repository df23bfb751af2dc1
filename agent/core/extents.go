package core

import "flotilla/wire"

// Extents is the activity log and the bitmap of one source volume, in one map of bits: the bit of an extent is durably
// set before the first write into it, and stays set until everything written there is on the target and the source is
// flushed. After a crash the set bits are what must be copied again; while the group is detached they are what has
// changed. It is pure: the shell makes bits durable and copies.
//
//	write:  Touch (set bits, make the new ones durable) … write the source … Numbered or Dirtied …
//	copy:   Resync (all set bits are to be copied) … NextRun … Copied …
//	clean:  Clean (candidates) … flush the source … Cleared (make them durable)
//
// What is written while the copy runs is copied last: by then it may be at rest. What was copied and not written since is
// not part of a working set, so its bit is cleared as soon as it may: a copy that begins anew begins where this one was.
//
// Numbered, Dirtied and Copied are called while the range lock over the extents' range is held, so that a copy and a
// write of one range follow each other.
//
// Invariant: while a bit is clear, the durable source and the target agree on its extent.
type Extents struct {
	size   int64
	extent int64
	ext    []extentState
	marked int // bits set
	toCopy int
	cold   int  // extents that are cold
	next   int  // where the copier looks first
	hot    bool // it has taken what is at rest, and takes what was written meanwhile
	copies bool // an incarnation is attached, whose copy takes in what gets dirty
}

// extentState is what is known of one extent.
type extentState struct {
	bit   bool     // set, durably or on the way to it
	copy  bool     // to be copied in this incarnation
	cold  bool     // copied in this incarnation, and never written in it
	pins  int32    // writes between Touch and Numbered
	set   wire.Set // newest set with an update of it in this incarnation, 0 for none
	dirty bool     // written while detached
}

// NewExtents returns the map of a volume of size bytes in extents of the given size. bits says which are set; nil sets
// all, as for a volume that was never copied.
func NewExtents(size, extent int64, bits func(i int) bool) *Extents {
	n := int((size + extent - 1) / extent)
	e := &Extents{size: size, extent: extent, ext: make([]extentState, n)}
	for i := range e.ext {
		if bits == nil || bits(i) {
			e.ext[i].bit = true
			e.ext[i].dirty = true
			e.marked++
		}
	}
	return e
}

// Len returns the number of extents.
func (e *Extents) Len() int { return len(e.ext) }

// Bit returns the bit of extent i as it is to be on disk.
func (e *Extents) Bit(i int) bool { return e.ext[i].bit }

// Marked returns the number of set bits.
func (e *Extents) Marked() int { return e.marked }

// Range returns the first and last extent of a byte range.
func (e *Extents) Range(off, length int64) (first, last int) {
	return int(off / e.extent), int((off + max(length, 1) - 1) / e.extent)
}

// Span returns the byte range of extent i.
func (e *Extents) Span(i int) (off, length int64) {
	off = int64(i) * e.extent
	return off, min(e.extent, e.size-off)
}

// Touch announces a write. It pins the extents and returns whether bits were set that the caller must make durable
// before it writes the source.
func (e *Extents) Touch(off, length int64) (grew bool) {
	first, last := e.Range(off, length)
	for i := first; i <= last; i++ {
		x := &e.ext[i]
		x.pins++
		if x.cold {
			x.cold = false
			e.cold--
		}
		if !x.bit {
			x.bit = true
			e.marked++
			grew = true
		}
	}
	return grew
}

// Numbered ends a write whose updates are in the given set.
func (e *Extents) Numbered(off, length int64, set wire.Set) {
	first, last := e.Range(off, length)
	for i := first; i <= last; i++ {
		e.ext[i].pins--
		e.ext[i].set = max(e.ext[i].set, set)
	}
}

// Dirtied ends a write that went into no set: because the group is detached, or because the source failed.
func (e *Extents) Dirtied(off, length int64) {
	first, last := e.Range(off, length)
	for i := first; i <= last; i++ {
		x := &e.ext[i]
		x.pins--
		x.dirty = true
		if e.copies && !x.copy {
			x.copy = true // it is copied again: what the failed write left there is what the source has
			e.toCopy++
			e.next = min(e.next, i)
		}
	}
}

// Resync begins the copy of a new incarnation: every set bit is to be copied. It returns the number of extents.
func (e *Extents) Resync() int {
	e.toCopy, e.cold, e.next, e.hot, e.copies = 0, 0, 0, false, true
	for i := range e.ext {
		x := &e.ext[i]
		x.copy, x.cold, x.set, x.dirty = x.bit, false, 0, false
		if x.copy {
			e.toCopy++
		}
	}
	return e.toCopy
}

// Detach forgets the sets of an incarnation that ended: nothing may be cleared by them any more.
func (e *Extents) Detach() {
	e.toCopy, e.cold, e.copies = 0, 0, false
	for i := range e.ext {
		x := &e.ext[i]
		x.dirty = x.dirty || x.bit
		x.copy, x.cold, x.set = false, false, 0
	}
}

// NextRun returns the next extents to copy, n of them in a row and limit at most, or false when the copy is whole.
func (e *Extents) NextRun(limit int) (first, n int, ok bool) {
	for range 3 { // from where it stopped, from the start to what was written, and from the start once more
		for ; e.toCopy > 0 && e.next < len(e.ext); e.next++ {
			if !e.wanted(e.next) {
				continue
			}
			for n = 1; n < limit && e.next+n < len(e.ext) && e.wanted(e.next+n); n++ {
			}
			return e.next, n, true
		}
		e.next, e.hot = 0, true
	}
	return 0, 0, false
}

// wanted reports whether an extent is to be copied now.
func (e *Extents) wanted(i int) bool {
	x := &e.ext[i]
	return x.copy && (e.hot || (x.set == 0 && x.pins == 0))
}

// ToCopy returns how many extents are still to be copied.
func (e *Extents) ToCopy() int { return e.toCopy }

// Copied ends the copy of extent i, whose last updates are in the given set.
func (e *Extents) Copied(i int, set wire.Set) {
	x := &e.ext[i]
	if x.copy {
		x.copy, x.dirty = false, false
		e.toCopy--
		if x.set == 0 && x.pins == 0 {
			x.cold = true
			e.cold++
		}
	}
	x.set = max(x.set, set)
}

// Clean returns up to limit extents whose updates are all applied, ascending: their bits may be cleared once the source has
// been flushed, by Cleared. keep is how many of the others may stay, so that a working set costs no writes to the log.
func (e *Extents) Clean(applied wire.Set, keep, limit int) []int {
	spare := e.marked - e.cold - keep // of the written ones
	if spare <= 0 && e.cold == 0 {
		return nil
	}
	var out []int
	for i := range e.ext {
		if len(out) >= limit {
			break
		}
		if cold := e.ext[i].cold; (cold || spare > 0) && e.cleanable(i, applied) {
			out = append(out, i)
			if !cold {
				spare--
			}
		}
	}
	return out
}

func (e *Extents) cleanable(i int, applied wire.Set) bool {
	x := &e.ext[i]
	return x.bit && !x.copy && !x.dirty && x.pins == 0 && x.set != 0 && x.set <= applied
}

// Cleared clears the bits of those extents that are still clean, after the source was flushed, and returns whether any
// was. The caller makes them durable when it likes.
func (e *Extents) Cleared(extents []int, applied wire.Set) (shrank bool) {
	for _, i := range extents {
		if e.cleanable(i, applied) {
			if e.ext[i].cold {
				e.cold--
			}
			e.ext[i].bit, e.ext[i].cold, e.ext[i].set = false, false, 0
			e.marked--
			shrank = true
		}
	}
	return shrank
}
