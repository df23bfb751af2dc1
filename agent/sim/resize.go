package sim

import (
	"math/rand/v2"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// growSlack is how many blocks a volume may grow by: over the end of an extent, and of a portion.
const growSlack = 20

// offers returns how many blocks of a volume its primary offers to clients.
func (h *host) offers(id wire.VolumeID) int {
	_, v := h.node.State().Volume(id)
	return blocksOf(v)
}

// enlarge asks for a larger volume through any living host. What is asked is not repeated.
func (w *World) enlarge(r *rand.Rand) bool {
	st := w.newest()
	ids := volumesOf(st)
	id := ids[r.IntN(len(ids))]
	by := 1 + r.IntN(growSlack)
	g, v := st.Volume(id)
	size := v.Reach() + int64(by)*blockSize
	if p := w.host(v.Primary); g.Phase != cluster.Replicating || v.Removed != nil || size > int64(len(p.sources[id].now))*blockSize {
		return false
	}
	return w.ask(func(n *core.Node) {
		w.trace("asked of %d: volume %d is to have %d bytes", n.ID(), id, size)
		n.Propose(cluster.Command{ResizeVolume: &cluster.ResizeVolume{Volume: id, Size: size}})
	})
}

// grower is the growth of one volume, as the primary's shell does it.
type grower struct {
	s     *sourceGroup
	v     *volume
	to    int64
	alive func() bool
}

// follow begins the growth that the state asks for.
func (s *sourceGroup) follow(v *volume) {
	_, vol := s.h.node.State().Volume(v.id)
	if vol == nil || vol.Grow == 0 || v.grows || vol.Removed != nil {
		return
	}
	v.grows = true
	g := &grower{s: s, v: v, to: vol.Grow, alive: s.h.alive()}
	g.after(0, g.zero)
}

// after does a step later, unless the process or the volume has ended by then.
func (g *grower) after(least time.Duration, step func()) {
	w := g.s.h.w
	w.after(least+w.between(0, 5*time.Millisecond), "grow", func() {
		if g.alive() && g.s.h.primary[g.v.id] == g.v {
			step()
		}
	})
}

// zero makes the new range of the source zero, and flushes it.
func (g *grower) zero() {
	h := g.s.h
	if h.broken() {
		g.after(50*time.Millisecond, g.zero)
		return
	}
	if !h.w.opt.Mutants["grow-not-zeroed"] {
		for b := int(g.v.ext.Size() / blockSize); b < int(g.to/blockSize); b++ {
			g.v.dev.write(b, 0)
		}
	}
	g.after(h.disk(0, 2*time.Millisecond), func() {
		if h.broken() {
			g.zero()
			return
		}
		if !h.w.opt.Mutants["grow-not-flushed"] {
			g.v.dev.flush()
		}
		g.cut(0.1)
		g.number()
	})
}

// number numbers zeroes for the new range, and again in another incarnation.
func (g *grower) number() {
	h, s := g.s.h, g.s
	from, to := int(g.v.ext.Size()/blockSize), int(g.to/blockSize)
	if from >= to {
		g.save() // an earlier process has come so far
		return
	}
	if s.openSeen == 0 {
		g.after(5*time.Millisecond, g.number)
		return
	}
	ups := h.updates(g.v.id, from, make([]uint64, to-from), wire.KindZero)
	inc, seq, err := s.submit(ups)
	h.follow()
	if err != nil {
		g.after(time.Millisecond, g.number)
		return
	}
	view, _ := h.node.View(s.id)
	h.w.oracle.numbered(h, inc, view.Open, seq, ups)
	set := view.Open
	h.do(func(*core.Node) {})
	g.cut(0.1)
	g.await(inc, set)
}

// await waits until the zeroes are applied.
func (g *grower) await(inc wire.Incarnation, set wire.Set) {
	switch {
	case g.s.inc != inc:
		g.number()
	case g.s.h.node.State().Groups[g.s.id].Applied >= set, g.s.h.w.opt.Mutants["grow-unapplied"]:
		g.v.ext.Grow(g.to)
		g.save()
	default:
		g.after(time.Millisecond, func() { g.await(inc, set) })
	}
}

// save makes the bits durable, with their new size.
func (g *grower) save() {
	g.s.h.saveBits(func() {
		g.cut(0.5)
		g.tell()
	})
}

// tell tells the state, until it has the size or wants another.
func (g *grower) tell() {
	h := g.s.h
	if h.primary[g.v.id] != g.v {
		return
	}
	_, vol := h.node.State().Volume(g.v.id)
	if vol.Grow != g.to {
		g.v.grows = false
		if vol.Size >= g.to {
			h.w.stats.Grown++
		}
		g.s.follow(g.v)
		return
	}
	h.do(func(n *core.Node) {
		n.Propose(cluster.Command{GrowVolume: &cluster.GrowVolume{Volume: g.v.id, Size: g.to}})
	})
	g.after(20*time.Millisecond, g.tell)
}

// cut takes the primary's power soon after a step, with probability p, where power is lost at all.
func (g *grower) cut(p float64) {
	h, w := g.s.h, g.s.h.w
	r := w.growCuts
	if !w.power || !w.faults || r.Float64() >= p || (h.backup && !w.mayLose(h, r)) {
		return
	}
	alive := h.alive()
	w.after(span(r, 0, 5*time.Millisecond), "grow: power cut", func() {
		if alive() {
			w.stats.Kills++
			w.stats.PowerCuts++
			w.stats.GrowCuts++
			w.oracle.checkPoints()
			h.kill(true)
			w.restartAfter(h, span(r, 20*time.Millisecond, time.Second))
		}
	})
}
