package core

import (
	"slices"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// kinds returns what every update that is not held has become.
func kinds(s *source) map[wire.Seq]wire.Kind {
	out := map[wire.Seq]wire.Kind{}
	for _, it := range s.pending {
		out[it.u.Seq] = it.u.Kind
	}
	return out
}

// TestFolding: a write that is superseded before it was sent loses its data and keeps its place; one that was sent, one of an
// older set, one below a check of its portion, one that is covered in part and one of a sync group stay.
func TestFolding(t *testing.T) {
	now := time.Second
	n, s := sourceOf(t, nil)
	submit(t, n, now, 1, 2, 1, 1)
	want := map[wire.Seq]wire.Kind{1: wire.KindFolded, 2: wire.KindWrite, 3: wire.KindFolded, 4: wire.KindWrite}
	for seq, kind := range want {
		if got := kinds(s)[seq]; got != kind {
			t.Errorf("seq %d is %v, want %v", seq, got, kind)
		}
	}
	if got := s.pending[0].u; got.Into != 2 || got.Data != nil || s.pending[2].u.Into != 1 {
		t.Errorf("seq 1 is folded into %d seqs later, seq 3 into %d", got.Into, s.pending[2].u.Into)
	}
	if released := n.eff.Release; !slices.Equal(released, []any{1, 1}) {
		t.Errorf("released %v, want what was folded", released)
	}
	if s.queued != 2*4096+4*updateOverhead || s.setBytes != s.queued || s.traffic.Folded != 2*4096 || s.folding.pending != 2 {
		t.Errorf("queued %d, in the set %d, folded %d in %d", s.queued, s.setBytes, s.traffic.Folded, s.folding.pending)
	}
	if line := s.lines[s.pending[0].u.PortionID()]; line.Count != 4 {
		t.Errorf("the manifest counts %d seqs, want 4", line.Count)
	}

	// What was sent stays as it was sent, whatever became of it.
	to := n.Hops()[0]
	out := n.NextFrame(now, to, 1<<20)
	if out == nil || len(out.Updates) != 4 {
		t.Fatalf("sent %+v", out)
	}
	n.Disconnected(now, to)
	submit(t, n, now, 1, 2) // 5, 6
	if k := kinds(s); k[4] != wire.KindWrite || k[2] != wire.KindWrite {
		t.Errorf("folded what was sent: %v", k)
	}

	// A check is a barrier in its portion.
	check := wire.Update{Volume: n.volume(), Kind: wire.KindCheck, Length: 8192, Data: []byte("digest of it")}
	if _, _, err := n.Submit(now, 1, []wire.Update{check}, nil); err != nil { // 7
		t.Fatal(err)
	}
	submit(t, n, now, 1) // 8
	if k := kinds(s); k[5] != wire.KindWrite {
		t.Error("folded across a check")
	}
	submit(t, n, now, 1) // 9
	if k := kinds(s); k[8] != wire.KindFolded {
		t.Error("not folded above a check")
	}
	half := wire.Update{Volume: n.volume(), Kind: wire.KindWrite, Offset: 4096, Length: 512, Data: make([]byte, 512)}
	if _, _, err := n.Submit(now, 1, []wire.Update{half}, nil); err != nil { // 10
		t.Fatal(err)
	}
	if k := kinds(s); k[9] != wire.KindWrite {
		t.Error("folded into an update that covers it in part")
	}

	// A trim supersedes a write, and the next set nothing of this one.
	trim := wire.Update{Volume: n.volume(), Kind: wire.KindTrim, Offset: 1 << 12, Length: 4096}
	if _, _, err := n.Submit(now, 1, []wire.Update{trim}, nil); err != nil { // 11
		t.Fatal(err)
	}
	if k := kinds(s); k[9] != wire.KindFolded || k[6] != wire.KindWrite {
		t.Errorf("seq 9 is %v, and seq 6, below the check, %v", k[9], k[6])
	}
	submit(t, n, now, 3) // 12
	s.closeSet(s.open + 1)
	submit(t, n, now, 3)
	if k := kinds(s); k[12] != wire.KindWrite {
		t.Error("folded into an update of the next set")
	}

	n, s = sourceOf(t, func(g *cluster.Group) { g.Mode = cluster.Sync })
	submit(t, n, now, 1, 1)
	if k := kinds(s); k[1] != wire.KindWrite {
		t.Error("folded in a sync group")
	}
}

// TestSetStaysOpenToFold: a set lasts longer than its period where sets before it are still to be sent and much in it is
// superseded, and then up to foldStretch periods.
func TestSetStaysOpenToFold(t *testing.T) {
	const period = time.Second
	lasts := func(unsent bool, blocks ...int) time.Duration {
		n, s := sourceOf(t, func(g *cluster.Group) { g.PeriodMS = period.Milliseconds() })
		began := 2 * time.Second
		submit(t, n, began, 9)
		s.closeSet(s.open + 1)
		if !unsent {
			for _, to := range n.Hops() {
				for n.NextFrame(began, to, 1<<20) != nil {
				}
			}
		}
		submit(t, n, began, blocks...)
		for set := s.open; s.open == set; n.now += period / 4 {
			s.tick()
			if n.now > began+100*period {
				t.Fatal("it stays open for ever")
			}
		}
		return n.now - period/4 - began
	}
	for _, c := range []struct {
		unsent bool
		blocks []int
		want   time.Duration
	}{
		{true, []int{1, 1, 1}, foldStretch * period},
		{true, []int{1, 1, 2, 3, 4, 5}, period}, // little is superseded
		{true, []int{1, 2, 3}, period},
		{true, nil, period},
		{false, []int{1, 1, 1}, period},
	} {
		if got := lasts(c.unsent, c.blocks...); got != c.want {
			t.Errorf("writes to %v, with the set before them unsent: %v: open for %v, want %v", c.blocks, c.unsent, got, c.want)
		}
	}
}

// TestPrefix: a seal ends at the highest place where it separates nothing.
func TestPrefix(t *testing.T) {
	h := &holding{}
	f := &frame{updates: []wire.Update{
		{Seq: 3, More: true}, {Seq: 4}, {Seq: 6, Into: 3}, {Seq: 7, Into: 5}, {Seq: 9}, {Seq: 12}, {Seq: 13, Into: 1, More: true}, {Seq: 14}, {Seq: 20, Into: 10},
	}}
	for i := range f.updates {
		h.entries = append(h.entries, &entry{seq: f.updates[i].Seq, f: f, i: int32(i), durable: f.updates[i].Seq != 20})
	}
	_, more := h.list(0)
	var u union
	if err := more.EachRun(func(lo, hi wire.Seq) { u.more = append(u.more, seqRun{lo, hi}) }); err != nil {
		t.Fatal(err)
	}
	u.more = append(u.more, seqRun{6, 8}, seqRun{17, 18}) // of another portion
	u.mergeRuns()
	for s, want := range map[wire.Seq]wire.Seq{1: 1, 2: 2, 3: 2, 4: 4, 5: 5, 6: 5, 8: 5, 11: 5, 12: 12, 13: 12, 14: 14, 17: 16, 18: 16, 19: 19, 25: 25} {
		if got := u.prefix(s, 0); got != want {
			t.Errorf("a prefix up to %d ends at %d, want %d", s, got, want)
		}
	}
	if got := u.prefix(8, 7); got != 7 {
		t.Errorf("a prefix goes back to %d, below what is committed", got)
	}
}
