package core

import (
	"slices"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// TestFirstIncomplete: what is missing may be in the middle of a chain, behind sets that are whole.
func TestFirstIncomplete(t *testing.T) {
	for name, test := range map[string]struct {
		complete  []wire.Set // of 1 to 4
		committed wire.Set
		want      wire.Set
	}{
		"nothing is missing":               {[]wire.Set{1, 2, 3, 4}, 0, 0},
		"the oldest":                       {[]wire.Set{2, 3, 4}, 0, 1},
		"one behind a whole one":           {[]wire.Set{1, 3, 4}, 0, 2},
		"a committed one":                  {[]wire.Set{1, 3, 4}, 2, 2},
		"one behind what can be recovered": {[]wire.Set{1, 3, 4}, 1, 0},
	} {
		n, _ := alone(t)
		g := &cluster.Group{
			ID: 1, Grants: []cluster.Grant{{First: 1, Last: 4, Incs: []wire.Incarnation{7}}}, Granted: 4, Committed: test.committed,
			Incs: []*cluster.Incarnation{{ID: 7, Primary: 1, First: 1}},
		}
		w := n.captain.watch(1)
		for _, set := range test.complete {
			w.done[incSet{1, set, 7}] = &setDone{view: n.state.View, complete: true}
		}
		if have := n.captain.firstIncomplete(g, w); have != test.want {
			t.Errorf("%s: set %d, want %d", name, have, test.want)
		}
	}
}

// TestLastEligibleIsNotLostSoon: while only one component takes new updates it holds them alone, though another that is
// draining is still a member.
func TestLastEligibleIsNotLostSoon(t *testing.T) {
	for _, drain := range []bool{false, true} {
		n, _ := alone(t)
		st := n.state
		st.Agents[1].Drain = drain // the captain's own component
		st.Agents[2] = &cluster.Agent{ID: 2, Name: "two", Backup: true, Life: 99}
		st.Members, st.Settled = []wire.AgentID{1, 2}, st.View
		lost := func() bool {
			n.captain.members()
			return slices.ContainsFunc(n.Take().Events, func(e Event) bool { return e.Name == "component.lost" })
		}
		lost() // it is seen for the first time
		n.now += n.cfg.LossAfter + time.Second
		n.captain.heard[1] = &heard{at: n.now, st: &Status{}}
		if soon := lost(); soon == drain {
			t.Errorf("draining %v: declared lost after the short limit: %v", drain, soon)
		}
		n.captain.loseAt = 0
		n.now += n.cfg.LastLossAfter
		n.captain.heard[1].at = n.now
		if !lost() {
			t.Errorf("draining %v: not declared lost after the long limit", drain)
		}
	}
}

// Of components that find no way to each other for updates, though the captain hears them, the one that most miss goes,
// or the younger, after the limit; but never one that may hold the only copy of something.
func TestStranded(t *testing.T) {
	for _, tt := range []struct {
		name      string
		missed    map[wire.AgentID][]wire.AgentID
		unsettled bool
		rebuild   []wire.AgentID
		want      wire.AgentID
	}{
		{"nobody", nil, false, nil, 0},
		{"two, the younger", map[wire.AgentID][]wire.AgentID{1: {2}}, false, nil, 2},
		{"one that two miss", map[wire.AgentID][]wire.AgentID{1: {3}, 2: {1}}, false, nil, 1},
		{"a dead one is not looked at", map[wire.AgentID][]wire.AgentID{1: {9}}, false, nil, 0},
		{"unsettled, the one that has copies elsewhere", map[wire.AgentID][]wire.AgentID{1: {2}}, true, []wire.AgentID{2}, 1},
		{"unsettled, both may be the last holder", map[wire.AgentID][]wire.AgentID{2: {1}}, true, []wire.AgentID{1, 2}, 0},
	} {
		n, _ := alone(t)
		st := n.state
		for id := wire.AgentID(1); id <= 3; id++ {
			st.Agents[id] = &cluster.Agent{ID: id, Backup: true, Life: uint64(id)}
			n.captain.heard[id] = &heard{st: &Status{View: st.View, Applied: st.Index, Component: &ComponentStatus{
				Stranded: tt.missed[id], Rebuilding: slices.Contains(tt.rebuild, id),
			}}}
		}
		st.Members, st.Settled = []wire.AgentID{1, 2, 3}, st.View
		if tt.unsettled {
			st.Settled = 0
		}
		ask := func() wire.AgentID {
			for _, h := range n.captain.heard {
				h.at = n.now
			}
			lost, _ := n.captain.stranded()
			return lost
		}
		if lost := ask(); lost != 0 {
			t.Errorf("%s: %d is lost at once", tt.name, lost)
		}
		n.now += n.cfg.LossAfter
		if lost := ask(); lost != tt.want {
			t.Errorf("%s: %d is lost, want %d", tt.name, lost, tt.want)
		}
	}
}

// TestStrandedBySomebodySilent: what a member said last before it fell silent costs nobody its place, and what it missed while the
// other was away does not count when that is back.
func TestStrandedBySomebodySilent(t *testing.T) {
	n, _ := alone(t)
	st, limit := n.state, n.cfg.LossAfter
	for id := wire.AgentID(1); id <= 3; id++ {
		st.Agents[id] = &cluster.Agent{ID: id, Backup: true, Life: uint64(id)}
		n.captain.heard[id] = &heard{at: n.now, st: &Status{View: st.View, Applied: st.Index, Component: &ComponentStatus{}}}
	}
	n.captain.heard[2].st.Component.Stranded = []wire.AgentID{3}
	st.Members, st.Settled = []wire.AgentID{1, 2, 3}, st.View
	after := func(d time.Duration, hears ...wire.AgentID) wire.AgentID {
		var lost wire.AgentID
		for end := n.now + d; n.now < end; n.now += 10 * time.Millisecond {
			for _, id := range hears {
				n.captain.heard[id].at = n.now
			}
			if l, _ := n.captain.stranded(); l != 0 {
				lost = l
			}
		}
		return lost
	}
	for _, step := range []struct {
		name  string
		time  time.Duration
		hears []wire.AgentID
		want  wire.AgentID
	}{
		{"they miss each other, not for long", limit / 2, []wire.AgentID{1, 2, 3}, 0},
		{"who says so is silent", limit, []wire.AgentID{1, 3}, 0},
		{"who is missed is away", limit, []wire.AgentID{1, 2}, 0},
		{"both are there again", limit * 7 / 8, []wire.AgentID{1, 2, 3}, 0},
		{"and go on to miss each other", limit / 4, []wire.AgentID{1, 2, 3}, 3},
	} {
		if lost := after(step.time, step.hears...); lost != step.want {
			t.Errorf("%s: %d is lost, want %d", step.name, lost, step.want)
		}
	}
}

// TestSleepIsNoSilence: a captain whose machine was suspended has heard nobody meanwhile, and declares nobody lost for it, nor
// gives up what has not moved. Who stays silent while it runs is lost, also when it runs seldom.
func TestSleepIsNoSilence(t *testing.T) {
	n, _ := alone(t)
	st, cfg := n.state, n.cfg
	st.Agents[2] = &cluster.Agent{ID: 2, Name: "two", Backup: true, Life: 98}
	st.Agents[3] = &cluster.Agent{ID: 3, Name: "three", Backup: true, Life: 99}
	st.Members, st.Settled = []wire.AgentID{1, 2, 3}, st.View
	w := n.captain.watch(1)
	lost := func(after time.Duration) bool {
		n.now += after
		n.captain.tick()
		return slices.ContainsFunc(n.Take().Events, func(e Event) bool { return e.Name == "component.lost" })
	}
	hear := func() {
		for _, m := range st.Members {
			n.captain.heard[m] = &heard{at: n.now, st: &Status{}}
		}
	}
	st.Groups[1] = &cluster.Group{ID: 1}
	hear()
	lost(10 * time.Millisecond)
	began := n.now
	w.calm, w.lacking[7] = began, lacking{missing: 2, since: began}
	if lost(cfg.LastLossAfter + cfg.GiveUpAfter) {
		t.Error("somebody was declared lost for the sleep of the captain")
	}
	for what, at := range map[string]time.Duration{
		"what did not move": w.progress.at, "second copies that did not come": w.lacking[7].since, "a degraded group that did well": w.calm,
	} {
		if at <= began+cfg.LossAfter || at > n.now {
			t.Errorf("%s in the sleep counts from %v on; slept from %v to %v", what, at, began, n.now)
		}
	}
	hear()
	seldom := 0
	for ; !lost(cfg.LossAfter); seldom++ {
		if seldom == 8 {
			t.Fatal("a starved captain does not find the dead")
		}
	}
	if seldom < 2 {
		t.Errorf("lost after %d ticks of a starved captain", seldom)
	}
}

// TestFinalAfterAFirstCopy: by the end of set 1 a volume of primary 2 has its first copy, so set 3, in which primary 2 resyncs, is no
// point, whether or not set 1 is committed when the point of a promote is chosen. Were it chosen, the promote could never end.
func TestFinalAfterAFirstCopy(t *testing.T) {
	n, _ := alone(t)
	st := n.state
	g := &cluster.Group{
		ID: 1, Phase: cluster.Promoting, Mode: cluster.Async, Granted: 3, Verdicts: map[wire.Set]bool{1: true, 2: false, 3: true},
		Volumes: map[wire.VolumeID]*cluster.Volume{1: {ID: 1, Primary: 1, CopiedAt: 1}, 2: {ID: 2, Primary: 2}},
		Grants:  []cluster.Grant{{First: 1, Last: 3, Incs: []wire.Incarnation{7, 8, 9}}},
		Incs: []*cluster.Incarnation{
			{ID: 7, Primary: 1, First: 1, Ended: true, Sealed: true, Seal: 30, Last: 3, Marked: true, Whole: 1},
			{ID: 8, Primary: 2, First: 1, Ended: true, Sealed: true, Seal: 10, Last: 1, Marked: true},
			{ID: 9, Primary: 2, First: 2, Ended: true, Sealed: true, Seal: 10, Last: 3},
		},
	}
	st.Groups[1] = g
	w := n.captain.watch(1)
	for set := wire.Set(1); set <= 3; set++ {
		w.done[incSet{1, set, 7}] = &setDone{view: st.View, complete: true, last: wire.Seq(10 * set)}
		w.done[incSet{1, set, 9}] = &setDone{view: st.View, complete: true, broken: true}
	}
	w.done[incSet{1, 1, 8}] = &setDone{view: st.View, complete: true, last: 10, copied: []wire.VolumeID{2}}
	chosen := func() any {
		n.captain.final(g, w)
		for _, e := range n.Take().Events {
			if e.Name == "promote.point" {
				return e.Attrs[1]
			}
		}
		return nil
	}
	if set := chosen(); set != wire.Set(1) {
		t.Errorf("set %v was chosen before set 1 is committed, want 1", set)
	}
	g.Committed, g.Volumes[2].CopiedAt, g.Incs[1].Whole = 1, 1, 1
	clear(w.proposed)
	if set := chosen(); set != wire.Set(1) {
		t.Errorf("set %v was chosen, want 1", set)
	}
}
