package sim

import (
	"math/rand/v2"
	"slices"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// Damage is a bit that was flipped on a target behind everybody's back. It lies beside what the target holds, so that the
// oracle's images are what they would be without it: only a check sees it, until the block is written again for good.

// flippedAnew is the number of damage that comes to light again after a power cut: it is newer than any check.
const flippedAnew = ^uint64(0)

// damage flips a bit of what is durable in a block.
func (d *device) damage(b int, number uint64) {
	if d.flips == nil {
		d.flips = map[int]uint64{}
	}
	d.flips[b] = number
}

// damaged reports whether a block reads wrong.
func (d *device) damaged(b int) bool { return d.flips[b] != 0 && len(d.pending[b]) == 0 }

// reads returns what a block reads as, damage included.
func (d *device) reads(b int) uint64 {
	if d.damaged(b) {
		return d.now[b] ^ 1<<62
	}
	return d.now[b]
}

// flipBits damages some blocks of a target.
func (w *World) flipBits(r *rand.Rand) bool {
	o := w.oracle.groups[w.drawGroup(r)]
	ids := cluster.SortedKeys(o.sizes)
	vol := ids[r.IntN(len(ids))]
	_, v := w.newest().Volume(vol)
	h := w.host(v.Secondary)
	n := 0
	for range 1 + r.IntN(3) {
		b := r.IntN(o.sizes[vol])
		if d := h.targets[vol]; len(d.pending[b]) == 0 {
			w.damages++
			d.damage(b, w.damages)
			w.trace("a bit of block %d of the target of volume %d flips", b, vol)
			n++
		}
	}
	w.stats.Flips += n
	return n > 0
}

// sentID names an update.
type sentID struct {
	inc wire.Incarnation
	seq wire.Seq
}

// compared is what comparisons of one check met.
type compared struct{ whole, damaged, mending bool }

// compared notes what a comparison met: damage, outside of what its set writes there itself, and such that the set mends.
func (o *oracle) compared(id sentID, damaged, mending bool) {
	if o.comparisons == nil {
		o.comparisons = map[sentID]compared{}
	}
	c := o.comparisons[id]
	c.damaged, c.whole, c.mending = c.damaged || damaged, c.whole || !damaged, c.mending || mending
	o.comparisons[id] = c
}

// judgeVerdict holds what a primary is told against the truth: no check gives a false alarm, and none overlooks damage.
func (o *oracle) judgeVerdict(s *sourceGroup, p *checkPiece, verdict core.CheckVerdict) {
	c := o.comparisons[sentID{s.inc, p.seq}]
	switch {
	case verdict == core.CheckDiffers && !c.damaged:
		o.w.fail("a false alarm: check %d says that blocks %d to %d of volume %d differ (seq %d of incarnation %d, set %d)",
			s.check.number, p.first, p.first+p.count-1, p.v.id, p.seq, s.inc, p.set)
	case verdict == core.CheckSame && !c.whole:
		o.w.fail("check %d says that blocks %d to %d of volume %d are the same, and one of them was damaged (seq %d of incarnation %d)",
			s.check.number, p.first, p.first+p.count-1, p.v.id, p.seq, s.inc)
	}
}

// judgeCheck looks at the end of a primary's part: what was damaged from its beginning on, and is still, was found, and
// nothing is any more where that was to be repaired.
func (o *oracle) judgeCheck(s *sourceGroup, j *checkJob) {
	w := o.w
	w.trace("host %d ends check %d of group %d: %+v", s.h.id, j.number, s.id, j.tally)
	for _, p := range j.pieces {
		if p.unknown {
			w.stats.Unanswered++
			continue
		}
		if o.comparisons[sentID{s.inc, p.seq}].mending {
			continue // that set may not be written yet
		}
		_, v := w.newest().Volume(p.v.id)
		d := w.host(v.Secondary).targets[p.v.id]
		for b := p.first; b < p.first+p.count; b++ {
			if no := d.flips[b]; no > j.began || !d.damaged(b) {
				continue
			}
			listed := len(j.tally.Found) == cluster.MaxCheckFound || slices.ContainsFunc(j.tally.Found, func(f cluster.CheckFound) bool {
				return f.Volume == p.v.id && f.Offset == uint64(p.first)*blockSize
			})
			switch {
			case !listed:
				w.fail("check %d has ended, and does not list block %d of volume %d, which was damaged all the time", j.number, b, p.v.id)
			case j.repair:
				w.fail("check %d has ended and was to repair block %d of volume %d, which is damaged still", j.number, b, p.v.id)
			}
		}
	}
}

// recopy has the operator say that a target has become another, empty device.
func (w *World) recopy(r *rand.Rand) bool {
	o := w.oracle.groups[w.drawGroup(r)]
	g := o.now()
	ids := cluster.SortedKeys(g.Volumes)
	v := g.Volumes[ids[r.IntN(len(ids))]]
	if g.Phase != cluster.Replicating || v.Removed != nil {
		return false
	}
	w.recopies = true
	return w.ask(func(n *core.Node) {
		w.trace("asked of %d: copy volume %d anew", n.ID(), v.ID)
		n.Propose(cluster.Command{RecopyVolume: &cluster.RecopyVolume{Volume: v.ID}})
	})
}

// replaceTargets makes the targets empty whose copy was begun anew, as soon as anybody acts upon that: no later could it
// have been.
func (w *World) replaceTargets(st *cluster.State) {
	if !w.recopies {
		return
	}
	for _, id := range volumesOf(st) {
		_, v := st.Volume(id)
		h := w.host(v.Secondary)
		if m := h.mark(id); v.Copy > m.copy {
			m.copy, m.run = v.Copy, 0
			w.trace("the target of volume %d is another device now", id)
			h.targets[id] = newDevice(len(h.targets[id].now))
			h.openTarget(id)
			w.stats.Recopies++
		}
	}
}

// followCopies has everything of the volumes copied whose target is another than their bits are of.
func (s *sourceGroup) followCopies(g *cluster.Group) {
	for _, v := range s.vols {
		if vol := g.Volumes[v.id]; vol != nil && vol.Copy > v.copy {
			v.copy = vol.Copy
			if !s.h.w.opt.Mutants["recopy-keeps-bits"] {
				v.ext.SetAll()
			}
			s.h.saveBits(func() {})
		}
	}
}
