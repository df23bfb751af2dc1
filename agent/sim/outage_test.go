package sim

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"testing/cryptotest"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// An outage of minutes, of virtual time, under a load of writes, and a promote in the resync that follows it: what that
// gives is exactly the last consistent cut before the outage, or before the group was suspended in it.
type outage struct {
	name    string
	lasts   time.Duration
	journal int64 // how much each journal takes, in bytes; 0 for no limit
	away    func(w *World) *host
}

var outages = []outage{
	// Nothing goes between the primary's site and all others.
	{name: "link", lasts: 10 * time.Minute, away: func(w *World) *host { return w.source() }},
	// The secondary is away: committed sets stay in the journals, which fill.
	{name: "journal", lasts: 2 * time.Minute, journal: 96 << 10, away: func(w *World) *host {
		return w.hosts[slices.IndexFunc(w.hosts, func(h *host) bool { return len(h.targets) > 0 })]
	}},
}

// source returns the first primary.
func (w *World) source() *host {
	return w.hosts[slices.IndexFunc(w.hosts, func(h *host) bool { return len(h.sources) > 0 })]
}

const (
	coarseTick   = 100 * time.Millisecond // of nodes while nothing happens for minutes: the period of Raft's heartbeats
	outageCopy   = 80 * time.Millisecond  // the longest that the copy of an extent takes: a promote comes in its middle
	outageStep   = 5 * time.Second        // between two looks at the recovery points
	outageIdle   = 2 * time.Second        // the longest between two writes of a client then
	outageWithin = 3 * time.Minute
)

// outageRun is one run of an outage.
type outageRun struct {
	w       *World
	o       *groupOracle
	extents int // to copy when the resync began
	left    int // when it was promoted
}

// scatter writes a block of the first half of every volume: what was under way to the others when the outage came is known
// by their bits alone.
func (r *outageRun) scatter() {
	h := r.w.source()
	for _, id := range cluster.SortedKeys(h.primary) {
		b := reserved + r.w.rng.IntN(len(h.sources[id].now)/2-reserved)
		h.write(id, b, []uint64{r.w.oracle.value()}, wire.KindWrite, false, func(error) {})
	}
}

// until runs until a condition holds, looking now and then.
func (r *outageRun) until(what string, every time.Duration, holds func() bool) error {
	for deadline := r.w.now + outageWithin; !holds(); {
		if r.w.runUntil(r.w.now + every); r.w.failure != nil {
			return r.w.failure
		}
		if r.w.now > deadline {
			return fmt.Errorf("%s does not come to pass: %s", what, r.o.unsettled())
		}
	}
	return r.w.failure
}

// toCopy returns how many extents of the group are to be copied in its present incarnation, and whether there is one.
func (r *outageRun) toCopy() (n int, attached bool) {
	for _, s := range r.w.source().groups {
		attached = s.openSeen != 0
		for _, v := range s.vols {
			n += v.ext.ToCopy()
		}
	}
	return n, attached
}

// run takes an outage with a promote when so many tenths of the resync are done; 10 is none, and the resync ends.
func (c *outage) run(t *testing.T, seed uint64, tenth int, mutants map[string]bool) (r *outageRun, err error) {
	cryptotest.SetGlobalRandom(t, seed)
	w := newWorld(Options{Seed: seed, Mutants: mutants})
	r = &outageRun{w: w}
	defer func() {
		if x := recover(); x != nil {
			err = fmt.Errorf("panic: %v\n%s", x, stack())
		}
	}()
	w.maxDelay = []time.Duration{500 * time.Microsecond, 5 * time.Millisecond}[seed%2]
	w.ends = c.lasts + maxVirtual
	w.power, w.overload, w.journalLimit = true, true, c.journal
	const blocks = 48
	w.build(shape{components: 3, primaries: 1, mode: cluster.Async, period: 200, sizes: []int64{blocks * blockSize, blocks * blockSize, blocks * blockSize}})
	for _, h := range w.hosts {
		h.start()
	}
	w.writing = true
	w.makeClients(w.oracle.last)
	r.o = w.oracle.group(w.group)
	if err := r.until("the first copy", 500*time.Millisecond, func() bool {
		g := r.o.now()
		return g.Volumes[1].Copied(g.Applied) && g.Volumes[2].Copied(g.Applied) && g.Volumes[3].Copied(g.Applied)
	}); err != nil {
		return r, err
	}
	w.runUntil(w.now + 2*time.Second)

	away, begun := c.away(w), w.now
	w.isolate(away, c.lasts)
	w.copyTakes = outageCopy
	suspended := func() bool { v, _ := w.source().node.View(w.group); return v.Open == 0 }
	for ends := begun + c.lasts; w.now < ends && w.failure == nil; {
		if ends-w.now <= outageStep && !suspended() && ends < begun+2*c.lasts { // a journal that fills more slowly
			ends += 2 * outageStep
			w.isolate(away, ends-w.now)
		}
		if w.runUntil(w.now + outageStep); w.failure == nil {
			w.oracle.checkPoints()
		}
		if r.scatter(); w.now >= begun+2*outageStep { // whatever there was to do has been done
			w.tick = coarseTick
		}
		for _, cl := range w.clients {
			if cl.pace = outageIdle; len(cl.slots) == 0 {
				cl.pace = 100 * c.lasts // not again
			}
		}
	}
	w.tick = tickEvery
	g := r.o.now()
	switch {
	case w.failure != nil:
		return r, w.failure
	case !suspended():
		return r, fmt.Errorf("after %v the group is attached, and is to be suspended", w.now-begun)
	case g.Point.Set == 0 && len(g.Points) == 0:
		return r, fmt.Errorf("there is no recovery point: %+v", g)
	}
	for r.extents == 0 && err == nil {
		err = r.until("the resync", time.Millisecond, func() bool { n, attached := r.toCopy(); r.extents = n; return attached })
	}
	if tenth < 10 && err == nil {
		err = r.promote(tenth)
	}
	if err != nil || tenth < 10 {
		return r, err
	}
	w.writing = false
	if err := r.until("rest", 200*time.Millisecond, w.oracle.settled); err != nil {
		return r, err
	}
	w.oracle.checkPoints()
	w.oracle.checkEnd()
	return r, w.failure
}

// before returns what the sources had in the newest whole incarnation before the one that resyncs, as a function of where that
// is sealed, which it may not be yet. What was attached in between, and ended before it was whole, counts for nothing.
func (r *outageRun) before() func() (image, error) {
	n := r.w.source().groups[0].openSeen - 1
	var inc *cluster.Incarnation
	for _, i := range r.o.now().Incs {
		if i.First <= n && i.Whole != 0 {
			inc = i
		}
	}
	im := image{}
	if inc == nil { // sets were given up since: the state knows the point on the targets only
		rp := replay{o: r.o, g: r.o.now(), cursors: map[wire.Incarnation]*cursor{}}
		for id, blocks := range rp.to(r.o.now().Point.Set) {
			im[id] = slices.Clone(blocks)
		}
		return func() (image, error) { return im, nil }
	}
	// As it is now: what is committed later is taken into its base.
	t := *r.o.incs[inc.ID]
	t.log, t.sets = slices.Clone(t.log), slices.Clone(t.sets)
	for i := range t.sets {
		t.sets[i].writes = slices.Clone(t.sets[i].writes)
	}
	c := cursor{t: &t, blocks: slices.Clone(t.base)}
	c.im = t.imageOf(c.blocks)
	id := inc.ID
	return func() (image, error) {
		sealed := r.o.now().Inc(id)
		if sealed == nil || !sealed.Sealed {
			return nil, fmt.Errorf("the incarnation %d before the resync is not sealed", id)
		}
		c.roll(sealed, n)
		return c.im, nil
	}
}

// promote promotes in the middle of the resync. In every other run the primary's site is lost first.
func (r *outageRun) promote(tenth int) error {
	w := r.w
	before := r.before()
	if err := r.until("the tenth", time.Millisecond, func() bool {
		n, attached := r.toCopy()
		r.left = n
		return attached && n <= r.extents*(10-tenth)/10
	}); err != nil {
		return err
	}
	if r.left == 0 {
		return fmt.Errorf("the resync of %d extents is over before its %dth tenth", r.extents, tenth)
	}
	if w.opt.Seed%2 == 0 {
		w.source().kill(true)
	}
	w.promote(r.o)
	if err := r.until("the promote", 20*time.Millisecond, func() bool { return r.o.promoted != nil }); err != nil {
		return err
	}
	last, err := before()
	if err != nil {
		return err
	}
	for _, id := range cluster.SortedKeys(last) {
		for b := range last[id] {
			if have := r.o.promoted[id][b]; have != last[id][b] {
				return fmt.Errorf("the promote gives %#x in block %d of volume %d, and the last cut had %#x", have, b, id, last[id][b])
			}
		}
	}
	w.writing = false
	w.runUntil(w.now + 2*time.Second)
	w.oracle.checkEnd()
	return w.failure
}

// TestOutages promotes at each tenth of the resync after an outage, each with a seed of its own, and in its middle with
// some more; and lets it end.
func TestOutages(t *testing.T) {
	if os.Getenv("SEEDS") == "" {
		t.Skip("run by `make sim`, which sets SEEDS")
	}
	tenths := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 10}
	for i := range outages {
		c := &outages[i]
		t.Run(c.name, func(t *testing.T) {
			for k, tenth := range tenths {
				if !inPart(t, i*len(tenths)+k) {
					continue
				}
				seed := uint64(k + 1)
				r, err := c.run(t, seed, tenth, nil)
				if err != nil {
					t.Errorf("seed %d, a promote after %d tenths: %v", seed, tenth, err)
					continue
				}
				t.Logf("seed %d: %v of virtual time, %d events, %d extents to copy, promoted with %d left (tenth %d)", seed, r.w.now.Round(time.Second), r.w.stats.Events, r.extents, r.left, tenth)
			}
		})
	}
}

// TestOutageMutants breaks what a resync stands on, and sees it.
func TestOutageMutants(t *testing.T) {
	if os.Getenv("SEEDS") == "" {
		t.Skip("run by `make sim`, which sets SEEDS")
	}
	breaks := []struct {
		name   string
		tenth  int
		what   string
		within uint64 // seeds
	}{
		{"broken-not-said", 5, "sets of a resync are committed and applied before it is whole", 3},
		{"suspend-forgets", 10, "the bits of what was under way are forgotten when the group is suspended", 3},
	}
	for i, b := range breaks {
		if !inPart(t, i) {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			for seed := uint64(1); seed <= b.within; seed++ {
				for k := range outages {
					if _, err := outages[k].run(t, seed, b.tenth, map[string]bool{b.name: true}); err != nil {
						t.Logf("%s: caught by seed %d of the %s outage: %.200v", b.what, seed, outages[k].name, err)
						return
					}
				}
			}
			t.Errorf("%s: not caught in %d seeds", b.what, b.within)
		})
	}
}
