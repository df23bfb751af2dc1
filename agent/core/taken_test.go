package core

import (
	"testing"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// The commit that ends a resync says of the incarnations which began it that they are whole by it, also where all of their
// sets were committed before.
func TestCommitTakesIn(t *testing.T) {
	g := &cluster.Group{
		Mode: cluster.Async, Phase: cluster.Replicating, Committed: 3, Granted: 20,
		Volumes: map[wire.VolumeID]*cluster.Volume{1: {ID: 1, Primary: 1, CopiedAt: 1}},
		Incs: []*cluster.Incarnation{
			{ID: 1, Primary: 1, First: 1, Ended: true, Sealed: true, Seal: 4, Last: 2, CommittedSeq: 4},
			{ID: 2, Primary: 1, First: 5, Ended: true, Sealed: true, Seal: 30, Last: 8},
			{ID: 3, Primary: 1, First: 12},
		},
	}
	r := run{ends: map[wire.Incarnation]wire.Seq{2: 31, 3: 12}, whole: map[wire.Incarnation]wire.Set{}}
	ends := func() map[wire.Incarnation]cluster.IncEnd {
		cmd := &cluster.Commit{UpTo: 14, Ends: []cluster.IncEnd{{Inc: 2, Seq: 31}, {Inc: 3, Seq: 12, Whole: r.whole[3]}}}
		r.takenIn(g, 14, cmd)
		out := map[wire.Incarnation]cluster.IncEnd{}
		for _, e := range cmd.Ends {
			out[e.Inc] = e
		}
		return out
	}
	if got := ends(); len(got) != 2 || got[2].Whole != 0 {
		t.Errorf("the resync is not whole, and takes in %v", got)
	}
	r.whole[3] = 13
	got := ends()
	for id, want := range map[wire.Incarnation]cluster.IncEnd{1: {Inc: 1, Seq: 4, Whole: 14}, 2: {Inc: 2, Seq: 31, Whole: 14}, 3: {Inc: 3, Seq: 12, Whole: 13}} {
		if got[id] != want {
			t.Errorf("incarnation %d: %+v, want %+v", id, got[id], want)
		}
	}
}
