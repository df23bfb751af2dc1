package sim

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"testing"
	"testing/cryptotest"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// powerCuts takes the power from a primary under load, again and again. After each cut source and target become equal, and
// what is copied for that is what the activity log says, which is bounded by what an onlooker knows to be written and not
// applied, and by the extents that may stay hot.
type powerCuts struct {
	w       *World
	h       *host
	o       *groupOracle
	applied []appliedAt
}

type appliedAt struct {
	at  time.Duration
	set wire.Set
}

const (
	cutHot      = 8 // the extents of a volume that may stay hot, and an eighth more
	cutCleaned  = 100 * time.Millisecond
	cutExtents  = 512 // of each of two volumes
	cutsMutant  = 150
	cutsOfATest = 100
)

// cutOf is what one cut cost, in extents.
type cutOf struct {
	bits   int // durable at the cut
	bound  int
	later  int // written by the application before there was an incarnation again
	copied int
}

func newPowerCuts(t *testing.T, seed uint64, mutants map[string]bool) *powerCuts {
	cryptotest.SetGlobalRandom(t, seed)
	w := newWorld(Options{Seed: seed, Mutants: mutants})
	w.maxDelay, w.power, w.hot, w.copyTakes = time.Millisecond, true, cutHot, time.Millisecond
	w.build(shape{components: 3, primaries: 1, mode: cluster.Async, period: 100, sizes: []int64{cutExtents * extentSize, cutExtents * extentSize}})
	for _, h := range w.hosts {
		h.start()
	}
	w.makeClients(w.oracle.last)
	c := &powerCuts{w: w, h: w.source(), o: w.oracle.group(w.group)}
	var sample func()
	sample = func() {
		c.applied = append(c.applied, appliedAt{w.now, c.o.now().Applied})
		w.after(10*time.Millisecond, "sample", sample)
	}
	sample()
	return c
}

// rest stops the writers and runs until source and target are equal, and every bit was cleared that may be.
func (c *powerCuts) rest() error {
	w := c.w
	w.writing = false
	for deadline := w.now + settleWithin; ; {
		if w.runUntil(w.now + 300*time.Millisecond); w.failure != nil || w.oracle.settled() {
			w.runUntil(w.now + 500*time.Millisecond)
			return w.failure
		}
		if w.now > deadline {
			return fmt.Errorf("it does not come to rest: %s", w.oracle.unsettled())
		}
	}
}

func (c *powerCuts) write() {
	c.w.writing = true
	for _, cl := range c.w.clients {
		if len(cl.slots) > 0 {
			cl.next()
		} else {
			cl.noise(c.h)
		}
	}
}

// touched is a set of extents.
type touched map[touchedExtent]bool

type touchedExtent struct {
	v wire.VolumeID
	i uint64
}

// add takes a range of bytes in.
func (in touched) add(v wire.VolumeID, off, end uint64) {
	for i := off / extentSize; i <= (end-1)/extentSize; i++ {
		in[touchedExtent{v, i}] = true
	}
}

// dirty counts the extents of what was written and may not be applied and cleared by now.
func (c *powerCuts) dirty() int {
	k := len(c.applied) - 1
	for k > 0 && c.applied[k].at > c.w.now-cutCleaned {
		k--
	}
	in := touched{}
	for _, e := range c.o.incs[c.h.groups[0].inc].log {
		if e.set > c.applied[k].set {
			for _, u := range e.ups {
				in.add(u.Volume, u.Offset, u.End())
			}
		}
	}
	for id, v := range c.h.primary { // writes under way
		for b := range v.locked {
			in.add(id, uint64(b)*blockSize, uint64(b+1)*blockSize)
		}
	}
	return len(in)
}

// cut takes the power at some moment, every other time while bits are being written, and brings the host back.
func (c *powerCuts) cut(n int) (out cutOf, err error) {
	w, h := c.w, c.h
	c.write()
	w.runUntil(w.now + w.between(300*time.Millisecond, 1500*time.Millisecond))
	for deadline := w.now + time.Second; n%2 == 0 && h.saves == 0 && w.step(deadline); {
	}
	w.oracle.checkPoints()
	if w.failure != nil {
		return out, w.failure
	}
	dirty, torn := c.dirty(), w.stats.Torn
	h.kill(true)
	out.bound = dirty + len(h.bits)*(cutHot+cutHot/8) + (w.stats.Torn-torn)*sectorExtents
	for _, b := range h.bits {
		for _, bit := range b.durable {
			if bit {
				out.bits++
			}
		}
	}
	copied, later := w.stats.Copied, touched{}
	w.outside = func(v wire.VolumeID, first, blocks int) {
		later.add(v, uint64(first)*blockSize, uint64(first+blocks)*blockSize)
	}
	w.restartAfter(h, w.between(50*time.Millisecond, time.Second))
	w.runUntil(w.now + w.between(1200*time.Millisecond, 2*time.Second))
	err = c.rest()
	out.copied, out.later = w.stats.Copied-copied, len(later)
	return out, err
}

// run cuts so many times, and says what went wrong.
func (c *powerCuts) run(cuts int) (out []cutOf, err error) {
	defer func() {
		if x := recover(); x != nil {
			err = fmt.Errorf("panic: %v\n%s", x, stack())
		}
	}()
	c.w.ends = time.Hour
	if err := c.rest(); err != nil {
		return nil, err
	}
	for n := range cuts {
		o, err := c.cut(n)
		if err != nil {
			return out, fmt.Errorf("cut %d: %w", n+1, err)
		}
		out = append(out, o)
		if o.copied > o.bits+o.later || o.bits > o.bound {
			return out, fmt.Errorf("cut %d: %d extents were copied, %d bits were durable, at most %d were hot or dirty, and %d were written while there was no incarnation",
				n+1, o.copied, o.bits, o.bound, o.later)
		}
	}
	c.w.oracle.checkPoints()
	c.w.oracle.checkEnd()
	return out, c.w.failure
}

// TestPowerCuts cuts a primary's power a hundred times.
func TestPowerCuts(t *testing.T) {
	if os.Getenv("SEEDS") == "" {
		t.Skip("run by `make sim`, which sets SEEDS")
	}
	if !inPart(t, 0) {
		return
	}
	c := newPowerCuts(t, 1, nil)
	out, err := c.run(cutsOfATest)
	if err != nil {
		t.Fatal(err)
	}
	column := func(of func(cutOf) int) string {
		slices.SortFunc(out, func(a, b cutOf) int { return cmp.Compare(of(a), of(b)) })
		return fmt.Sprintf("median %.2f, at most %.2f", mib(of(out[len(out)/2])), mib(of(out[len(out)-1])))
	}
	t.Logf("%d cuts, %d of them tore a sector of bits, in %v of virtual time, %d events", len(out), c.w.stats.Torn, c.w.now.Round(time.Second), c.w.stats.Events)
	t.Logf("copied, MiB: %s", column(func(o cutOf) int { return o.copied }))
	t.Logf("written after it without an incarnation, MiB: %s", column(func(o cutOf) int { return o.later }))
	t.Logf("hot and dirty at the cut, MiB: %s", column(func(o cutOf) int { return o.bound }))
}

func mib(extents int) float64 { return float64(extents) * extentSize / (1 << 20) }

// TestPowerCutMutants: more than what is hot or dirty is copied, or less, and it is seen.
func TestPowerCutMutants(t *testing.T) {
	if os.Getenv("SEEDS") == "" {
		t.Skip("run by `make sim`, which sets SEEDS")
	}
	for i, m := range []string{"restart-copies-all", "torn-bits-clear", "bits-after-write"} {
		if !inPart(t, i) {
			continue
		}
		t.Run(m, func(t *testing.T) {
			out, err := newPowerCuts(t, 1, map[string]bool{m: true}).run(cutsMutant)
			if err == nil {
				t.Fatalf("not caught in %d cuts", cutsMutant)
			}
			t.Logf("caught by cut %d: %.200v", len(out), err)
		})
	}
}
