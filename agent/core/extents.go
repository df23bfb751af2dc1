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
// cold: not part of a working set, so its bit is cleared as soon as it may, and a copy that begins anew begins where this
// one was.
//
// Numbered, Dirtied and Copied are called while the range lock over the extents' range is held, so that a copy and a
// write of one range follow each other.
//
// The extents that only an update in some set keeps set stand in a list in the order in which they were written last, to a
// set: so the bits of those that were written longest ago are cleared, and a working set keeps its bits (hot.go).
//
// Invariant: while a bit is clear, the durable source and the target agree on its extent.
type Extents struct {
	size   int64
	extent int64
	ext    []extentState
	hot    hotList
	marked int // bits set
	toCopy int
	aside  int      // of them, those that are not to be copied now
	cold   int      // extents that are cold
	next   int      // where the copier looks first
	last   bool     // it has taken what is at rest, and takes what was written meanwhile
	copies bool     // an incarnation is attached, whose copy takes in what gets dirty
	kept   []uint64 // a bit for each extent that need not be copied again, see kept.go
	keeps  int      // of them
}

// extentState is what is known of one extent: 24 bytes, of which a volume has a million at most.
type extentState struct {
	set          wire.Set // newest set with an update of it in this incarnation, 0 for none; it is in the list unless 0
	newer, older int32    // neighbours in the list of hot extents
	pins         int32    // writes between Touch and Numbered
	bit          bool     // set, durably or on the way to it
	copy         bool     // to be copied in this incarnation
	apart        bool     // while it is to be copied: it is put aside; otherwise: it is cold
	dirty        bool     // written while detached
}

// aside reports whether it is to be copied, but not now: it could not be read.
func (x *extentState) aside() bool { return x.copy && x.apart }

// cold reports whether it was copied in this incarnation, and never written in it.
func (x *extentState) cold() bool { return !x.copy && x.apart }

// NewExtents returns the map of a volume of size bytes in extents of the given size. bits says which are set; nil sets
// all, as for a volume that was never copied.
func NewExtents(size, extent int64, bits func(i int) bool) *Extents {
	n := int((size + extent - 1) / extent)
	e := &Extents{size: size, extent: extent, ext: make([]extentState, n), hot: noHot, kept: make([]uint64, (n+63)/64)}
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

// Size returns the size in bytes.
func (e *Extents) Size() int64 { return e.size }

// Grow makes the volume larger, and leaves the bits of what is new clear: the durable source and the target agree there.
func (e *Extents) Grow(size int64) {
	e.size = max(e.size, size)
	if n := int((e.size + e.extent - 1) / e.extent); n > len(e.ext) {
		e.ext = append(e.ext, make([]extentState, n-len(e.ext))...)
		e.kept = append(e.kept, make([]uint64, (n+63)/64-len(e.kept))...)
	}
}

// Touch announces a write. It pins the extents and returns whether bits were set, or extents that were kept are so no more,
// which the caller must make durable before it writes the source.
func (e *Extents) Touch(off, length int64) (grew bool) {
	first, last := e.Range(off, length)
	for i := first; i <= last; i++ {
		x := &e.ext[i]
		x.pins++
		if x.cold() {
			x.apart = false
			e.cold--
		}
		if !x.bit {
			x.bit = true
			e.marked++
			grew = true
		}
		if e.drop(i) {
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
		e.heat(i, set)
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
	toCopy, _ := e.Resume(0, nil)
	return toCopy
}

// Detach forgets the sets of an incarnation that ended: nothing may be cleared by them any more.
func (e *Extents) Detach() {
	e.toCopy, e.aside, e.cold, e.copies, e.hot = 0, 0, 0, false, noHot
	for i := range e.ext {
		x := &e.ext[i]
		x.dirty = x.dirty || x.bit
		x.copy, x.apart, x.set = false, false, 0
	}
}

// NextRun returns the next extents to copy, n of them in a row and limit at most, or false when the copy is whole but for
// what is put aside.
func (e *Extents) NextRun(limit int) (first, n int, ok bool) {
	for range 3 { // from where it stopped, from the start to what was written, and from the start once more
		for ; e.toCopy > e.aside && e.next < len(e.ext); e.next++ {
			if !e.wanted(e.next) {
				continue
			}
			for n = 1; n < limit && e.next+n < len(e.ext) && e.wanted(e.next+n); n++ {
			}
			return e.next, n, true
		}
		e.next, e.last = 0, true
	}
	return 0, 0, false
}

// wanted reports whether an extent is to be copied now.
func (e *Extents) wanted(i int) bool {
	x := &e.ext[i]
	return x.copy && !x.apart && (e.last || (x.set == 0 && x.pins == 0))
}

// ToCopy returns how many extents are still to be copied.
func (e *Extents) ToCopy() int { return e.toCopy }

// Copied ends the copy of extent i, whose last updates are in the given set.
func (e *Extents) Copied(i int, set wire.Set) {
	x := &e.ext[i]
	if x.copy {
		if x.aside() {
			e.aside--
		}
		x.copy, x.apart, x.dirty = false, x.set == 0 && x.pins == 0, false
		e.toCopy--
		if x.apart {
			e.cold++
		}
	}
	e.heat(i, set)
}

// Clean returns up to limit extents whose updates are all applied, those that were written longest ago first: their bits
// may be cleared once the source has been flushed, by Cleared. keep is how many of the set bits may stay, so that a working
// set costs no writes to the log; cold extents are none of it, and are cleared in any case. Of the others nothing is
// cleared before keep is exceeded by an eighth: clearing costs a flush, and so is worth more than a few.
func (e *Extents) Clean(applied wire.Set, keep, limit int) []int {
	spare := e.marked - e.cold - keep // of those that are not cold
	if spare <= keep/8 {
		spare = 0
	}
	if spare == 0 && e.cold == 0 {
		return nil
	}
	var out []int
	for i := e.hot.oldest; i >= 0 && len(out) < limit; i = e.ext[i].newer {
		if e.ext[i].set > applied {
			break // so are those that were written after it
		}
		if cold := e.ext[i].cold(); (cold || spare > 0) && e.cleanable(int(i), applied) {
			out = append(out, int(i))
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
			e.cool(i)
			e.ext[i].bit = false
			e.marked--
			e.drop(i)
			shrank = true
		}
	}
	return shrank
}

// SetAll sets all bits and has everything copied: the target has become another, which holds nothing of the volume. The
// caller makes them durable.
func (e *Extents) SetAll() {
	e.next = 0
	for i := range e.ext {
		x := &e.ext[i]
		if !x.bit {
			x.bit = true
			e.marked++
		}
		x.dirty = true
		e.drop(i)
		if e.copies && !x.copy {
			if x.cold() {
				e.cold--
			}
			x.copy, x.apart = true, false
			e.toCopy++
		}
	}
}
