package core

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// spillAll exchanges payloads as a shell does, and returns their seqs.
func spillAll(n *Node, now time.Duration, keep, most int64, open bool) []wire.Seq {
	var seqs []wire.Seq
	inc, out := n.Spillable(1, keep, most, open)
	var places []Spilled
	for _, sp := range out {
		if len(sp.Update.Data) == 0 || sp.Handle == nil {
			panic("there is nothing to spill in it")
		}
		seqs = append(seqs, sp.Update.Seq)
		places = append(places, Spilled{Seq: sp.Update.Seq, Handle: fmt.Sprint("place of ", sp.Update.Seq)})
	}
	n.Spilled(now, 1, inc, places)
	return seqs
}

// counted checks the figures of what is spilled against the updates themselves.
func counted(t *testing.T, s *source) {
	t.Helper()
	var bytes, updates, queued int64
	for _, it := range s.pending {
		if it.spilled != 0 {
			bytes, updates = bytes+int64(it.u.Length), updates+1
			if it.u.Data != nil || it.u.Kind != wire.KindWrite || it.handle == nil {
				t.Errorf("seq %d is spilled: %+v", it.u.Seq, it)
			}
		}
		queued += it.cost()
	}
	if s.spill.bytes != bytes || s.spill.updates != updates || s.queued != queued {
		t.Errorf("counted %d bytes in %d updates and %d queued, have %d, %d, %d", s.spill.bytes, s.spill.updates, s.queued, bytes, updates, queued)
	}
}

// TestSpill: what is exchanged is what waits in closed sets behind the first bytes, the oldest first; it goes out in its place.
func TestSpill(t *testing.T) {
	now := time.Second
	n, s := sourceOf(t, nil)
	submit(t, n, now, 1, 2, 3, 4, 5, 6, 7, 8)
	if got := spillAll(n, now, 0, 1<<20, false); got != nil {
		t.Fatalf("of the open set %v are spilled", got)
	}
	closed := s.open
	s.closeLocal() // 9 is its mark
	if s.open == closed {
		t.Fatal("the set is not closed")
	}
	submit(t, n, now, 1, 2) // 10, 11
	const each = 4096 + updateOverhead
	if got := spillAll(n, now, 2*each, 2*each, false); !slices.Equal(got, []wire.Seq{3, 4}) {
		t.Fatalf("spilled %v, want the first two behind two", got)
	}
	counted(t, s)
	if got := n.eff.Release; !slices.Equal(got, []any{3, 4}) {
		t.Errorf("released %v, want the payloads of 3 and 4", got)
	}
	if got := spillAll(n, now, 2*each, 1<<20, false); !slices.Equal(got, []wire.Seq{5, 6, 7, 8}) {
		t.Fatalf("then spilled %v, want the rest of the closed set", got)
	}
	if got := spillAll(n, now, 0, 1, true); !slices.Equal(got, []wire.Seq{10}) {
		t.Fatalf("then spilled %v, want one of the open set", got)
	}
	if v, _ := n.View(1); v.Spilled != 7*4096 || v.SpilledUpdates != 7 || v.Queued != s.queued {
		t.Errorf("the view says %d bytes in %d updates are spilled, and %d queued", v.Spilled, v.SpilledUpdates, v.Queued)
	}
	// What of the open set is superseded all the same gives its place back.
	n.eff.Release = nil
	submit(t, n, now, 1) // 12
	if k := kinds(s); k[10] != wire.KindFolded || !slices.Equal(n.eff.Release, []any{"place of 10"}) {
		t.Errorf("10 is %v, released %v", k[10], n.eff.Release)
	}
	counted(t, s)

	// It goes out as it would have, twice if need be, with its place for a payload.
	for range 2 {
		to := n.Hops()[0]
		out := n.NextFrame(now, to, 1<<20)
		if len(out.Updates) < 2 || out.Bytes != int64(len(out.Updates))*each {
			t.Fatalf("a frame of %d updates counts %d bytes", len(out.Updates), out.Bytes)
		}
		for i, u := range out.Updates {
			spilled := u.Seq >= 3
			if want := any(int(u.Seq)); spilled {
				want = fmt.Sprint("place of ", u.Seq)
				if out.Handles[i] != want || u.Data != nil || u.Length != 4096 {
					t.Errorf("seq %d goes out with %v, want %v: %+v", u.Seq, out.Handles[i], want, u)
				}
			} else if out.Handles[i] != want || len(u.Data) != 4096 {
				t.Errorf("seq %d goes out with %v, want %v", u.Seq, out.Handles[i], want)
			}
		}
		n.Disconnected(now, to)
	}
	if got := s.traffic.Framed; got%4096 != 0 || got == 0 {
		t.Errorf("%d bytes were framed", got)
	}

	// Held, or dropped with the incarnation, each handle is given back once.
	n.eff.Release = nil
	for range 1000 {
		to := n.Hops()
		if len(to) == 0 {
			break
		}
		if out := n.NextFrame(now, to[0], 1<<20); out != nil {
			s.acked(s.flights[out.Route.No].to, out.Route.No)
			counted(t, s)
		}
	}
	if len(s.pending) != 0 || s.spill.bytes != 0 || s.spill.updates != 0 {
		t.Fatalf("%d are pending, %+v", len(s.pending), s.spill)
	}
	if want := 8 + 2; len(n.eff.Release) != want { // 10 was given back when it was folded
		t.Errorf("released %v, want %d handles", n.eff.Release, want)
	}
}

// TestSpillLate: what was sent, superseded, held or dropped while its payload was being written keeps what it has, and the place
// is given back at once.
func TestSpillLate(t *testing.T) {
	now := time.Second
	for _, tc := range []struct {
		name   string
		change func(n *Node, s *source)
	}{
		{"sent", func(n *Node, s *source) {
			for len(s.queues) > 0 {
				n.NextFrame(now, n.Hops()[0], 1<<20)
			}
		}},
		{"folded", func(n *Node, s *source) { submit(t, n, now, 1) }},
		{"suspended", func(n *Node, s *source) { n.Suspend(now, 1) }},
		{"another incarnation", func(n *Node, s *source) { s.inc++ }},
		{"twice", func(n *Node, s *source) { spillAll(n, now, 0, 1<<20, true) }},
		{"removed", func(n *Node, s *source) { n.RemoveSource(now, 1) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n, s := sourceOf(t, func(g *cluster.Group) {})
			submit(t, n, now, 1)
			inc, out := n.Spillable(1, 0, 1<<20, true)
			if len(out) != 1 {
				t.Fatalf("%d are to be spilled", len(out))
			}
			s.spill.next = 0
			tc.change(n, s)
			n.eff.Release = nil
			before := s.spill
			n.Spilled(now, 1, inc, []Spilled{{Seq: 1, Handle: "place"}})
			if !slices.Equal(n.eff.Release, []any{"place"}) {
				t.Errorf("released %v, want the place", n.eff.Release)
			}
			if before != s.spill {
				t.Errorf("counted %+v, before %+v", s.spill, before)
			}
			counted(t, s)
		})
	}
}
