package sim

import (
	"math/rand/v2"
	"time"

	"flotilla/agent/core/cluster"
)

// sectorExtents is how many bits a sector holds: a disk writes it whole, or it reads as torn.
const sectorExtents = 8

// saveBits makes the bits durable as they are when the write ends.
func (h *host) saveBits(then func()) {
	alive := h.alive()
	h.saves++
	h.w.after(h.disk(0, 3*time.Millisecond), "bits", func() {
		if !alive() {
			return
		}
		h.saves--
		for _, id := range cluster.SortedKeys(h.primary) {
			v := h.primary[id]
			for i := range h.bits[id].durable {
				h.bits[id].durable[i] = v.ext.Bit(i)
			}
			h.bits[id].copy = v.copy
		}
		then()
	})
}

// tearBits ends a write of bits that is under way: the sectors before the k-th are written and those after it are not. With
// the power that one is torn, and then all of its bits count as set, see agent/primary/doc.go.
func (h *host) tearBits(power bool) {
	if h.saves == 0 {
		return
	}
	h.saves = 0
	r := rand.New(rand.NewPCG(h.w.opt.Seed, uint64(h.w.now)))
	type sector struct {
		v     *volume
		first int
	}
	var sectors []sector // that differ from what is there
	for _, id := range cluster.SortedKeys(h.primary) {
		v, durable := h.primary[id], h.bits[id].durable
		for i := range durable {
			if n := len(sectors); durable[i] != v.ext.Bit(i) && (n == 0 || sectors[n-1].v != v || sectors[n-1].first+sectorExtents <= i) {
				sectors = append(sectors, sector{v, i / sectorExtents * sectorExtents})
			}
		}
	}
	k := r.IntN(len(sectors) + 1)
	for n, s := range sectors[:min(k+1, len(sectors))] {
		durable := h.bits[s.v.id].durable
		for i := s.first; i < min(s.first+sectorExtents, len(durable)); i++ {
			switch {
			case n < k:
				durable[i] = s.v.ext.Bit(i)
			case power:
				durable[i] = !h.w.opt.Mutants["torn-bits-clear"]
			}
		}
		if n == k && power {
			h.w.trace("bits %d to %d of volume %d are torn", s.first, s.first+sectorExtents-1, s.v.id)
			h.w.stats.Torn++
		}
	}
}
