package core

import (
	"fmt"
	"math"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// bench is a cluster of components with disks of given speeds, weighed by the rule. What a component takes follows from
// the real assignment of a thousand portions; how long that waits, from its disk.
type bench struct {
	n      *Node
	speed  map[wire.AgentID]float64 // bytes per second
	flush  time.Duration            // of a disk of speed 100e6; others in proportion
	demand float64                  // bytes per second that the primaries write
	hot    bool                     // half of all goes to one portion
	work   map[wire.AgentID]*Status
	weighs int
	index  uint64
}

func newBench(t *testing.T, speeds ...float64) *bench {
	n, _ := alone(t)
	b := &bench{n: n, speed: map[wire.AgentID]float64{}, flush: 5 * time.Millisecond, demand: 60e6, work: map[wire.AgentID]*Status{}, index: 1 << 20}
	n.state.Members = nil
	for i, s := range speeds {
		b.join(wire.AgentID(i+1), s)
	}
	return b
}

func (b *bench) join(id wire.AgentID, speed float64) {
	b.n.state.Agents[id] = &cluster.Agent{ID: id, Name: fmt.Sprint(id), Backup: true, Life: uint64(id)}
	b.n.state.Members = append(b.n.state.Members, id)
	b.n.state.MembersAt++
	b.speed[id] = speed
	b.work[id] = &Status{Run: uint64(id), Component: &ComponentStatus{}}
}

// taken is the part of all portions that each component stores.
func (b *bench) taken() map[wire.AgentID]float64 {
	g := &cluster.Group{Grants: []cluster.Grant{{First: 1, Last: 1, View: b.n.state.View, Shares: b.n.state.Shares()}}}
	const portions = 1000
	out := map[wire.AgentID]float64{}
	for i := range uint32(portions) {
		part := 1.0 / portions
		if b.hot {
			part /= 2
			if i == 7 {
				part += 0.5
			}
		}
		pair := b.n.state.Pair(g, 1, wire.Portion{Volume: 1, Index: i})
		out[pair.Owner] += part
		out[pair.Mirror] += part
	}
	return out
}

// run lets time pass in steps of a status. Noise makes what is measured a little wrong.
func (b *bench) run(d time.Duration) {
	taken := b.taken()
	noise := uint64(1)
	for until := b.n.now + d; b.n.now < until; {
		const step = 100 * time.Millisecond
		b.n.now += step
		for id, st := range b.work {
			noise = mix(wire.Seq(noise + uint64(id)))
			rate := taken[id] * b.demand * (0.95 + 0.1*float64(noise%1000)/1000)
			use := rate / b.speed[id]
			flush := b.flush.Seconds() * 100e6 / b.speed[id]
			wait := flush/2 + flush*(1+use/max(1-use, 0.02)) // group commit; a queue near the disk's end
			st.Round++
			st.Component.Waited += rate * wait * step.Seconds()
			st.Component.Busy += time.Duration(min(rate*wait/64e3, 1) * float64(step))
			b.n.captain.status(id, st.clone())
		}
		shares := b.n.state.Shares()
		b.n.captain.weigh(&shares)
		for _, cmd := range b.n.control.queue {
			if cmd.Weigh != nil {
				b.weighs++
				b.index++
				if _, err := b.n.state.Apply(b.index, &cmd); err != nil {
					panic(err)
				}
				taken = b.taken()
			}
		}
		b.n.control.queue = nil
		b.n.Take()
	}
}

func (s *Status) clone() *Status {
	out, c := *s, *s.Component
	out.Component = &c
	return &out
}

// TestWeightsConverge: the share of a component at half the speed of the others goes down until all are under about the
// same pressure, and stays there; when it is as fast as they, the share comes back.
func TestWeightsConverge(t *testing.T) {
	for name, test := range map[string]struct {
		speeds []float64
		demand float64
	}{
		"at ease":          {[]float64{100e6, 100e6, 50e6}, 30e6},
		"at its end":       {[]float64{100e6, 100e6, 50e6}, 80e6},
		"two of five slow": {[]float64{100e6, 50e6, 100e6, 50e6, 100e6}, 80e6},
		"one of four fast": {[]float64{50e6, 50e6, 50e6, 100e6}, 60e6},
	} {
		b := newBench(t, test.speeds...)
		b.demand = test.demand
		b.run(10 * time.Minute)
		weighs, taken := b.weighs, b.taken()
		b.run(30 * time.Minute)
		if more := b.weighs - weighs; more > 0 {
			t.Errorf("%s: %d changes after the first %d", name, more, weighs)
		}
		for id, slow := range b.speed {
			for other, fast := range b.speed {
				if ratio := (taken[id] / slow) / (taken[other] / fast); ratio > 1.5 {
					t.Errorf("%s: %d takes %.2f of all with %.0f MB/s, %d %.2f with %.0f", name, id, taken[id], slow/1e6, other, taken[other], fast/1e6)
				}
			}
		}
		t.Logf("%s: %d changes, shares %v", name, weighs, taken)
		for id := range b.speed {
			b.speed[id] = 100e6
		}
		b.run(20 * time.Minute)
		weighs = b.weighs
		b.run(30 * time.Minute)
		if b.weighs > weighs {
			t.Errorf("%s: %d changes after the recovery, later than %d", name, b.weighs-weighs, weighs)
		}
		taken = b.taken()
		for id := range b.speed {
			if want := 2 / float64(len(b.speed)); math.Abs(taken[id]-want) > 0.25*want {
				t.Errorf("%s: with equal disks %d takes %.2f, want %.2f", name, id, taken[id], want)
			}
		}
	}
}

// TestWeightsRest: nothing changes while nobody is busy, with two components, or where the operator has fixed the weight.
func TestWeightsRest(t *testing.T) {
	for name, prepare := range map[string]func(b *bench){
		"alike":           func(b *bench) { b.speed[3] = 95e6 },
		"idle":            func(b *bench) { b.demand = 1e5 },
		"two":             func(b *bench) { b.n.state.Members = []wire.AgentID{1, 3} },
		"fixed":           func(b *bench) { b.n.state.Agents[3].WeightFixed = true },
		"never heard of":  func(b *bench) { delete(b.work, 2) },
		"not yet a while": func(b *bench) { b.n.cfg.WeighEvery = time.Hour },
	} {
		b := newBench(t, 100e6, 100e6, 50e6)
		prepare(b)
		b.run(5 * time.Minute)
		if b.weighs != 0 {
			t.Errorf("%s: %d changes, weights now %v", name, b.weighs, b.n.state.Shares().Weights)
		}
	}
}

// TestHotPortionMovesSeldom: what no weight can share out is not moved to and fro for ever faster than the longest window.
func TestHotPortionMovesSeldom(t *testing.T) {
	b := newBench(t, 100e6, 100e6, 100e6, 100e6)
	b.hot = true
	b.run(30 * time.Minute)
	before := b.weighs
	const later = 2 * time.Hour
	b.run(later)
	t.Logf("%d changes, then %d; weights %v", before, b.weighs-before, b.n.state.Shares().Weights)
	if most := int(later / (maxWindow / 4 * b.n.cfg.WeighEvery)); b.weighs-before > most {
		t.Errorf("%d changes in %v, want at most %d", b.weighs-before, later, most)
	}
}

// TestLoadIsOfToday: the load that status shows is that of the last seconds; nonsense that a component says is not shown.
func TestLoadIsOfToday(t *testing.T) {
	n, _ := alone(t)
	say := func(round uint64, taken int64, waited float64) Load {
		n.now += time.Second
		n.captain.status(9, &Status{Run: 1, Round: round, Component: &ComponentStatus{TakenOwned: taken, Waited: waited}})
		return n.Heard()[9].Load
	}
	say(1, 0, 0)
	if l := say(2, 5000, 100); l.Owned != 5000 || l.Waiting != 100 {
		t.Errorf("after 5000 bytes in a second: %+v", l)
	}
	for i, nonsense := range []float64{math.NaN(), math.Inf(1), -1} {
		if l := say(uint64(3+i), 5000, nonsense); l.Waiting != 100 && l != (Load{}) {
			t.Errorf("after %v byte-seconds: %+v", nonsense, l)
		}
	}
	if l := n.Heard()[9].Load; l != (Load{}) {
		t.Errorf("three seconds later: %+v", l)
	}
}
