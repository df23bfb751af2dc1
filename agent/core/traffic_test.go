package core

import (
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// sourceOf returns the node of a primary whose only set is open: two components share its one volume.
func sourceOf(t testing.TB, change func(*cluster.Group)) (*Node, *source) {
	t.Helper()
	st := large(t, 2, 1, 1)
	g := st.Groups[1]
	if change != nil {
		change(g)
	}
	primary := g.Primaries()[0]
	n, err := New(DefaultConfig(primary, 1), Bootstrap(st, []wire.AgentID{primary}), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	s := &source{n: n, group: 1, nonce: 2, ready: true}
	s.detach()
	n.sources[1], n.ordered = s, []*source{s}
	s.stateChanged()
	if s.open == 0 {
		t.Fatal("the set is not open")
	}
	return n, s
}

// submit numbers writes of whole blocks of 4 KiB, each of its own.
func submit(t testing.TB, n *Node, now time.Duration, blocks ...int) {
	t.Helper()
	for _, b := range blocks {
		u := wire.Update{Volume: n.volume(), Kind: wire.KindWrite, Offset: uint64(b) << 12, Length: 4096, Data: make([]byte, 4096)}
		if _, _, err := n.Submit(now, 1, []wire.Update{u}, b); err != nil {
			t.Fatal(err)
		}
	}
}

// volume returns the only one.
func (n *Node) volume() wire.VolumeID { return cluster.SortedKeys(n.state.Groups[1].Volumes)[0] }

// TestBandwidth: over any time a group sends its bandwidth and not more, counted in what frames become, repetitions included;
// senders are woken when something may leave, and a group without a limit waits for nothing.
func TestBandwidth(t *testing.T) {
	const rate, second = 1 << 20, time.Second
	n, s := sourceOf(t, func(g *cluster.Group) { g.Bandwidth = rate })
	begin, end := 2*second, 6*second
	var sent, frames int64
	block := 0
	for now := begin; now < end; now += 10 * time.Millisecond {
		n.eff.Wake = false
		for range 64 { // more than the limit lets through; nothing is written twice
			block++
			submit(t, n, now, block)
		}
		n.eff.Wake = false
		waited := s.band.refused
		s.bandTick() // what Tick does at first
		woken := n.eff.Wake
		for _, to := range n.Hops() {
			for out := n.NextFrame(now, to, 1<<20); out != nil; out = n.NextFrame(now, to, 1<<20) {
				if waited && !woken {
					t.Fatalf("at %v a frame left after one was refused, and nobody was woken", now)
				}
				if out.Bytes > bandwidthFrameMin {
					t.Fatalf("a frame of %d bytes at %d bytes a second", out.Bytes, rate)
				}
				wireBytes := out.Bytes / 2 // it compressed
				n.Sent(now, 1, out.Bytes, wireBytes)
				sent += wireBytes
				if frames++; sent > 2*rate*int64(end/second) {
					t.Fatalf("%d bytes left by %v", sent, now)
				}
				if frames%3 == 0 {
					n.Disconnected(now, to) // and is sent again
				}
			}
		}
		s.pipes = map[wire.AgentID]*pipe{} // acks are not what this is about
	}
	want := float64(rate) * (end - begin).Seconds()
	if got := float64(sent); got < 0.95*want || got > 1.05*want+bandwidthFrameMin+rate/10 {
		t.Errorf("%d bytes left in %v, want %.0f", sent, end-begin, want)
	}
	if s.traffic.Sent != sent || s.traffic.Framed < 2*sent*9/10 || s.traffic.Compressed() < sent*9/10 {
		t.Errorf("traffic %+v, sent %d", s.traffic, sent)
	}

	n, _ = sourceOf(t, nil)
	submit(t, n, second, 1, 2, 3)
	for range 3 {
		submit(t, n, second, 4)
		out := n.NextFrame(second, n.Hops()[0], 1<<20)
		if out == nil {
			t.Fatal("a group without a limit waits")
		}
		n.Sent(second, 1, out.Bytes, out.Bytes)
	}
}
