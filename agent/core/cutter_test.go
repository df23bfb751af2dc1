package core

import (
	"testing"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// TestTogether: of two incarnations in the sets 10 to 14, number 1 stood still at their end; when is the end of a set one
// moment for both?
func TestTogether(t *testing.T) {
	for name, test := range map[string]struct {
		other *cluster.Incarnation // number 2; nil when nothing of it is unapplied
		stood bool
		cuts  map[wire.Set]bool
	}{
		"both stood":               {&cluster.Incarnation{ID: 2}, true, map[wire.Set]bool{10: true, 12: true, 14: true}},
		"the other has no part":    {nil, false, map[wire.Set]bool{10: true, 14: true}},
		"the other did not answer": {&cluster.Incarnation{ID: 2}, false, map[wire.Set]bool{10: false, 14: false}},
		"its end is not recorded":  {&cluster.Incarnation{ID: 2, Ended: true}, false, map[wire.Set]bool{10: false, 14: false}},
		"it ended inside of 12": {
			&cluster.Incarnation{ID: 2, Ended: true, Sealed: true, Last: 12}, false,
			map[wire.Set]bool{10: false, 11: false, 12: true, 13: true},
		},
		"it ended after it had closed 12": {
			&cluster.Incarnation{ID: 2, Ended: true, Sealed: true, Last: 12, Marked: true}, false,
			map[wire.Set]bool{11: false, 12: false, 13: true},
		},
	} {
		g := &cluster.Group{Grants: []cluster.Grant{{First: 10, Last: 14, Incs: []wire.Incarnation{1, 2}}}, Incs: []*cluster.Incarnation{{ID: 1}}}
		k := &cutter{stood: map[wire.Incarnation]bool{1: true}}
		if test.other != nil {
			g.Incs = append(g.Incs, test.other)
		}
		if test.stood {
			k.stood[2] = true
		}
		for n, want := range test.cuts {
			if k.together(g, n) != want {
				t.Errorf("%s: the end of set %d: %v", name, n, !want)
			}
		}
		if k.together(g, 15) {
			t.Errorf("%s: the end of a set that is not granted", name)
		}
	}
}

// TestPausedAfterGivingUp: the answer of a primary that stood still comes when nothing is granted any more.
func TestPausedAfterGivingUp(t *testing.T) {
	n, _ := alone(t)
	g := &cluster.Group{ID: 1, Granted: 4, Incs: []*cluster.Incarnation{{ID: 7, Primary: 1, First: 1}}}
	w := n.captain.watch(1)
	w.cut = cutter{stage: cutPausing, attempt: 1, paused: map[wire.Incarnation]wire.Set{}}
	n.captain.paused(g, w, 1, &Paused{Group: 1, Term: n.captain.term, Attempt: 1, Inc: 7, Open: 3})
	if w.cut.stage != cutPausing || len(w.cut.paused) != 0 {
		t.Errorf("the attempt went on: %+v", w.cut)
	}
}
