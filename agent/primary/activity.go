package primary

import (
	"errors"
	"slices"
	"sync"

	"flotilla/agent/core"
	"flotilla/wire"
)

// activity is the activity log and bitmap of one volume: core.Extents, and the medium that keeps its bits.
//
// Two maps of bits must not be mixed up. What Extents says is what is to be on disk. onDisk says what is there for
// certain, whatever happens: a bit leaves it when a sector without it may be written, and enters it when a sector with
// it is durable. A write of the source needs onDisk; that another writer has set the bit in Extents and is still
// making it durable is not enough.
type activity struct {
	mu     sync.Mutex
	ext    *core.Extents
	onDisk bitset
	stale  bitset // sectors that may differ from Extents on disk
	behind int    // how many are
	at, to int    // the extents [at, to) are being copied, none while to is 0
	redo   bool   // one of them was dirtied meanwhile
	off    bool   // all bits are set on disk, so that no write makes any durable
	copy   uint64 // that the bits are of, see cluster.Volume
	grown  int64  // size of the volume that they are of, in bytes
	kept   keptLog

	running bool         // somebody makes bits durable
	next    *activeRound // those who come meanwhile share the next round

	// Only who runs a round uses these.
	file    *bitFile
	shape   bitShape
	secs    []int
	encoded []byte
}

// activeRound is one write to the medium that several wait for. One of them takes the token from lead.
type activeRound struct {
	lead chan struct{} // capacity 1
	done chan struct{}
	err  error
}

// openActivity reads the bits of a volume. The reason says why some or all of them were taken as set, and is nil for a
// volume that is new here. With off all bits are set on disk from the first write until settle: a write costs no flush,
// and a crash has everything copied.
func openActivity(m bitMedium, shape bitShape, off bool) (a *activity, fresh bool, reason error) {
	return openGrowing(m, shape, bitReach{finest: shape.extent}, off)
}

// openGrowing is openActivity for a volume whose bits may have been of another size.
func openGrowing(m bitMedium, shape bitShape, g bitReach, off bool) (a *activity, fresh bool, reason error) {
	file, bits, _, reason := openBitFile(m, shape, g)
	shape = file.shape
	n := shape.extents()
	a = &activity{onDisk: newBitset(n), stale: newBitset(shape.sectors()), off: off, copy: shape.copy, grown: shape.size, file: file, shape: shape}
	if bits == nil {
		a.ext = core.NewExtents(shape.size, shape.extent, nil)
	} else {
		a.ext = core.NewExtents(shape.size, shape.extent, bits.has)
	}
	if !file.whole() {
		copy(a.onDisk, bits)
	}
	if file.whole() || off {
		a.touchedLocked(0, n-1)
	}
	return a, bits == nil && reason == nil, reason
}

// touch announces a write and returns once a crash would not forget it. In any case one of numbered and dirtied follows.
func (a *activity) touch(off, length int64) error {
	a.mu.Lock()
	a.ext.Touch(off, length)
	first, last := a.ext.Range(off, length)
	durable := true
	for i := first; i <= last && durable; i++ {
		durable = a.onDisk.has(i)
	}
	if !durable {
		a.touchedLocked(first, last)
	}
	if !a.touchedKeptLocked(first, last) && durable {
		a.mu.Unlock()
		return nil
	}
	a.mu.Unlock()
	err := a.commit()
	if err != nil && a.covers(off, length) {
		return nil // what has failed was not needed
	}
	return err
}

// bitLocked returns a bit as it is to be on disk.
func (a *activity) bitLocked(i int) bool { return a.off || a.ext.Bit(i) }

// settle ends the time in which all bits are set on disk. The next commit makes them what they are.
func (a *activity) settle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.off {
		a.off = false
		a.touchedLocked(0, a.ext.Len()-1)
	}
}

// covers reports whether touch would not have to make anything durable.
func (a *activity) covers(off, length int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	first, last := a.ext.Range(off, length)
	for i := first; i <= last; i++ {
		if !a.onDisk.has(i) || (a.kept.file != nil && a.kept.onDisk.has(i)) {
			return false
		}
	}
	return true
}

// touchedLocked notes that the sectors of these extents are to be written.
func (a *activity) touchedLocked(first, last int) {
	for sec := first / sectorBits; sec <= last/sectorBits; sec++ {
		if !a.stale.has(sec) {
			a.stale.set(sec)
			a.behind++
		}
	}
}

// numbered ends a write whose updates are in the given set.
func (a *activity) numbered(off, length int64, set wire.Set) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ext.Numbered(off, length, set)
}

// dirtied ends a write that went into no set. It reports whether a running copy has more to do by it.
func (a *activity) dirtied(off, length int64) (more bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ext.Dirtied(off, length)
	if first, last := a.ext.Range(off, length); first < a.to && a.at <= last {
		a.redo = true // a part of it may have been read before
	}
	return a.ext.ToCopy() > 0
}

// commit returns when the bits, as they are now, are durable.
func (a *activity) commit() error {
	a.mu.Lock()
	if !a.running {
		a.running = true
		a.mu.Unlock()
		return a.run()
	}
	if a.next == nil {
		a.next = &activeRound{lead: make(chan struct{}, 1), done: make(chan struct{})}
	}
	r := a.next
	a.mu.Unlock()
	select {
	case <-r.done:
	case <-r.lead:
		r.err = a.run()
		close(r.done)
	}
	return r.err
}

// run writes the stale sectors and hands over to the next round. Only who set running, or has the token, calls it.
//
// What is kept goes first. If that fails bits are not made anew: those of this version would have what lies beside them be
// trusted.
func (a *activity) run() error {
	a.mu.Lock()
	a.gatherLocked()
	a.gatherKeptLocked()
	a.mu.Unlock()
	var notes, err error
	if len(a.kept.secs) > 0 {
		notes = a.kept.file.write(a.kept.secs, a.kept.encoded)
	}
	bits := notes == nil || !a.file.whole()
	if bits && len(a.secs) > 0 {
		err = a.file.write(a.secs, a.encoded)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keptWrittenLocked(notes)
	for k, sec := range a.secs {
		if err != nil || !bits {
			a.touchedLocked(a.shape.first(sec), a.shape.first(sec))
			continue
		}
		content := a.encoded[k*bitSector+bitSectorHead:]
		for i := a.shape.first(sec); i < a.shape.behind(sec); i++ {
			if bitAt(content, i-a.shape.first(sec)) {
				a.onDisk.set(i)
			}
		}
	}
	err = errors.Join(notes, err)
	if a.next == nil {
		a.running = false
		return err
	}
	a.next.lead <- struct{}{}
	a.next = nil
	return err
}

// gatherLocked encodes what is to be written. From here on a bit that is clear is no longer certain to be set on disk.
func (a *activity) gatherLocked() {
	a.secs, a.encoded = a.secs[:0], a.encoded[:0]
	all := a.file.whole()
	if a.copy != a.file.shape.copy || a.grown != a.file.shape.size {
		a.shape.copy, a.shape.size = a.copy, a.grown
		a.file.reshape(a.shape)
		all = true
	}
	if a.behind == 0 && !all {
		return
	}
	for sec := range a.shape.sectors() {
		if !all && !a.stale.has(sec) {
			continue
		}
		a.secs = append(a.secs, sec)
		a.encoded = a.shape.appendSector(a.encoded, sec, a.file.key, a.bitLocked)
		for i := a.shape.first(sec); i < a.shape.behind(sec); i++ {
			if !a.bitLocked(i) {
				a.onDisk.clear(i)
			}
		}
		a.stale.clear(sec)
	}
	a.behind = 0
}

// detach forgets the sets of an incarnation that ended.
func (a *activity) detach() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at, a.to = 0, 0
	a.kept.inc = 0
	a.ext.Detach()
}

// nextCopy returns the next extents to copy, n in a row and limit at most, and their range. copied, or skip, follows.
func (a *activity) nextCopy(limit int) (first, n int, off, length int64, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if first, n, ok = a.ext.NextRun(limit); !ok {
		return 0, 0, 0, 0, false
	}
	off, _ = a.ext.Span(first)
	last, length := a.ext.Span(first + n - 1)
	a.at, a.to, a.redo = first, first+n, false
	return first, n, off, last + length - off, true
}

// copied ends the copy of n extents, unless one was dirtied meanwhile, or the incarnation for which they were copied has
// ended: then they are copied again.
func (a *activity) copied(first, n int, set wire.Set) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := first; i < min(first+n, a.to) && !a.redo; i++ {
		a.ext.Copied(i, set)
	}
	a.at, a.to, a.redo = 0, 0, false
}

// skip leaves extents to be copied another time.
func (a *activity) skip() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at, a.to, a.redo = 0, 0, false
}

// putAside leaves an extent that is being copied and can not be read, and has the copy go on without it.
func (a *activity) putAside(i int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at <= i && i < a.to { // not after the end of its incarnation
		a.ext.PutAside(i)
	}
	a.at, a.to, a.redo = 0, 0, false
}

// aside returns how many extents are put aside, and the ranges of the first ones.
func (a *activity) aside(limit int) (n int, ranges []Range) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, first := a.ext.Aside(limit)
	for _, i := range first {
		off, length := a.ext.Span(i)
		ranges = append(ranges, Range{off, length})
	}
	return n, ranges
}

// recall has what was put aside copied again.
func (a *activity) recall() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ext.Recall()
}

// toCopy returns the bytes still to be copied, and marked those that a crash would have copied.
func (a *activity) toCopy() (left, marked int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if marked = int64(a.ext.Marked()) * a.shape.extent; a.off {
		marked = a.grown
	}
	return int64(a.ext.ToCopy()) * a.shape.extent, marked
}

// clean clears the bits of extents whose updates are all applied, but for keep of them. flush makes the source durable
// and is called only when there is something to clear. The cleared bits get to the disk with the next commit.
func (a *activity) clean(applied wire.Set, keep, limit int, flush func() error) (cleared int, err error) {
	a.mu.Lock()
	candidates := a.ext.Clean(applied, keep, limit)
	a.mu.Unlock()
	if len(candidates) == 0 {
		return 0, nil
	}
	if err := flush(); err != nil {
		return 0, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.ext.Marked()
	if a.ext.Cleared(candidates, applied) && !a.off {
		for _, i := range slices.Compact(sectorsOf(candidates)) {
			a.touchedLocked(i*sectorBits, i*sectorBits)
		}
		for _, i := range candidates {
			if !a.ext.Kept(i) {
				a.touchedKeptLocked(i, i)
			}
		}
	}
	return before - a.ext.Marked(), nil
}

func sectorsOf(extents []int) []int {
	secs := make([]int, len(extents))
	for k, i := range extents {
		secs[k] = i / sectorBits
	}
	return secs
}

// close ends the use of the medium; what is not committed is lost, to the safe side. Nobody may be inside any more.
func (a *activity) close() error { return errors.Join(a.file.medium.close(), a.kept.close()) }

// remove ends the use of the medium and takes the bits away.
func (a *activity) remove() error { return errors.Join(a.kept.remove(), a.file.medium.remove()) }
