package primary

import (
	"fmt"

	"flotilla/wire"
)

// keptLog is what activity makes durable beside the bits: which of the extents whose bit is set need not be copied again
// (core.Extents says when that is), and for which incarnation and set they are kept, sector by sector.
//
// It lies in a file of its own, also where the bits lie at the end of the device, for there is no room behind them on devices
// that were formatted before. Bits and notes need not be written in one step: a note only counts with its bit, and
// a lost one costs a copy. What must not be is a note that stays when its extent is written; so activity.touch waits until
// none can be on disk, and the notes go before the bits wherever both are made anew.
//
// activity.mu guards it, but for file, secs and encoded, which who runs a round uses.
type keptLog struct {
	by     []keptFor // of each sector, as it is to be on disk
	onDisk bitset    // extents that may be kept on disk, whatever happens
	stale  bitset    // sectors that may differ on disk
	behind int       // how many are

	inc  wire.Incarnation // that copies, 0 for none
	upTo wire.Set         // what was copied in the sets up to this one was looked at

	file    *keptFile // nil where nothing is kept
	secs    []int
	encoded []byte
}

// keptFile is the file. One goroutine at a time uses it.
type keptFile struct {
	medium bitMedium
	key    uint32
	there  bool // there is a file
	anew   bool // what is in it is not known, or of no use: all of it must be written
}

// openKept reads what is kept, of bits that were just opened. What it can not read or trust counts for nothing; the error says
// why, and is for people.
func (a *activity) openKept(m bitMedium) error {
	k, n := &a.kept, a.shape.keptSectors()
	k.by, k.onDisk, k.stale = make([]keptFor, n), newBitset(a.shape.extents()), newBitset(n)
	k.file = &keptFile{medium: m, key: a.file.key}
	raw, err := m.load(n * bitSector)
	if raw == nil && err == nil {
		return nil
	}
	k.file.there = true
	// Bits that were not written as these are, or not by this version, were written by somebody who did not touch what is
	// kept. Where all bits are set on disk no write touches anything.
	bad := n
	if err == nil && !a.file.whole() && !a.off {
		bad = 0
		for sec := range n {
			var by keptFor
			var bits []byte
			ok := (1+sec)*bitSector <= len(raw)
			if ok {
				by, bits, ok = parseKept(raw[sec*bitSector:][:bitSector], sec, k.file.key)
			}
			if !ok {
				bad++
				continue
			}
			k.by[sec] = by
			for i := a.shape.keptFirst(sec); i < a.shape.keptBehind(sec); i++ {
				if bitAt(bits, i-a.shape.keptFirst(sec)) {
					a.ext.Restore(i)
					k.onDisk.set(i)
				}
			}
		}
	}
	if bad > 0 {
		k.file.anew = true
		for i := range a.shape.extents() {
			k.onDisk.set(i) // until it was written
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("read what a resync has copied: %w", err)
	case bad > 0 && bad < n:
		return fmt.Errorf("read what a resync has copied, %v: %d of %d sectors are damaged", m, bad, n)
	}
	return nil
}

// touchedKeptLocked notes that the sectors of those of these extents are to be written that may be kept on disk, and reports
// whether any is.
func (a *activity) touchedKeptLocked(first, last int) (any bool) {
	k := &a.kept
	for i := first; i <= last && k.file != nil; i++ {
		if !k.onDisk.has(i) {
			continue
		}
		any = true
		k.touched(i / keptSectorBits)
	}
	return any
}

func (k *keptLog) touched(sec int) {
	if !k.stale.has(sec) {
		k.stale.set(sec)
		k.behind++
	}
}

// gatherKeptLocked encodes what is to be written. From here on an extent that is kept may be so on disk.
func (a *activity) gatherKeptLocked() {
	k := &a.kept
	k.secs, k.encoded = k.secs[:0], k.encoded[:0]
	if k.file == nil {
		return
	}
	if key := a.file.key; key != k.file.key {
		k.file.key, k.file.anew = key, k.file.there
	}
	switch {
	case !k.file.anew && k.behind == 0:
		return
	case !k.file.there && a.ext.Keeps() == 0:
		clear(k.stale)
		k.behind = 0
		return
	}
	for sec := range a.shape.keptSectors() {
		if !k.file.anew && k.file.there && !k.stale.has(sec) {
			continue
		}
		k.secs = append(k.secs, sec)
		k.encoded = a.shape.appendKept(k.encoded, sec, k.file.key, k.by[sec], a.ext.Kept)
		for i := a.shape.keptFirst(sec); i < a.shape.keptBehind(sec); i++ {
			if a.ext.Kept(i) {
				k.onDisk.set(i)
			}
		}
		k.stale.clear(sec)
	}
	k.behind = 0
}

// keptWrittenLocked takes in how the write of what was gathered has ended.
func (a *activity) keptWrittenLocked(err error) {
	k := &a.kept
	if err != nil && !k.file.there {
		clear(k.onDisk)
	}
	for n, sec := range k.secs {
		if err != nil {
			k.touched(sec)
			continue
		}
		content := k.encoded[n*bitSector+keptSectorHead:]
		first := a.shape.keptFirst(sec)
		for i := first; i < a.shape.keptBehind(sec); i++ {
			if !bitAt(content, i-first) {
				k.onDisk.clear(i)
			}
		}
	}
}

// write makes sectors durable, all of them where the file is not there or to be made anew.
func (f *keptFile) write(secs []int, encoded []byte) error {
	if f.anew || !f.there {
		err := f.medium.replace(encoded)
		if err == nil {
			f.there, f.anew = true, false
			return nil
		}
		if !f.there { // a full disk: it is no reason to fail a write, unless the file came to be
			raw, unread := f.medium.load(1)
			f.there = raw != nil || unread != nil
		}
		f.anew = f.there
		return fmt.Errorf("make the log of what is kept anew: %w", err)
	}
	err := writeRuns(f.medium, secs, encoded, 0)
	if err == nil {
		err = f.medium.sync()
	}
	if err == nil {
		return nil
	}
	f.anew = true
	if closing := f.medium.abandon(); closing != nil {
		return fmt.Errorf("write the log of what is kept, %v: %w; then: %w", f.medium, err, closing)
	}
	return fmt.Errorf("write the log of what is kept, %v: %w", f.medium, err)
}

// resume begins the copy of a new incarnation, whose open set is the given one. It returns the bytes to copy, and those that
// were copied before and need not be again; with may not set everything is copied.
func (a *activity) resume(inc wire.Incarnation, open wire.Set, by *keptBy, may bool) (todo, kept int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at, a.to = 0, 0
	k := &a.kept
	had := a.ext.Keeps()
	counting := make([]bool, len(k.by))
	for sec, f := range k.by {
		counting[sec] = may && !a.off && by.counts(f)
	}
	toCopy, keeps := a.ext.Resume(open, func(i int) bool { return counting[i/keptSectorBits] })
	if keeps != had {
		for sec := range k.by {
			if !counting[sec] {
				a.touchedKeptLocked(a.shape.keptFirst(sec), a.shape.keptBehind(sec)-1)
			}
		}
	}
	if inc != 0 {
		k.inc, k.upTo = inc, open-1
	}
	return int64(toCopy) * a.shape.extent, int64(keeps) * a.shape.extent
}

// keep notes that what an incarnation has copied in the sets up to one, which are held, need not be copied again if it was not
// written since. flush makes the source durable and is called only when there is something to note. The notes get to the
// disk with the next commit.
func (a *activity) keep(inc wire.Incarnation, held wire.Set, flush func() error) (kept int, err error) {
	a.mu.Lock()
	k := &a.kept
	if k.file == nil || a.off || inc == 0 || k.inc != inc || held <= k.upTo {
		a.mu.Unlock()
		return 0, nil
	}
	candidates := a.ext.Keepable(k.upTo, held)
	if len(candidates) == 0 {
		k.upTo = held
	}
	a.mu.Unlock()
	if len(candidates) == 0 {
		return 0, nil
	}
	if err := flush(); err != nil {
		return 0, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if k.inc != inc {
		return 0, nil
	}
	// Everything else that is kept in the sector counts in this incarnation, or it would have been dropped when it began.
	for _, i := range a.ext.Keep(candidates, held) {
		k.by[i/keptSectorBits] = keptFor{inc, held}
		k.touched(i / keptSectorBits)
		kept++
	}
	k.upTo = held
	return kept, nil
}

// resyncs returns the bytes that the next incarnation of this run of the agent copies, and whether that is known: what is
// kept may count or not as long as it is not recorded where its incarnation has ended.
func (a *activity) resyncs(by *keptBy) (bytes int64, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.ext.Marked()
	if a.ext.Keeps() == 0 || a.off {
		return int64(n) * a.shape.extent, true
	}
	for sec, f := range a.kept.by {
		first, behind := a.shape.keptFirst(sec), a.shape.keptBehind(sec)
		keeps := 0
		for i := first; i < behind; i++ {
			if a.ext.Kept(i) {
				keeps++
			}
		}
		switch {
		case keeps == 0:
		case by.counts(f):
			n -= keeps
		case by.undecided != nil && by.undecided(f.inc):
			return 0, false
		}
	}
	return int64(n) * a.shape.extent, true
}

// remove takes the file away.
func (k *keptLog) remove() error {
	if k.file == nil {
		return nil
	}
	return k.file.medium.remove()
}

func (k *keptLog) close() error {
	if k.file == nil {
		return nil
	}
	return k.file.medium.close()
}
