package core

import (
	"slices"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// TestHolds: each time that a primary stands still is told once, with its length from the first pause.
func TestHolds(t *testing.T) {
	n, _ := alone(t)
	n.state.Groups[1] = &cluster.Group{
		ID: 1, Grants: []cluster.Grant{{First: 1, Last: 9, Incs: []wire.Incarnation{7, 8}}}, Granted: 9,
		Incs: []*cluster.Incarnation{{ID: 7, Primary: 1, First: 1}},
	}
	s := &source{n: n, group: 1}
	s.detach()
	s.inc = 7
	s.openSet(1)
	n.sources[1] = s
	n.Take()
	base := n.now
	at := func(ms time.Duration) { n.now = base + ms*time.Millisecond }
	for name, test := range map[string]struct {
		steps func()
		want  []Hold
	}{
		"a cut": {func() {
			s.pause(1, &Pause{Group: 1, Term: 5, Attempt: 1})
			at(3)
			s.resume(1, &Resume{Group: 1, Term: 5, Attempt: 1, Set: 2})
			at(9)
			s.resume(1, &Resume{Group: 1, Term: 5, Attempt: 1, Set: 2}) // repeated
		}, []Hold{{Group: 1, Set: 2, Length: 3 * time.Millisecond, Stood: true}}},
		"two pauses": {func() {
			s.pause(1, &Pause{Group: 1, Term: 6, Attempt: 1})
			at(2)
			s.pause(1, &Pause{Group: 1, Term: 6, Attempt: 2})
			at(5)
			s.resume(1, &Resume{Group: 1, Term: 6, Attempt: 3, Set: 3})
		}, []Hold{{Group: 1, Set: 3, Length: 5 * time.Millisecond}}},
		"nobody ends it": {func() {
			s.pause(1, &Pause{Group: 1, Term: 7, Attempt: 1})
			at(60)
			s.holdTick()
			s.resume(1, &Resume{Group: 1, Term: 7, Attempt: 1, Set: 4})
		}, []Hold{{Group: 1, Length: 60 * time.Millisecond}}},
		"no pause": {func() { s.resume(1, &Resume{Group: 1, Term: 8, Attempt: 1, Set: 5}) }, nil},
	} {
		at(0)
		s.hold, s.open = hold{}, 1
		test.steps()
		if have := n.Take().Holds; !slices.Equal(have, test.want) {
			t.Errorf("%s: %+v, want %+v", name, have, test.want)
		}
	}
}
