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
	twin    *twin // of all records of this body
	durable bool
	rotten  bool // it reads bad, which nobody knows before
}

// twin is what checkRoll knows of a body that several journals hold.
type twin struct {
	roll uint64 // in which it was taken last
	at   int    // its place there
}

// journal is a component's: records in order, durable from the front.
type journal struct {
	life    uint64
	failing bool               // the next flush fails
	lost    bool               // nobody knows what it holds: a flush has failed, or a bad frame was read
	wiped   map[uint64]seqSets // what was durable when a life ended, for the oracle
	records []*record          // ascending by id
	nextRef uint64
	held    seqSets // what is durable; nil when it is to be counted anew
	used    int64   // bytes
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

// durable returns what is durable here.
func (j *journal) durable() seqSets {
	if j.held == nil {
		j.held = seqSets{}
		for _, r := range j.records {
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
	j.life, j.records, j.held, j.lost, j.failing = life, nil, nil, false, false
	j.used = 0
}

// rotten reports whether a frame reads bad.
func (j *journal) rotten() bool {
	return slices.ContainsFunc(j.records, func(r *record) bool { return r.rotten })
}

// ails reports whether the component is lost, or will be when it finds out.
func (j *journal) ails() bool { return j.lost || j.failing || j.rotten() }

// free drops what is durable of the sets up to one. An update stands in records of one set only, so none of them is left.
func (j *journal) free(group wire.GroupID, upTo wire.Set) {
	j.records = slices.DeleteFunc(j.records, func(r *record) bool {
		gone := r.durable && r.set <= upTo && r.body.Group == group
		if gone && j.held != nil {
			j.held.remove(r)
		}
		return gone
	})
	j.count()
}

// flushed makes the records up to ref durable.
func (j *journal) flushed(ref uint64) {
	for k := len(j.records) - 1; k >= 0; k-- {
		r := j.records[k]
		if r.id > ref {
			continue
		}
		if r.durable {
			break
		}
		r.durable = true
		if j.held != nil {
			j.held.add(r)
		}
	}
}

// keep drops all other records.
func (j *journal) keep(which func(*record) bool) {
	j.records = slices.DeleteFunc(j.records, func(r *record) bool { return !which(r) })
	j.held = nil
	j.count()
}

func (j *journal) find(ref uint64) *record {
	if k, ok := slices.BinarySearchFunc(j.records, ref, func(r *record, ref uint64) int { return cmp.Compare(r.id, ref) }); ok {
		return j.records[k]
	}
	return nil
}

// crash drops what was not flushed; of a process that merely died the tail may have reached the file.
func (j *journal) crash(r *rand.Rand, power bool) {
	k := 0
	for k < len(j.records) && j.records[k].durable {
		k++
	}
	tail := len(j.records) - k
	if tail > 0 {
		k += r.IntN(tail + 1) // torn somewhere: what stands before the tear is taken
	}
	j.records, j.held = j.records[:k], nil
	for _, rec := range j.records {
		rec.durable = true
	}
	j.count()
}

// count adds up what the records take.
func (j *journal) count() {
	j.used = 0
	for _, r := range j.records {
		j.used += r.size()
	}
}

// size is what a record takes.
func (r *record) size() (n int64) {
	for i := range r.body.Updates {
		n += int64(len(r.body.Updates[i].Data)) + updateOverhead
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

// bitsFile is the durable bits of a source volume.
type bitsFile struct {
	durable []bool
	copy    uint64 // of the volume, that they are of
}
