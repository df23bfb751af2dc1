package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"flotilla/agent/core/cluster"
)

// sectorExtents is how many bits a sector holds: a disk writes it whole, or it reads as torn.
const sectorExtents = 8

// saveBits makes the bits, and what is kept, durable as they are when the write ends.
func (h *host) saveBits(then func()) {
	alive := h.alive()
	h.saves++
	h.w.after(h.disk(0, 3*time.Millisecond), "bits", func() {
		if !alive() {
			return
		}
		h.saves--
		for _, id := range cluster.SortedKeys(h.primary) {
			h.bits[id].save(h.primary[id])
		}
		then()
	})
}

// save makes all of it durable. Where the volume has grown the file is replaced as a whole.
func (b *bitsFile) save(v *volume) {
	b.size, b.copy = v.ext.Size(), v.copy
	more := make([]bool, v.ext.Len()-len(b.durable))
	b.durable, b.kept = append(b.durable, more...), append(b.kept, more...)
	b.saveKept(v)
	for i := range b.durable {
		b.durable[i] = v.ext.Bit(i)
	}
}

func (b *bitsFile) saveKept(v *volume) {
	b.by = v.by
	for i := range b.kept {
		b.kept[i] = v.ext.Kept(i)
	}
}

// tearing is a step of a write of bits: what it does, and what is there when the power goes in the middle of it.
type tearing struct {
	what        string
	write, tear func()
}

// tearBits ends a write of bits that is under way: what comes before the k-th step is written and what comes after it is not. With
// the power that one is torn: a torn sector of bits reads as all set, and then nothing of its volume is kept; of torn notes
// nothing is, see agent/primary/doc.go.
func (h *host) tearBits(power bool) {
	if h.saves == 0 {
		return
	}
	h.saves = 0
	r := rand.New(rand.NewPCG(h.w.opt.Seed, uint64(h.w.now)))
	var steps []tearing // for what differs from what is there
	for _, id := range cluster.SortedKeys(h.primary) {
		steps = append(steps, h.bits[id].steps(h.primary[id], h.w.opt.Mutants["torn-bits-clear"])...)
	}
	k := r.IntN(len(steps) + 1)
	for _, s := range steps[:k] {
		s.write()
	}
	if k < len(steps) && power {
		h.w.trace("%s are torn", steps[k].what)
		h.w.stats.Torn++
		steps[k].tear()
	}
}

// steps returns what a write of a volume's bits does, in its order: notes first.
func (b *bitsFile) steps(v *volume, clears bool) (steps []tearing) {
	name := fmt.Sprintf("of volume %d", v.id)
	if b.size != v.ext.Size() || b.copy != v.copy {
		return []tearing{{"bits " + name, func() { b.save(v) }, func() {}}} // another file takes this one's place
	}
	forget := func() { clear(b.kept) }
	for i := range b.kept {
		if b.by != v.by || b.kept[i] != v.ext.Kept(i) {
			steps = append(steps, tearing{"notes " + name, func() { b.saveKept(v) }, forget})
			break
		}
	}
	for first := 0; first < len(b.durable); first += sectorExtents {
		end := min(first+sectorExtents, len(b.durable))
		differs := false
		for i := first; i < end; i++ {
			differs = differs || b.durable[i] != v.ext.Bit(i)
		}
		if !differs {
			continue
		}
		set := func(bit func(i int) bool) func() {
			return func() {
				for i := first; i < end; i++ {
					b.durable[i] = bit(i)
				}
			}
		}
		torn := set(func(int) bool { return !clears })
		steps = append(steps, tearing{fmt.Sprintf("bits %d to %d %s", first, end-1, name), set(v.ext.Bit), func() { forget(); torn() }})
	}
	return steps
}
