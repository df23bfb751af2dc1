package sim

import (
	"fmt"
	"math"
	"math/bits"
	"slices"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// foldedSet is what is left of a set's updates: of each block the last one, by (incarnation, seq).
type foldedSet struct {
	set    wire.Set
	writes []blockWrite
	at     []uint16 // of each block of the group: its place in writes, from 1 on; 0 for none
}

// blockWrite is the update that a block's content comes from.
type blockWrite struct {
	block   int // of the group
	value   uint64
	inc     wire.Incarnation
	seq     wire.Seq
	holders uint64 // the components that hold it, by their places
}

// add takes what an update leaves in a block, unless a later one was taken before. When the same update was taken before with
// other data it returns that, and false.
func (f *foldedSet) add(w blockWrite) (other uint64, same bool) {
	if f.at[w.block] == 0 {
		f.writes = append(f.writes, w)
		f.at[w.block] = uint16(len(f.writes))
		return 0, true
	}
	was := &f.writes[f.at[w.block]-1]
	switch {
	case was.inc == w.inc && was.seq == w.seq:
		was.holders |= w.holders
		return was.value, was.value == w.value
	case was.inc < w.inc || (was.inc == w.inc && was.seq < w.seq):
		*was = w
	}
	return 0, true
}

// foldedSets are the sets of a group above a certain one, without gaps.
type foldedSets struct {
	o     *groupOracle
	above wire.Set
	sets  []*foldedSet
	spare []*foldedSet
	clash string // of two records that hold different data under one seq
}

// reset forgets all sets.
func (fs *foldedSets) reset(above wire.Set) {
	fs.shift(len(fs.sets))
	fs.above, fs.clash = above, ""
}

// shift forgets the lowest sets.
func (fs *foldedSets) shift(n int) {
	for _, f := range fs.sets[:n] {
		for i := range f.writes {
			f.at[f.writes[i].block] = 0
		}
		f.writes = f.writes[:0]
	}
	fs.spare = append(fs.spare, fs.sets[:n]...)
	fs.sets = slices.Delete(fs.sets, 0, n)
	fs.above += wire.Set(n)
}

// of returns one of the sets.
func (fs *foldedSets) of(n wire.Set) *foldedSet {
	for fs.above+wire.Set(len(fs.sets)) < n {
		var f *foldedSet
		if k := len(fs.spare); k > 0 {
			f, fs.spare = fs.spare[k-1], fs.spare[:k-1]
		} else {
			f = &foldedSet{at: make([]uint16, fs.o.blocks)}
		}
		f.set = fs.above + wire.Set(len(fs.sets)) + 1
		fs.sets = append(fs.sets, f)
	}
	return fs.sets[n-fs.above-1]
}

// upTo returns the sets up to one.
func (fs *foldedSets) upTo(n wire.Set) []*foldedSet {
	return fs.sets[:max(0, min(len(fs.sets), int(n-min(n, fs.above))))]
}

// takeFrame takes the updates of a frame that count.
func (fs *foldedSets) takeFrame(limit wire.Seq, b *wire.Body, holder uint64) {
	f := fs.of(b.Set)
	var of wire.VolumeID
	var first int
	for i := range b.Updates {
		u := &b.Updates[i]
		if u.Seq > limit || u.Kind == wire.KindMark || u.Kind == wire.KindFolded || u.Kind == wire.KindCheck {
			continue
		}
		if of != u.Volume {
			of, first = u.Volume, fs.o.firstOf(u.Volume)
		}
		at := first + int(u.Offset/blockSize)
		for k := range int(u.Length / blockSize) {
			w := blockWrite{block: at + k, value: decodeBlock(u, uint32(k)), inc: b.Incarnation, seq: u.Seq, holders: holder}
			if was, ok := f.add(w); !ok && fs.clash == "" {
				fs.clash = fmt.Sprintf("seq %d of incarnation %d (set %d) stands as %#x and as %#x in the journals", u.Seq, b.Incarnation, b.Set, was, w.value)
			}
		}
	}
}

// stock is what all journals together hold of one group's sets that are not applied, folded as it comes: what a roll-forward takes
// is made of it without looking at every frame again. It depends on nothing but the durable records that are not rotten, and on
// the group's incarnations and their seals. Records that come are added before the next look; whatever takes one away (a crash, a
// new life, rot, a free above what is applied), and every change of an incarnation, has all of it made anew out of the journals.
// So a look sees what it would see in the journals themselves.
type stock struct {
	folded  foldedSets
	news    []storedRecord // became durable since the last look
	stale   bool           // it is to be made anew
	freed   wire.Set       // sets up to this one may be gone from journals
	incs    []countedInc   // as they were at the last look
	unknown bool           // it leaves out records of incarnations that the group did not have
}

// storedRecord is a record that became durable, and whose it is.
type storedRecord struct {
	r      *record
	holder uint64
}

// countedInc is up to which seq an incarnation counts.
type countedInc struct {
	id    wire.Incarnation
	limit wire.Seq
}

// countedIncs lists them, ascending.
func countedIncs(to []countedInc, g *cluster.Group) []countedInc {
	for _, inc := range g.Incs {
		c := countedInc{inc.ID, math.MaxUint64}
		if inc.Sealed {
			c.limit = inc.Seal
		}
		to = append(to, c)
	}
	return to
}

// limitOf returns up to which seq an incarnation counts.
func limitOf(incs []countedInc, id wire.Incarnation) (wire.Seq, bool) {
	for i := range incs {
		if incs[i].id == id {
			return incs[i].limit, true
		}
	}
	return 0, false
}

// holder is a component's bit among the holders of an update. What one without a bit holds is held by nobody, so that the roll looks
// into the journals.
func (h *host) holder() uint64 { return 1 << h.place }

// journalChanged notes that a journal has lost records, or that some read bad.
func (o *oracle) journalChanged() {
	for _, g := range o.groups {
		g.stock.stale = true
	}
}

// freed notes that a component has freed a group's sets.
func (o *oracle) freed(group wire.GroupID, upTo wire.Set) {
	s := &o.group(group).stock
	s.freed = max(s.freed, upTo)
}

// stored notes that a record has become durable.
func (o *oracle) stored(h *host, r *record) {
	s := &o.group(r.body.Group).stock
	s.news = append(s.news, storedRecord{r, h.holder()})
}

// look brings the stock up to date with the journals and with the group.
func (o *groupOracle) look(g *cluster.Group) {
	s := &o.stock
	o.incBuf = countedIncs(o.incBuf[:0], g)
	if !o.followsFrom(g) {
		s.folded.o = o
		s.folded.reset(g.Applied)
		s.stale, s.freed, s.unknown = false, 0, false
		s.news = s.news[:0]
		for _, h := range o.w.hosts {
			for _, r := range h.journal.records() {
				if r.durable && r.body.Group == o.id {
					s.news = append(s.news, storedRecord{r, h.holder()})
				}
			}
		}
	}
	s.incs, o.incBuf = o.incBuf, s.incs
	s.folded.shift(min(len(s.folded.sets), int(g.Applied-s.folded.above)))
	s.folded.above = g.Applied
	for _, n := range s.news {
		if n.r.set <= g.Applied || n.r.rotten {
			continue
		}
		limit, known := limitOf(s.incs, n.r.body.Incarnation)
		if !known {
			s.unknown = true
			continue
		}
		s.folded.takeFrame(limit, n.r.body, n.holder)
	}
	clear(s.news)
	s.news = s.news[:0]
}

// followsFrom reports whether what was folded so far is still so: no record of a set that is not applied has gone, and every
// incarnation counts as far as it did.
func (o *groupOracle) followsFrom(g *cluster.Group) bool {
	s := &o.stock
	if s.folded.o == nil || s.stale || s.freed > g.Applied || g.Applied < s.folded.above {
		return false
	}
	for _, was := range s.incs {
		if limit, ok := limitOf(o.incBuf, was.id); !ok || limit != was.limit {
			return false
		}
	}
	return len(o.incBuf) == len(s.incs) || !s.unknown
}

// heldBy returns the stock's sets up to one as some components hold them, nil when they do not hold every write that it has, or when
// a seq has different data: then what counts is to be found in their journals.
func (s *stock) heldBy(members uint64, last wire.Set) ([]*foldedSet, bool) {
	if s.folded.clash != "" {
		return nil, false
	}
	sets := s.folded.upTo(last)
	for _, f := range sets {
		for i := range f.writes {
			if f.writes[i].holders&members == 0 {
				return nil, false
			}
		}
	}
	return sets, true
}

// foldJournals folds what some members' journals hold of the sets up to one.
func (o *groupOracle) foldJournals(g *cluster.Group, members []*host, last wire.Set) []*foldedSet {
	fs := &o.anew
	fs.o = o
	fs.reset(g.Applied)
	for _, h := range members {
		for _, r := range h.journal.records() {
			if r.set <= g.Applied || r.set > last || !r.durable || r.rotten || r.body.Group != o.id {
				continue
			}
			if inc := g.Inc(r.body.Incarnation); inc != nil {
				limit := wire.Seq(math.MaxUint64)
				if inc.Sealed {
					limit = inc.Seal
				}
				fs.takeFrame(limit, r.body, h.holder())
			}
		}
	}
	if fs.clash != "" {
		o.w.fail("P1: %s", fs.clash)
	}
	return fs.upTo(last)
}

// sole returns the holder if it is the only one.
func sole(holders uint64) uint64 {
	if bits.OnesCount64(holders) == 1 {
		return holders
	}
	return 0
}
