package sim

import (
	"runtime"
	"testing"
	"testing/cryptotest"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// load writes to all portions of all volumes in turn, each block once in a round, until it is stopped.
func (s *scenario) load(every time.Duration) (stop func()) {
	w := s.w
	type at struct {
		h     *host
		v     wire.VolumeID
		block int
	}
	var all []at
	g := w.newest().Groups[w.group]
	for block := range portionSize / blockSize {
		for _, id := range cluster.SortedKeys(g.Volumes) {
			v := g.Volumes[id]
			for p := range int(v.Size / portionSize) {
				all = append(all, at{w.host(v.Primary), id, p*(portionSize/blockSize) + block})
			}
		}
	}
	on, i := true, 0
	var next func()
	next = func() {
		if !on {
			return
		}
		a := all[i%len(all)]
		i++
		if a.h.node != nil {
			a.h.write(a.v, a.block, []uint64{w.oracle.value()}, wire.KindWrite, false, func(error) { w.stats.Writes++ })
		}
		w.after(every, "load", next)
	}
	next()
	return func() { on = false }
}

// propose has a command proposed by the captain.
func (s *scenario) propose(cmd cluster.Command) {
	s.captain().do(func(n *core.Node) { n.Propose(cmd) })
}

// runTo runs until a condition holds.
func (s *scenario) runTo(t *testing.T, what string, holds func(st *cluster.State) bool) {
	t.Helper()
	for deadline := s.w.now + untilWithin; !holds(s.w.newest()); {
		if !s.w.step(deadline) {
			t.Fatalf("%s does not come to pass: %v; %s", what, s.w.failure, s.w.oracle.unsettled())
		}
	}
}

// rest runs until all is applied and every second copy is there. It does not look after every event: that takes long here.
func (s *scenario) rest(t *testing.T) {
	t.Helper()
	equal, settled := s.conditions()["equal"], s.conditions()["settled"]
	for deadline := s.w.now + untilWithin; !equal() || !settled(); {
		if s.w.runUntil(s.w.now + 200*time.Millisecond); s.w.failure != nil || s.w.now > deadline {
			t.Fatalf("it does not come to rest: %v; %s", s.w.failure, s.w.oracle.unsettled())
		}
	}
}

// taken is how much every component has taken since it started, by its own word.
func (s *scenario) taken() map[wire.AgentID]int64 {
	out := map[wire.AgentID]int64{}
	for id, h := range s.captain().node.Heard() {
		if c := h.Status.Component; c != nil {
			out[id] = c.TakenOwned
		}
	}
	return out
}

// parts runs for so many sets and returns what each component took as owner meanwhile, in relation to the mean.
func (s *scenario) parts(t *testing.T, open func() wire.Set, sets wire.Set) map[wire.AgentID]float64 {
	t.Helper()
	s.w.runUntil(s.w.now + 200*time.Millisecond) // the captain has heard of all that was before
	before, until := s.taken(), open()+sets
	s.runTo(t, "some sets more", func(*cluster.State) bool { return open() > until })
	took, sum := s.taken(), int64(0)
	for id := range took {
		took[id] -= before[id]
		sum += took[id]
	}
	parts := map[wire.AgentID]float64{}
	for id, n := range took {
		parts[id] = float64(n) * float64(len(took)) / float64(sum)
	}
	t.Logf("sets from %d on: %v", until-sets, parts)
	return parts
}

func start(t *testing.T, components, volumes int) *scenario {
	t.Helper()
	sh := shape{components: components, primaries: 1, mode: cluster.Async, period: 200}
	for range volumes {
		sh.sizes = append(sh.sizes, 2*portionSize)
	}
	cryptotest.SetGlobalRandom(t, 1)
	s, err := newScenario(Options{Seed: 1}, sh, 100*time.Microsecond)
	if err != nil {
		t.Fatal(err)
	}
	s.propose(cluster.Command{SetGroup: &cluster.SetGroup{Group: s.w.group, SetBytes: 256 << 20}})
	return s
}

// TestJoinerUnderLoad: a component that joins a busy group takes its fair share, within a fifth, from the first set of the
// next grant on. Until then there are no more sets than are granted ahead, of which all but the first are empty.
func TestJoinerUnderLoad(t *testing.T) {
	s := start(t, 5, 400)
	const joiner = wire.AgentID(5)
	for id := range joiner { // nothing is measured
		s.propose(cluster.Command{SetAgent: &cluster.SetAgent{Agent: id + 1, Weight: new(uint8(cluster.NominalWeight))}})
	}
	s.propose(cluster.Command{Drain: &cluster.Drain{Agent: joiner}})
	s.runTo(t, "the leaving", func(st *cluster.State) bool { return !st.IsMember(joiner) })
	stop := s.load(500 * time.Microsecond)
	s.w.runUntil(s.w.now + 2*time.Second)
	s.propose(cluster.Command{Drain: &cluster.Drain{Agent: joiner, Undo: true}})
	var from wire.Set
	open := func() wire.Set {
		for _, h := range s.w.hosts {
			if v, ok := h.node.View(s.w.group); ok && v.Open > 0 {
				return v.Open
			}
		}
		return 0
	}
	s.runTo(t, "the joining", func(st *cluster.State) bool { from = open(); return st.IsMember(joiner) })
	s.runTo(t, "the first set with it", func(st *cluster.State) bool {
		gr := st.Groups[s.w.group].Grant(open())
		return gr != nil && len(gr.Members) == 5
	})
	first := open()
	if first-from > 6 {
		t.Errorf("set %d was open when it joined, and set %d is the first with it", from, first)
	}
	for id, part := range s.parts(t, open, 5) {
		if part < 0.8 || part > 1.2 {
			t.Errorf("component %d took %.2f of its share in the sets from %d on", id, part, first)
		}
	}
	// The same for a weight.
	s.propose(cluster.Command{SetAgent: &cluster.SetAgent{Agent: 2, Weight: new(uint8(cluster.NominalWeight / 2))}})
	from = open()
	s.runTo(t, "the first set with the weight", func(st *cluster.State) bool {
		gr := st.Groups[s.w.group].Grant(open())
		return gr != nil && gr.Weights != nil && gr.Weights[1] == cluster.NominalWeight/2
	})
	if first = open(); first-from > 6 {
		t.Errorf("set %d was open when the weight changed, and set %d is the first with it", from, first)
	}
	if part := s.parts(t, open, 5)[2] * 4.5 / 2.5; part < 0.8 || part > 1.2 { // in relation to 50 of 450
		t.Errorf("with half the weight component 2 takes %.2f of its share", part)
	}
	stop()
	s.rest(t)
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
}

// TestLargeCluster: 64 components hold the updates of a thousand volumes in one group; one is lost meanwhile. What all of
// them keep is bounded by what is not applied, and the state by what it tells of.
func TestLargeCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some ten seconds")
	}
	const components, volumes = 64, 1000
	s := start(t, components, volumes)
	stop := s.load(200 * time.Microsecond)
	s.w.runUntil(s.w.now + time.Second)
	if err := s.kill(s.w.host(40), true); err != nil {
		t.Fatal(err)
	}
	most := 0
	for range 12 {
		s.w.runUntil(s.w.now + 200*time.Millisecond)
		for _, h := range s.w.hosts {
			most = max(most, len(h.journal.records()))
		}
	}
	if err := s.restart(s.w.host(40)); err != nil {
		t.Fatal(err)
	}
	stop()
	s.rest(t)
	s.runTo(t, "the return of the lost one", func(st *cluster.State) bool { return st.IsMember(40) })
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	st := s.w.newest()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	t.Logf("%d writes, %d sets applied; at most %d frames in a journal; state %d bytes, %d grants; %d bytes of memory an agent", s.w.stats.Writes,
		st.Groups[1].Applied, most, len(st.Encode()), len(st.Groups[1].Grants), m.HeapAlloc/uint64(len(s.w.hosts)))
	if n := len(st.Encode()); n > 300*(components+volumes) {
		t.Errorf("the state has %d bytes", n)
	}
	for _, h := range s.w.hosts {
		if n := len(h.journal.records()); n > 0 {
			t.Errorf("component %d keeps %d frames of sets that are applied", h.id, n)
		}
	}
}
