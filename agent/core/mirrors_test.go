package core

import (
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// TestFrameOfTwoMirrors: a frame of a primary that has heard of one joiner only holds updates that by now have two mirrors.
// Each of them is brought its part, and only then is the frame acknowledged.
func TestFrameOfTwoMirrors(t *testing.T) {
	st := cluster.New("00000000000000000000000000000000")
	index := uint64(1 << 8)
	do := func(c cluster.Command) uint64 {
		index++
		v, err := st.Apply(index, &c)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	agent := func(a cluster.AddAgent) wire.AgentID {
		a.Address = a.Name + ":1"
		return wire.AgentID(do(cluster.Command{AddAgent: &a}))
	}
	var cs []wire.AgentID
	for _, name := range []string{"c1", "c2", "c3"} {
		cs = append(cs, agent(cluster.AddAgent{Name: name, Backup: true}))
	}
	p := agent(cluster.AddAgent{Name: "p1", Primary: true})
	s := agent(cluster.AddAgent{Name: "s1", Secondary: true})
	do(cluster.Command{Admit: &cluster.Admit{Agent: cs[0]}})
	g := wire.GroupID(do(cluster.Command{CreateGroup: &cluster.CreateGroup{Name: "g", PortionSize: 1 << 20}}))
	vol := wire.VolumeID(do(cluster.Command{CreateVolume: &cluster.CreateVolume{Group: g, Name: "v", Size: 64 << 20, Primary: p, Source: "/s", Secondary: s, Target: "/t"}}))
	inc := wire.Incarnation(do(cluster.Command{Attach: &cluster.Attach{Group: g, Primary: p, Nonce: 1}}))
	do(cluster.Command{Open: &cluster.Open{Group: g, First: 1, Last: 4, View: st.View}})
	inc = st.Groups[g].Live(p).ID
	do(cluster.Command{Admit: &cluster.Admit{Agent: cs[1]}})
	do(cluster.Command{Admit: &cluster.Admit{Agent: cs[2]}})

	b := &wire.Body{Group: g, Primary: p, Incarnation: inc, Set: 1}
	want := map[wire.AgentID]int{}
	for i := range uint32(8) {
		pair := st.Pair(st.Groups[g], 1, wire.Portion{Volume: vol, Index: i})
		if pair.Owner != cs[0] || pair.Mirror == 0 {
			t.Fatalf("portion %d has %+v", i, pair)
		}
		want[pair.Mirror]++
		b.Updates = append(b.Updates, wire.Update{Seq: wire.Seq(i + 1), Volume: vol, Portion: i, Kind: wire.KindZero, Offset: uint64(i) << 20, Length: 4096})
	}
	if len(want) != 2 {
		t.Fatalf("the mirrors are %v", want)
	}
	n, err := New(DefaultConfig(cs[0], 1), Bootstrap(st, cs[:1]), 0)
	if err != nil {
		t.Fatal(err)
	}
	n.Restored()
	n.Take()
	n.ReceiveFrame(0, p, wire.Route{No: 7, View: st.View, Owner: cs[0], Mirror: cs[1]}, b)
	e := n.Take()
	if len(e.Store) != 1 || len(e.Frames) != 0 {
		t.Fatalf("%d frames to store and %d sent on", len(e.Store), len(e.Frames))
	}
	n.Stored(0, e.Store[0].ID, "ref", nil)
	acked := false
	for at := 10 * time.Millisecond; at < time.Second; at += 10 * time.Millisecond {
		n.Tick(at)
		e := n.Take()
		for _, r := range e.Remirror {
			if r.Route.Mirror != r.To {
				t.Errorf("to %d goes route %+v", r.To, r.Route)
			}
			if acked {
				t.Error("the frame was acknowledged before both mirrors had their part")
			}
			want[r.To] -= len(r.Index)
			n.Receive(at, r.To, &FrameAck{Nos: []uint64{r.Route.No}})
			e.Send = append(e.Send, n.Take().Send...)
		}
		for _, m := range e.Send {
			if a, ok := m.Msg.(*FrameAck); ok && m.To == p && a.Nos[0] == 7 {
				acked = true
			}
		}
	}
	if want[cs[1]] != 0 || want[cs[2]] != 0 || !acked {
		t.Errorf("the mirrors lack %v updates; acknowledged: %v", want, acked)
	}
}
