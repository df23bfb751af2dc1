package sim

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"flotilla/agent/core"
	"flotilla/wire"

	"go.etcd.io/raft/v3/raftpb"
)

// device is a block device: an array of numbers, of which some writes are not yet flushed.
type device struct {
	now     []uint64         // as it reads
	durable []uint64         // what a power cut certainly leaves
	pending map[int][]uint64 // values written since the flush, any of which a power cut may leave
	flips   map[int]uint64   // blocks whose durable value has a flipped bit, and the numbers of the flips
}

func newDevice(blocks int) *device {
	return &device{now: make([]uint64, blocks), durable: make([]uint64, blocks), pending: map[int][]uint64{}}
}

func (d *device) write(block int, v uint64) {
	d.now[block] = v
	d.pending[block] = append(d.pending[block], v)
}

// junk fills the end of a device that is larger than its volume with what nobody may ever see.
func (d *device) junk(from int, of uint64) {
	for b := from; b < len(d.now); b++ {
		d.write(b, 0xbad<<40|of<<32|uint64(b))
	}
}

func (d *device) flush() {
	for b := range d.pending {
		d.durable[b] = d.now[b]
		delete(d.flips, b)
	}
	clear(d.pending)
}

// through makes some blocks durable, as a write with FUA does, and no others.
func (d *device) through(first, count int) {
	for b := first; b < first+count; b++ {
		d.durable[b] = d.now[b]
		delete(d.pending, b)
		delete(d.flips, b)
	}
}

// powerCut leaves of every unflushed block what it held before, or any of the values written since.
func (d *device) powerCut(r *rand.Rand) {
	blocks := make([]int, 0, len(d.pending))
	for b := range d.pending {
		blocks = append(blocks, b)
	}
	slices.Sort(blocks)
	for _, b := range blocks {
		vs := d.pending[b]
		if k := r.IntN(len(vs) + 1); k < len(vs) {
			d.durable[b] = vs[k]
			delete(d.flips, b)
		} else if d.flips[b] != 0 {
			d.flips[b] = flippedAnew // it was hidden
		}
	}
	clear(d.pending)
	copy(d.now, d.durable)
}

// record is a frame in a journal.
type record struct {
	id      uint64 // the ref
	set     wire.Set
	body    *wire.Body
	size    int64 // what it takes
	durable bool
	rotten  bool // it reads bad, which nobody knows before
	freed   bool // it is no longer in the journal
}

// journal is a component's: records in order, durable from the front.
type journal struct {
	h       *host
	life    uint64
	failing bool               // the next flush fails
	lost    bool               // nobody knows what it holds: a flush has failed, or a bad frame was read
	wiped   map[uint64]seqSets // what was durable when a life ended, for the oracle
	order   []*record          // ascending by id, and some that are freed
	freed   int                // of order
	bySet   map[wire.GroupID][]setRecords
	nextRef uint64
	held    seqSets // what is durable; nil when it is to be counted anew
	used    int64   // bytes
	rotten  int     // records that are
}

// setRecords are the records of one set of a group, where they are ascending by set.
type setRecords struct {
	set     wire.Set
	records []*record
}

// seqSets holds the seqs of incarnations, a bit for each.
type seqSets map[wire.Incarnation]seqSet

// seqSet holds seqs of one incarnation.
type seqSet []uint64

func (s seqSet) has(seq wire.Seq) bool {
	return seq/64 < wire.Seq(len(s)) && s[seq/64]&(1<<(seq%64)) != 0
}

// add takes all updates of a record.
func (s seqSets) add(r *record) {
	words := s[r.body.Incarnation]
	for i := range r.body.Updates {
		seq := r.body.Updates[i].Seq
		for seq/64 >= wire.Seq(len(words)) {
			words = append(words, 0)
		}
		words[seq/64] |= 1 << (seq % 64)
	}
	s[r.body.Incarnation] = words
}

// remove takes all updates of a record out.
func (s seqSets) remove(r *record) {
	words := s[r.body.Incarnation]
	for i := range r.body.Updates {
		seq := r.body.Updates[i].Seq
		words[seq/64] &^= 1 << (seq % 64)
	}
}

// records returns what the journal holds, in order.
func (j *journal) records() []*record {
	if j.freed > 0 {
		j.order = slices.DeleteFunc(j.order, func(r *record) bool { return r.freed })
		j.freed = 0
	}
	return j.order
}

// append takes a record that is not durable yet.
func (j *journal) append(r *record) {
	j.nextRef = r.id
	j.order = append(j.order, r)
	j.used += r.size
	j.file(r)
}

// file puts a record to those of its set.
func (j *journal) file(r *record) {
	sets := j.bySet[r.body.Group]
	at := len(sets)
	for at > 0 && sets[at-1].set >= r.set {
		at--
	}
	if at == len(sets) || sets[at].set != r.set {
		sets = slices.Insert(sets, at, setRecords{set: r.set})
		if j.bySet == nil {
			j.bySet = map[wire.GroupID][]setRecords{}
		}
		j.bySet[r.body.Group] = sets
	}
	sets[at].records = append(sets[at].records, r)
}

// durable returns what is durable here.
func (j *journal) durable() seqSets {
	if j.held == nil {
		j.held = seqSets{}
		for _, r := range j.records() {
			if r.durable {
				j.held.add(r)
			}
		}
	}
	return j.held
}

// heldIn returns what of an incarnation was durable here in a life: now, or when that life ended and the journal was wiped.
func (j *journal) heldIn(life uint64, inc wire.Incarnation) seqSet {
	if life != j.life {
		return j.wiped[life][inc]
	}
	return j.durable()[inc]
}

// wipe begins another life.
func (j *journal) wipe(life uint64) {
	if j.wiped == nil {
		j.wiped = map[uint64]seqSets{}
	}
	j.wiped[j.life] = j.durable()
	j.life, j.lost, j.failing = life, false, false
	j.replace(nil)
}

// replace has the journal hold other records.
func (j *journal) replace(records []*record) {
	j.order, j.freed, j.bySet, j.held, j.used, j.rotten = records, 0, nil, nil, 0, 0
	for _, r := range records {
		j.used += r.size
		if r.rotten {
			j.rotten++
		}
		j.file(r)
	}
	j.h.w.oracle.journalChanged()
}

// rot damages a record.
func (j *journal) rot(r *record) {
	if !r.rotten {
		r.rotten = true
		j.rotten++
		j.h.w.oracle.journalChanged()
	}
}

// ails reports whether the component is lost, or will be when it finds out.
func (j *journal) ails() bool { return j.lost || j.failing || j.rotten > 0 }

// free drops what is durable of the sets up to one. An update stands in records of one set only, so none of them is left.
func (j *journal) free(group wire.GroupID, upTo wire.Set) {
	sets := j.bySet[group]
	emptied := 0
	for i := range sets {
		s := &sets[i]
		if s.set > upTo {
			break
		}
		s.records = slices.DeleteFunc(s.records, func(r *record) bool {
			if r.durable {
				j.drop(r)
			}
			return r.durable
		})
		if len(s.records) == 0 && emptied == i {
			emptied++
		}
	}
	if emptied > 0 {
		clear(sets[:emptied])
		j.bySet[group] = sets[emptied:]
	}
	if j.freed > len(j.order)/2 {
		j.records()
	}
	j.h.w.oracle.freed(group, upTo)
}

// drop takes a durable record out.
func (j *journal) drop(r *record) {
	r.freed = true
	j.freed++
	j.used -= r.size
	if r.rotten {
		j.rotten--
	}
	if j.held != nil {
		j.held.remove(r)
	}
}

// flushed makes the records up to ref durable.
func (j *journal) flushed(ref uint64) {
	k := len(j.order)
	for k > 0 && (j.order[k-1].id > ref || !j.order[k-1].durable) {
		k--
	}
	for _, r := range j.order[k:] {
		if r.id > ref {
			break
		}
		r.durable = true
		if j.held != nil {
			j.held.add(r)
		}
		j.h.w.oracle.stored(j.h, r)
	}
}

// keep drops all other records.
func (j *journal) keep(which func(*record) bool) {
	j.replace(slices.DeleteFunc(j.records(), func(r *record) bool { return !which(r) }))
}

func (j *journal) find(ref uint64) *record {
	if k, ok := slices.BinarySearchFunc(j.order, ref, func(r *record, ref uint64) int { return cmp.Compare(r.id, ref) }); ok && !j.order[k].freed {
		return j.order[k]
	}
	return nil
}

// crash drops what was not flushed; of a process that merely died the tail may have reached the file.
func (j *journal) crash(r *rand.Rand, power bool) {
	records := j.records()
	k := 0
	for k < len(records) && records[k].durable {
		k++
	}
	tail := len(records) - k
	if tail > 0 {
		k += r.IntN(tail + 1) // torn somewhere: what stands before the tear is taken
	}
	for _, rec := range records[:k] {
		rec.durable = true
	}
	j.replace(records[:k])
}

// sizeOf returns what a frame takes in a journal.
func sizeOf(b *wire.Body) (n int64) {
	for i := range b.Updates {
		n += int64(len(b.Updates[i].Data)) + updateOverhead
	}
	return n
}

// controlLog is what Raft has made durable.
type controlLog struct{ boot core.Boot }

func (c *controlLog) save(rd core.Ready) {
	if rd.HardState != nil {
		c.boot.HardState = rd.HardState
	}
	if rd.Snapshot != nil {
		c.boot.Snapshot = rd.Snapshot
		at := rd.Snapshot.GetMetadata().GetIndex()
		if rd.Compact == 0 {
			c.boot.Entries = nil
		}
		c.boot.Entries = slices.Clone(c.boot.Entries[c.below(at+1):])
	}
	if len(rd.Entries) > 0 {
		if k := c.below(rd.Entries[0].GetIndex()); k < len(c.boot.Entries) {
			c.boot.Entries = slices.Clone(c.boot.Entries[:k]) // an earlier process was handed the others
		}
		c.boot.Entries = append(c.boot.Entries, rd.Entries...)
	}
}

// below counts the entries with a lower index. They are ascending.
func (c *controlLog) below(index uint64) int {
	k, _ := slices.BinarySearchFunc(c.boot.Entries, index, func(e *raftpb.Entry, index uint64) int { return cmp.Compare(e.GetIndex(), index) })
	return k
}

// bitsFile is the durable bits of a source volume, and what is kept of a resync, with what for; and the size that they are of.
type bitsFile struct {
	size    int64
	durable []bool
	kept    []bool
	by      keptFor
	copy    uint64 // of the volume, that they are of
}

// keptFor is the incarnation and the set for which the kept extents of a volume are.
type keptFor struct {
	inc wire.Incarnation
	set wire.Set
}

// cover reports whether a write to some extents may begin: all bits are durable, and none is kept.
func (b *bitsFile) cover(first, last int) bool {
	for i := first; i <= last; i++ {
		if !b.durable[i] || b.kept[i] {
			return false
		}
	}
	return true
}
