package core

import (
	"errors"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// written adds a group that an agent elsewhere writes.
func written(t *testing.T, n *Node, run func()) (*cluster.Group, *cluster.Incarnation) {
	t.Helper()
	for _, c := range []cluster.Command{
		{AddAgent: &cluster.AddAgent{Name: "two", Address: "two:1", Secondary: true}},
		{AddAgent: &cluster.AddAgent{Name: "three", Address: "three:1", Primary: true}},
		{CreateGroup: &cluster.CreateGroup{Name: "g"}},
		{CreateVolume: &cluster.CreateVolume{Group: 1, Name: "v", Size: 1 << 30, Primary: 3, Source: "s", Secondary: 2, Target: "t"}},
		{Attach: &cluster.Attach{Group: 1, Primary: 3, Nonce: 1}},
	} {
		n.Propose(c)
	}
	run()
	g := n.state.Groups[1]
	inc := g.Live(3)
	if inc == nil || g.Granted == 0 {
		t.Fatalf("nothing is granted: %+v", g)
	}
	return g, inc
}

// TestLoad: a component's word of itself says what it took and holds, and how long that waited for the journal.
func TestLoad(t *testing.T) {
	n, run := alone(t)
	g, inc := written(t, n, run)
	n.Take()
	send := func(seq wire.Seq, kind wire.Kind) uint64 {
		t.Helper()
		n.ReceiveFrame(n.now, 3, wire.Route{No: uint64(seq), View: n.state.View, Owner: 1}, &wire.Body{
			Group: 1, Primary: 3, Incarnation: inc.ID, Set: g.Granted, Updates: []wire.Update{{Seq: seq, Volume: 1, Kind: kind, Length: 4096}},
		})
		e := n.Take()
		if len(e.Store) != 1 {
			t.Fatalf("seq %d: %d stores, messages %v", seq, len(e.Store), e.Send)
		}
		return e.Store[0].ID
	}
	before := *n.comp.status()
	n.now += time.Second // idle
	a := send(1, wire.KindWrite)
	n.now += 2 * time.Second
	b := send(2, wire.KindZero)
	n.now += time.Second
	if s := n.comp.status(); s.Owned != 2 || s.OwnedBytes != 4096 || s.Unheld != 2 || s.Sets != 1 {
		t.Errorf("with two updates under way: %+v", s)
	}
	n.Stored(n.now, a, "ref", nil)
	n.now += time.Second
	n.Stored(n.now, b, nil, errors.New("full"))
	n.Stored(n.now, b, nil, errors.New("full")) // once more changes nothing
	n.now += time.Second
	s := n.comp.status()
	if s.Owned != 1 || s.OwnedBytes != 4096 || s.Unheld != 0 {
		t.Errorf("with one stored and one refused: %+v", s)
	}
	busy, waited := s.Busy-before.Busy, s.Waited-before.Waited
	want := 3*float64(4096+updateOverhead) + 2*updateOverhead
	if s.TakenOwned-before.TakenOwned != 4096 || busy != 4*time.Second || waited < want-1 || waited > want+1 {
		t.Errorf("took %d bytes, busy for %v, %.0f byte-seconds waited; want 4096, 4s, %.0f", s.TakenOwned-before.TakenOwned, busy, waited, want)
	}
	send(3, wire.KindZero)
	n.now += time.Second
	if more := n.comp.status().Busy - before.Busy; more != 5*time.Second {
		t.Errorf("with one more on its way it was busy for %v, want 5s", more)
	}
}

// TestGrantAnew: another assignment is granted at once, though there are sets enough that are granted.
func TestGrantAnew(t *testing.T) {
	n, run := alone(t)
	written(t, n, run)
	g := n.state.Groups[1]
	for name, set := range map[string]*cluster.SetAgent{
		"nothing": {Agent: 1}, "a domain": {Agent: 1, Domain: new("here")}, "the targets' domain": {Agent: 2, Domain: new("there")},
	} {
		granted, grants := g.Granted, len(g.Grants)
		n.Propose(cluster.Command{SetAgent: set})
		run()
		if anew := len(g.Grants) > grants; anew != (g.Granted > granted) || anew == (name == "nothing") {
			t.Errorf("%s: %d grants up to set %d, before %d up to %d", name, len(g.Grants), g.Granted, grants, granted)
		}
	}
}
