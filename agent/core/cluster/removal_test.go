package cluster

import (
	"strings"
	"testing"

	"flotilla/wire"
)

// pairFleet is a fleet whose group has two incarnations, sets granted up to 6 and committed up to 2, of which 1 is applied.
func pairFleet(t *testing.T, mode Mode) (s *State, do func(Command) error) {
	t.Helper()
	s = fleet(t)
	g := s.Groups[1]
	g.Mode = mode
	index := uint64(1000)
	do = func(c Command) error {
		index++
		_, err := s.Apply(index, &c)
		return err
	}
	for i, c := range []Command{
		{Attach: &Attach{Group: 1, Primary: 4, Nonce: 1}},
		{Attach: &Attach{Group: 1, Primary: 5, Nonce: 2}},
		{Open: &Open{Group: 1, First: 1, Last: 6, View: s.View}},
		{Verdict: &Verdict{Group: 1, Set: 1, Cut: true}},
		{Verdict: &Verdict{Group: 1, Set: 2, Cut: true}},
	} {
		if err := do(c); err != nil {
			t.Fatalf("command %d: %v", i, err)
		}
	}
	for set := wire.Set(1); set <= 2; set++ {
		ends := []IncEnd{{Inc: g.Live(4).ID, Seq: wire.Seq(10 * set), Whole: 1}, {Inc: g.Live(5).ID, Seq: wire.Seq(20 * set), Whole: 1}}
		if err := do(Command{Commit: &Commit{Group: 1, UpTo: set, View: s.View, Ends: ends, Copied: []wire.VolumeID{1, 2}, Label: int64(set)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := do(Command{ApplyTo: &ApplyTo{Group: 1, UpTo: 2, View: s.View}}); err != nil {
		t.Fatal(err)
	}
	if err := do(Command{Applied: &Applied{Group: 1, Set: 1, View: s.View}}); err != nil {
		t.Fatal(err)
	}
	return s, do
}

// A removed primary is cut off at the newest point: what is committed still reaches its target, nothing else does, and
// nothing that is decided later asks for it.
func TestRemovePrimary(t *testing.T) {
	s, do := pairFleet(t, Async)
	g := s.Groups[1]
	inc := g.Live(5)
	if err := do(Command{RemovePrimary: &RemovePrimary{Group: 1, Primary: 5}}); err != nil {
		t.Fatal(err)
	}
	v := g.Volumes[2]
	switch {
	case v.Removed == nil || v.Removed.Point != (RecoveryPoint{Set: 2, Label: 2}) || !v.Usable() || g.Done(v):
		t.Errorf("volume %+v, removal %+v", v, v.Removed)
	case g.Volumes[1].Removed != nil:
		t.Error("the other's volume is removed, too")
	case !inc.Sealed || inc.Seal != 40 || inc.Last != 2 || !inc.Contributes(2) || inc.Contributes(3):
		t.Errorf("its incarnation: %+v", inc)
	case len(g.Primaries()) != 1 || !g.WholeAt(5, 6, nil, nil):
		t.Errorf("it still counts: primaries %v", g.Primaries())
	}
	if _, decided := g.Verdict(6); !decided {
		t.Error("nobody will ever say whether the end of set 6 is a cut")
	}
	if err := do(Command{Attach: &Attach{Group: 1, Primary: 5, Nonce: 3}}); err != nil || g.Live(5) != nil {
		t.Errorf("it attached again: %v", err)
	}
	// A commit that was proposed before says that its first copy is whole; that is not so at its point.
	v.CopiedAt = 0
	if err := do(Command{Commit: &Commit{Group: 1, UpTo: 3, View: s.View, Copied: []wire.VolumeID{2}}}); err != nil || v.CopiedAt != 0 {
		t.Errorf("copied at %d after the removal: %v", v.CopiedAt, err)
	}
	v.CopiedAt = 1
	if err := do(Command{Applied: &Applied{Group: 1, Set: 2, View: s.View}}); err != nil || !g.Done(v) {
		t.Errorf("set 2 is applied and the target is not done: %v", err)
	}
	// The volume can be deleted, and made anew.
	for i, c := range []Command{
		{DeleteVolume: &DeleteVolume{Volume: 2}},
		{CreateVolume: &CreateVolume{Group: 1, Name: "v2", Size: 1 << 20, Primary: 5, Source: "v2", Secondary: 6, Target: "v2"}},
		{Attach: &Attach{Group: 1, Primary: 5, Nonce: 4}},
	} {
		if err := do(c); err != nil {
			t.Fatalf("command %d: %v", i, err)
		}
	}
	if g.Live(5) == nil {
		t.Error("the primary of the new volume did not attach")
	}
}

// An older incarnation whose seal lies above the point is cut back to it.
func TestRemovePrimaryCutsSeals(t *testing.T) {
	s, do := pairFleet(t, Async)
	g := s.Groups[1]
	inc := g.Live(5)
	for i, c := range []Command{
		{Attach: &Attach{Group: 1, Primary: 5, Nonce: 3}},
		{Seal: &Seal{Group: 1, Inc: inc.ID, Seq: 55, Last: 3, View: s.View}},
		{RemovePrimary: &RemovePrimary{Group: 1, Primary: 5}},
	} {
		if err := do(c); err != nil {
			t.Fatalf("command %d: %v", i, err)
		}
	}
	if inc.Seal != 40 || inc.Last != 2 || !inc.Marked || inc.Contributes(3) {
		t.Errorf("the older incarnation: %+v", inc)
	}
}

// Sets that were committed and are lost before the removed target had them leave it at the point before, or at none.
func TestRemovedTargetOfLostSets(t *testing.T) {
	for _, applying := range []bool{true, false} {
		s, do := pairFleet(t, Async)
		g := s.Groups[1]
		if !applying {
			g.ApplyTo = g.Applied
		}
		for i, c := range []Command{
			{RemovePrimary: &RemovePrimary{Group: 1, Primary: 5}},
			{GiveUp: &GiveUp{Group: 1, View: s.View, Applied: 1}},
		} {
			if err := do(c); err != nil {
				t.Fatalf("command %d: %v", i, err)
			}
		}
		v := g.Volumes[2]
		if v.Usable() == applying || !g.Done(v) || v.Removed.Point.Set != 1 {
			t.Errorf("applying %v: removal %+v, usable %v", applying, v.Removed, v.Usable())
		}
	}
}

// What an acknowledgement meant is not dropped in silence, and a removed primary leaves no doubt behind.
func TestRemovePrimaryOfSync(t *testing.T) {
	s, do := pairFleet(t, Sync)
	g := s.Groups[1]
	for i, c := range []Command{{Lose: &Lose{Agent: 1, View: s.View}}, {Lose: &Lose{Agent: 2, View: s.View + 1}}} {
		if err := do(c); err != nil {
			t.Fatalf("command %d: %v", i, err)
		}
	}
	if err := do(Command{RemovePrimary: &RemovePrimary{Group: 1, Primary: 5}}); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Fatalf("in a sync group: %v", err)
	}
	if err := do(Command{RemovePrimary: &RemovePrimary{Group: 1, Primary: 5, Force: true}}); err != nil {
		t.Fatal(err)
	}
	g.Live(4).Doubted = 0
	if g.Doubted() {
		t.Error("what the removed primary wrote is still in doubt")
	}
	g.doubt()
	for _, inc := range g.Incs {
		if inc.Primary == 5 && inc.Doubted != 0 {
			t.Error("what the removed primary wrote is in doubt again")
		}
	}
}

func TestRemovePrimaryRefusals(t *testing.T) {
	for want, c := range map[string]struct {
		before []Command
		ask    RemovePrimary
	}{
		"no group 9":     {ask: RemovePrimary{Group: 9, Primary: 5}},
		"has no volumes": {ask: RemovePrimary{Group: 1, Primary: 6}},
		"no volumes in it that": {
			before: []Command{{RemovePrimary: &RemovePrimary{Group: 1, Primary: 5}}}, ask: RemovePrimary{Group: 1, Primary: 5},
		},
		"its only one": {before: []Command{{DeleteVolume: &DeleteVolume{Volume: 1}}}, ask: RemovePrimary{Group: 1, Primary: 5}},
		"is promoting": {before: []Command{{Promote: &Promote{Group: 1}}}, ask: RemovePrimary{Group: 1, Primary: 5}},
	} {
		_, do := pairFleet(t, Async)
		for _, b := range c.before {
			if err := do(b); err != nil {
				t.Fatal(err)
			}
		}
		if err := do(Command{RemovePrimary: &c.ask}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, have %v", want, err)
		}
	}
}
