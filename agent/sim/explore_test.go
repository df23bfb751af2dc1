package sim

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/cryptotest"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// An exploration takes one short course of a small cluster without chance, and repeats it with an agent's power cut at
// every event of it, with every message lost, and with both. What the oracle checks holds in each of them, and each comes
// to rest once the agent is back. Unlike the random runs it leaves nothing out, as far as it reaches.

// course is what is explored: a window of time in which a chain of dependent writes goes on across two primaries.
type course struct {
	name       string
	components int
	mode       cluster.Mode
	lead       func(w *World) // what comes before the window
	wait       time.Duration  // between lead and window
	during     func(w *World) // what begins with the window
	window     time.Duration
	down       time.Duration // until the agent that was cut is back
}

var courses = []course{
	{name: "cut", components: 2, mode: cluster.Async, window: 120 * time.Millisecond, down: 200 * time.Millisecond},
	{name: "cut-sync", components: 2, mode: cluster.Sync, window: 120 * time.Millisecond, down: 200 * time.Millisecond},
	{
		name: "view", components: 3, mode: cluster.Async, window: 120 * time.Millisecond, down: 200 * time.Millisecond,
		lead: func(w *World) { w.host(3).kill(true) }, wait: 1500 * time.Millisecond,
	},
	{
		name: "promote", components: 2, mode: cluster.Async, window: 150 * time.Millisecond, down: 200 * time.Millisecond,
		during: func(w *World) { w.after(20*time.Millisecond, "promote", func() { w.promote(w.oracle.group(w.group)) }) },
	},
	{
		name: "promote-sync", components: 2, mode: cluster.Sync, window: 150 * time.Millisecond, down: 200 * time.Millisecond,
		during: func(w *World) { w.after(20*time.Millisecond, "promote", func() { w.promote(w.oracle.group(w.group)) }) },
	},
}

// point is where a run departs from the course: an agent's power is cut before the event of that number, and the
// message of that number is lost; both count from 1 in the window, 0 is never.
type point struct {
	event, message int
	host           wire.AgentID
}

// run takes the course with what happens at a point. It returns how many events and messages the window had.
func (c *course) run(t *testing.T, p point) (events, messages int, err error) {
	cryptotest.SetGlobalRandom(t, 1)
	defer func() {
		if x := recover(); x != nil {
			err = fmt.Errorf("panic: %v\n%s", x, stack())
		}
	}()
	sh := shape{components: c.components, primaries: 2, mode: c.mode, period: 50, sizes: []int64{2 * extentSize, 2 * extentSize}}
	s, err := newScenario(Options{Seed: 1, Mutants: exploreMutants()}, sh, 3*time.Millisecond)
	if err != nil {
		return 0, 0, fmt.Errorf("before the window: %w", err)
	}
	w := s.w
	w.watch = nil
	chain := &client{w: w, id: 1, group: w.group, sync: c.mode == cluster.Sync, pace: 20 * time.Millisecond}
	g := w.newest().Groups[w.group]
	for _, id := range cluster.SortedKeys(g.Volumes) {
		chain.slots = append(chain.slots, slot{host: w.host(g.Volumes[id].Primary), volume: id})
	}
	w.clients = []*client{chain}
	if c.lead != nil {
		c.lead(w)
	}
	w.writing = true
	w.after(0, "chain", chain.next)
	w.runUntil(w.now + c.wait)
	if c.during != nil {
		c.during(w)
	}
	w.sent, w.lose = 0, p.message
	for end := w.now + c.window; w.step(end); {
		if events++; events == p.event {
			if h := w.host(p.host); h.node != nil {
				h.kill(true)
				w.after(c.down, "restart", h.start)
			}
		}
	}
	messages = w.sent
	w.lose = 0
	w.runUntil(w.now + c.down + 100*time.Millisecond)
	w.writing = false
	for _, h := range w.hosts {
		if h.node == nil && w.failure == nil {
			h.start()
		}
	}
	for deadline := w.now + settleWithin; w.failure == nil && !w.oracle.settled(); w.runUntil(w.now + 100*time.Millisecond) {
		if w.now > deadline {
			w.fail("not settled: %s", w.oracle.unsettled())
		}
	}
	if w.failure != nil {
		return events, messages, w.failure
	}
	return events, messages, s.finish()
}

// exploreMutants are the breaks of the environment's EXPLORE_BREAK, to see the exploration go red.
func exploreMutants() map[string]bool {
	if m := os.Getenv("EXPLORE_BREAK"); m != "" {
		return map[string]bool{m: true}
	}
	return nil
}

// TestExplore explores every course. EXPLORE says how dense: 1 is every point, 20 (the default) is every twentieth, others
// in each course and agent. Pairs of a cut and a loss are thinner: one message in four of a tenth of the events. It runs
// with `make sim`, not under the race detector.
func TestExplore(t *testing.T) {
	if os.Getenv("SEEDS") == "" {
		t.Skip("run by `make sim`, which sets SEEDS")
	}
	stride := 20
	if v, err := strconv.Atoi(os.Getenv("EXPLORE")); err == nil && v > 0 {
		stride = v
	}
	for i := range courses {
		if !inPart(t, i) {
			continue
		}
		c := &courses[i]
		t.Run(c.name, func(t *testing.T) {
			events, messages, err := c.run(t, point{})
			if err != nil {
				t.Fatalf("the course itself: %v", err)
			}
			runs := 0
			try := func(p point) {
				if t.Failed() {
					return
				}
				runs++
				if _, _, err := c.run(t, p); err != nil {
					t.Errorf("%+v: %v", p, err)
				}
			}
			for m := 1 + i%stride; m <= messages; m += stride {
				try(point{message: m})
			}
			hosts := c.components + 3
			for h := 1; h <= hosts; h++ {
				for e := 1 + (i+h)%stride; e <= events; e += stride {
					try(point{event: e, host: wire.AgentID(h)})
				}
			}
			pairs := 0
			for k := (i * 7) % (10 * stride); k < hosts*events*messages; k += 10 * stride * max(1, messages/4) {
				pairs++
				try(point{event: 1 + k/messages%events, message: 1 + k%messages, host: wire.AgentID(1 + k/messages/events)})
			}
			t.Logf("%d events, %d messages, %d agents: %d runs, %d of them of a cut and a loss", events, messages, hosts, runs, pairs)
		})
	}
}
