package cluster

import (
	"maps"
	"testing"

	"flotilla/wire"
)

// keptGroup returns a group whose only primary was whole in incarnation 256, ended in the middle of a resync in 512, and goes
// on with it in 768.
func keptGroup() (*State, *Group) {
	g := &Group{
		ID: 1, Mode: Async, Phase: Replicating, Granted: 20, Committed: 3, ApplyTo: 3, Applied: 3,
		Volumes: map[wire.VolumeID]*Volume{1: {ID: 1, Primary: 1, CopiedAt: 1}}, Verdicts: map[wire.Set]bool{},
		Incs: []*Incarnation{
			{ID: 256, Primary: 1, First: 1, Ended: true, Sealed: true, Seal: 9, Last: 3, Marked: true, CommittedSeq: 9, Whole: 1},
			{ID: 512, Primary: 1, First: 5, Ended: true, Sealed: true, Seal: 30, Last: 8},
			{ID: 768, Primary: 1, First: 12},
		},
		Grants: []Grant{{First: 4, Last: 4, Incs: []wire.Incarnation{256}}, {First: 5, Last: 11, Incs: []wire.Incarnation{512}}, {First: 12, Last: 20, Incs: []wire.Incarnation{768}}},
	}
	s := New("c")
	s.Index = 3
	s.Groups[1] = g
	return s, g
}

func TestKept(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(g *Group)
		want   map[wire.Incarnation]wire.Set
	}{
		{"sealed in the middle of a set", func(*Group) {}, map[wire.Incarnation]wire.Set{256: 3, 512: 7}},
		{"sealed at a mark", func(g *Group) { g.Incs[1].Marked = true }, map[wire.Incarnation]wire.Set{256: 3, 512: 8}},
		{"not sealed", func(g *Group) { g.Incs[1].Sealed = false }, map[wire.Incarnation]wire.Set{256: 3}},
		{"sealed in its first set", func(g *Group) { g.Incs[1].Last = 5 }, map[wire.Incarnation]wire.Set{256: 3}},
		{"sealed before its first set", func(g *Group) { g.Incs[1].Last, g.Incs[1].Marked = 4, true }, map[wire.Incarnation]wire.Set{256: 3}},
		{"another's", func(g *Group) { g.Incs[1].Primary = 2 }, map[wire.Incarnation]wire.Set{256: 3}},
		{"given up", func(g *Group) { g.giveUp(true) }, nil},
		{"given up before it was granted", func(g *Group) { g.GivenUp = 4 }, map[wire.Incarnation]wire.Set{512: 7}},
		{"promoting", func(g *Group) { g.Phase = Promoting }, nil},
		{"dropped by a promote", func(g *Group) { g.dropBroken() }, map[wire.Incarnation]wire.Set{256: 3}},
	} {
		_, g := keptGroup()
		c.change(g)
		if got := g.Kept(1); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	s, g := keptGroup()
	for id, want := range map[wire.Incarnation]bool{512: false, 768: true, 600: false, 1024: true, 1025: true} {
		if got := s.Undecided(g, id); got != want {
			t.Errorf("incarnation %d: undecided %v, want %v", id, got, want)
		}
	}
}

// A promote between the commit of a resync and its application must not take from under it what an earlier incarnation has
// copied of it.
func TestTakenInSurvivesPromote(t *testing.T) {
	for _, said := range []bool{true, false} {
		s, g := keptGroup()
		taken := g.Taken(1, 14)
		if len(taken) != 1 || taken[0].ID != 512 {
			t.Fatalf("taken in: %+v", taken)
		}
		c := &Commit{Group: 1, UpTo: 14, View: s.View, Ends: []IncEnd{{Inc: 512, Seq: 30}, {Inc: 768, Seq: 12, Whole: 14}}}
		if said {
			c.Ends[0].Whole = 14
		}
		g.commit(c)
		if (len(g.Taken(1, 15)) == 0) != said {
			t.Errorf("said %v: taken in again: %v", said, g.Taken(1, 15))
		}
		if err := s.promote(&Promote{Group: 1}); err != nil {
			t.Fatal(err)
		}
		if got := g.Incs[1].Contributes(7); got != said {
			t.Errorf("said %v: after the promote incarnation 512 contributes: %v", said, got)
		}
		for n := wire.Set(5); n < 14; n++ {
			if said && g.WholeAt(1, n, nil, nil) {
				t.Errorf("the primary is whole at set %d, in the middle of the resync", n)
			}
		}
	}
}
