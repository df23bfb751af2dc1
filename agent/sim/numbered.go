package sim

import (
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// incTruth is what one incarnation numbered.
type incTruth struct {
	*groupOracle
	vols map[wire.VolumeID]bool
	base []uint64   // the group's blocks when the first set opened, and what was folded since; of its volumes only
	log  []numbered // what is not folded
	sets []truthSet // the same, set by set
	at   []int32    // of each block: its place in the writes of the newest set, from 1 on; 0 for none
}

type numbered struct {
	seq wire.Seq // of the last update
	set wire.Set
	ups []wire.Update
}

// truthSet is what a set leaves in the blocks.
type truthSet struct {
	set    wire.Set
	last   wire.Seq
	count  int // entries of the log
	writes []truthWrite
}

type truthWrite struct {
	block int // of the group
	value uint64
}

// opened begins an incarnation's log.
func (o *oracle) opened(s *sourceGroup, inc wire.Incarnation) {
	if o.incs[inc] != nil {
		return
	}
	g := o.group(s.id)
	t := &incTruth{groupOracle: g, vols: map[wire.VolumeID]bool{}, base: make([]uint64, g.blocks), at: make([]int32, g.blocks)}
	for _, v := range s.vols {
		t.vols[v.id] = true
		copy(t.base[g.firstOf(v.id):], o.vols[v.id].now)
	}
	o.incs[inc] = t
}

// numbered takes a write into the log and the truth.
func (o *oracle) numbered(h *host, inc wire.Incarnation, set wire.Set, last wire.Seq, ups []wire.Update) {
	t := o.incs[inc]
	if t == nil {
		o.w.fail("host %d numbers in incarnation %d, which it never opened", h.id, inc)
		return
	}
	e := numbered{seq: last, set: set, ups: ups}
	t.append(e)
	if o.w.watch != nil {
		o.w.saw(h, newlyNumbered{inc, e})
	}
	for i := range ups {
		o.write(ups[i].Volume, &ups[i])
	}
}

// append takes an entry into the log.
func (t *incTruth) append(e numbered) {
	t.log = append(t.log, e)
	if k := len(t.sets); k == 0 || t.sets[k-1].set != e.set {
		if k > 0 {
			for _, w := range t.sets[k-1].writes {
				t.at[w.block] = 0
			}
		}
		t.sets = append(t.sets, truthSet{set: e.set})
	}
	s := &t.sets[len(t.sets)-1]
	s.last = e.seq
	s.count++
	for i := range e.ups {
		u := &e.ups[i]
		first := t.firstOf(u.Volume) + int(u.Offset/blockSize)
		for b := range int(u.Length / blockSize) {
			w := truthWrite{first + b, decodeBlock(u, uint32(b))}
			if at := t.at[w.block]; at > 0 {
				s.writes[at-1] = w
				continue
			}
			s.writes = append(s.writes, w)
			t.at[w.block] = int32(len(s.writes))
		}
	}
}

// logOf returns the log of the k-th set.
func (t *incTruth) logOf(k int) []numbered {
	from := 0
	for i := range k {
		from += t.sets[i].count
	}
	return t.log[from : from+t.sets[k].count]
}

// imageOf returns the image of the incarnation's volumes that lies in the group's blocks.
func (t *incTruth) imageOf(blocks []uint64) image {
	im := image{}
	for id := range t.vols {
		first := t.firstOf(id)
		im[id] = blocks[first : first+t.sizes[id]]
	}
	return im
}

// fold takes the sets up to one that count as a whole into the base.
func (t *incTruth) fold(inc *cluster.Incarnation, upTo wire.Set) {
	for len(t.sets) > 0 {
		s := &t.sets[0]
		if s.set > upTo || (inc.Sealed && s.last > inc.Seal) {
			return
		}
		for _, w := range s.writes {
			t.base[w.block] = w.value
			if len(t.sets) == 1 {
				t.at[w.block] = 0
			}
		}
		t.log, t.sets = t.log[s.count:], t.sets[1:]
	}
}
