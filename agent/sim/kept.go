package sim

import (
	"math/rand/v2"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// What a primary's shell does so that a resync need not begin anew: it notes what was copied and is held, after a flush of the
// source (core.Extents). The notes are for one set of one incarnation in each volume, as they are for each sector on a disk.

// restoreKept takes what a disk says.
func (v *volume) restoreKept(b *bitsFile) {
	v.by = b.by
	for i, kept := range b.kept {
		if kept {
			v.ext.Restore(i)
		}
	}
}

// counts reports whether what is kept need not be copied by the next incarnation.
func (v *volume) counts(g *cluster.Group) bool {
	h := v.group.h
	upTo, ok := g.Kept(h.id)[v.by.inc]
	return ok && v.by.set <= upTo
}

// resume begins the copy of a new incarnation, and returns how many extents it has to copy.
func (v *volume) resume(open wire.Set) int {
	g := v.group.h.node.State().Groups[v.group.id]
	v.first = g.Volumes[v.id].CopiedAt == 0
	counts := !v.first && v.counts(g)
	todo, kept := v.ext.Resume(open, func(int) bool { return counts })
	v.group.h.w.stats.Resumed += kept
	return todo
}

// keptIn lists the kept ones of some extents, and keepAll takes the notes back that a write has taken away: a mutant's.
func (v *volume) keptIn(first, last int) (kept []int) {
	for i := first; i <= last; i++ {
		if v.ext.Kept(i) {
			kept = append(kept, i)
		}
	}
	return kept
}

func (v *volume) keepAll(extents []int) {
	for _, i := range extents {
		v.ext.Restore(i)
	}
}

// scheduleKeep notes what was copied in sets that are held.
func (s *sourceGroup) scheduleKeep() {
	h, w := s.h, s.h.w
	view, _ := h.node.View(s.id)
	if s.keeping || s.openSeen == 0 || view.Whole || view.HeldSet == 0 || view.HeldSet <= s.keptUpTo {
		return
	}
	inc, held, upTo := s.inc, view.HeldSet, view.HeldSet
	if w.opt.Mutants["kept-unheld"] {
		upTo = view.Open
	}
	cand, any := map[wire.VolumeID][]int{}, false
	for _, v := range s.vols {
		if !v.first {
			cand[v.id] = v.ext.Keepable(s.keptUpTo, upTo)
			any = any || len(cand[v.id]) > 0
		}
	}
	if !any {
		s.keptUpTo = held
		return
	}
	s.keeping = true
	alive := h.alive()
	w.after(h.disk(0, 5*time.Millisecond), "keep: flush", func() {
		if !alive() || s.inc != inc || h.broken() {
			s.keeping = false
			return
		}
		for _, v := range s.vols {
			if len(cand[v.id]) == 0 {
				continue
			}
			if !w.opt.Mutants["kept-without-flush"] {
				v.dev.flush()
			}
			if kept := v.ext.Keep(cand[v.id], upTo); len(kept) > 0 {
				v.by = keptFor{inc, held}
				w.stats.Kept += len(kept)
			}
		}
		s.keptUpTo = held
		h.saveBits(func() {
			s.keeping = false
			s.interrupt()
		})
	})
}

// Of every second run resyncs are slow, groups are suspended so that there are some, and they end early now and then: the
// primary dies, or suspends the group again. Chance would hardly ever have it so.
const (
	slowResync     = 250 * time.Millisecond // the longest that an extent of a resync takes then
	interruptsEach = 0.7
	interruptsMore = 4 * time.Second // that the run takes
)

// drawInterrupts draws from a stream of its own: other runs are what they are without it.
func (w *World) drawInterrupts() {
	r := rand.New(rand.NewPCG(w.opt.Seed, 0x726573756d6573))
	if r.IntN(2) == 0 {
		return
	}
	w.interrupts = r
	w.resyncTakes = span(r, slowResync/4, slowResync)
	for range 4 + r.IntN(5) {
		w.after(span(r, 2*time.Second, 2*time.Second+interruptsMore), "resync", func() {
			var groups []*sourceGroup
			for _, h := range w.hosts {
				if h.node != nil {
					groups = append(groups, h.groups...)
				}
			}
			if w.faults && len(groups) > 0 {
				groups[r.IntN(len(groups))].suspend()
			}
		})
	}
}

// takes returns the longest that the copy of an extent takes.
func (s *sourceGroup) takes() time.Duration {
	w := s.h.w
	for _, v := range s.vols {
		if w.interrupts == nil || (v.first && v.ext.ToCopy() > 0) {
			return w.copyTakes
		}
	}
	return w.resyncTakes
}

// quietFor is how long writers may be quiet after a group was suspended: what was written meanwhile is copied, and stays as
// it was copied.
const quietFor = 2 * time.Second

// suspend suspends the group for a while.
func (s *sourceGroup) suspend() {
	h, w := s.h, s.h.w
	w.trace("host %d suspends group %d", h.id, s.id)
	h.do(func(n *core.Node) { n.Suspend(h.time(), s.id) })
	alive := h.alive()
	quiet := w.interrupts.IntN(2) == 0
	w.after(span(w.interrupts, 10*time.Millisecond, time.Second), "unsuspend", func() {
		if quiet {
			w.quiet[s.id] = w.now + quietFor
		}
		if alive() {
			h.do(func(n *core.Node) { n.Unsuspend(h.time(), s.id) })
		}
	})
}

// interrupt ends the group's incarnation in the middle of a resync, perhaps.
func (s *sourceGroup) interrupt() {
	h, w := s.h, s.h.w
	r := w.interrupts
	if r == nil || !w.faults || r.Float64() >= interruptsEach || (h.backup && !w.mayLose(h, r)) {
		return
	}
	w.stats.Interrupted++
	s.writeKept()
	alive := h.alive()
	w.after(span(r, 0, 5*time.Millisecond), "interrupt", func() {
		if alive() {
			s.end()
		}
	})
}

// loseNext loses for a while what a primary sends after the end of a set, perhaps: that set is held soon, and what is copied
// meanwhile is not.
func (s *sourceGroup) loseNext() {
	h, w := s.h, s.h.w
	r := w.interrupts
	if r == nil || !w.faults || r.IntN(3) != 0 {
		return
	}
	d := span(r, 50*time.Millisecond, 300*time.Millisecond)
	w.after(4*time.Millisecond, "what is sent is lost", func() {
		for _, o := range w.hosts {
			if w.cuts[link{h.id, o.id}] < w.now+d {
				w.cut(h, o, w.now+d)
			}
		}
	})
}

// writeKept writes into an extent that is kept: in the last moment, so that the write may not be held.
func (s *sourceGroup) writeKept() {
	w := s.h.w
	for _, v := range s.vols {
		for i, kept := range s.h.bits[v.id].kept {
			if block := i * extentSize / blockSize; kept && block >= reserved && w.interrupts.IntN(2) == 0 {
				s.h.write(v.id, block, []uint64{w.oracle.value()}, wire.KindWrite, false, func(error) {})
				return
			}
		}
	}
}

// end ends the group's incarnation, by a suspend or with the primary.
func (s *sourceGroup) end() {
	h, w, r := s.h, s.h.w, s.h.w.interrupts
	if r.IntN(3) == 0 {
		s.suspend()
		return
	}
	w.stats.Kills++
	w.oracle.checkPoints()
	power := w.power && r.IntN(2) == 0
	if power {
		w.stats.PowerCuts++
	}
	h.kill(power)
	w.restartAfter(h, span(r, 20*time.Millisecond, time.Second))
}
