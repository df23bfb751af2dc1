package core

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// The size that DESIGN wants to work: components, and volumes in one group or in several.
const (
	manyComponents = 64
	manyVolumes    = 1000
)

// large returns the state of a large cluster: components with weights and domains of their own, and the volumes of one
// primary in so many groups. Each group has an incarnation that is sealed, with unapplied sets, and one that writes.
func large(tb testing.TB, components, volumes, groups int) *cluster.State {
	tb.Helper()
	s := cluster.New("00000000000000000000000000000000")
	index := uint64(1 << 8)
	do := func(c cluster.Command) uint64 {
		index++
		v, err := s.Apply(index, &c)
		if err != nil {
			tb.Fatal(err)
		}
		s.Index = index >> 8
		return v
	}
	for i := range components {
		id := wire.AgentID(do(cluster.Command{AddAgent: &cluster.AddAgent{
			Name: fmt.Sprintf("component-%02d", i), Address: fmt.Sprintf("component-%02d.example.com:7431", i), Backup: true, Domain: fmt.Sprintf("site-%d", i%4),
		}}))
		do(cluster.Command{Admit: &cluster.Admit{Agent: id}})
		do(cluster.Command{SetAgent: &cluster.SetAgent{Agent: id, Weight: new(uint8(100 - i%50))}})
	}
	secondary := wire.AgentID(do(cluster.Command{AddAgent: &cluster.AddAgent{Name: "secondary", Address: "secondary.example.com:7431", Secondary: true, Domain: "site-1"}}))
	primary := wire.AgentID(do(cluster.Command{AddAgent: &cluster.AddAgent{Name: "primary", Address: "primary.example.com:7431", Primary: true, Domain: "site-0"}}))
	for i := range groups {
		g := wire.GroupID(do(cluster.Command{CreateGroup: &cluster.CreateGroup{Name: fmt.Sprintf("group-%02d", i)}}))
		for v := range volumes / groups {
			path := fmt.Sprintf("/dev/vg0/volume-%02d-%04d", i, v)
			do(cluster.Command{CreateVolume: &cluster.CreateVolume{
				Group: g, Name: fmt.Sprintf("volume-%04d", v), Size: 1 << 40, Primary: primary, Source: path, Secondary: secondary, Target: path,
			}})
		}
		do(cluster.Command{Attach: &cluster.Attach{Group: g, Primary: primary, Nonce: 1}})
		do(cluster.Command{Open: &cluster.Open{Group: g, First: 1, Last: 4, View: s.View}})
		if inc := s.Groups[g].Live(primary); inc != nil {
			do(cluster.Command{End: &cluster.End{Group: g, Inc: inc.ID}})
			do(cluster.Command{Seal: &cluster.Seal{Group: g, Inc: inc.ID, Seq: 9, Last: 2, Marked: true, View: s.View}})
		}
		do(cluster.Command{Attach: &cluster.Attach{Group: g, Primary: primary, Nonce: 2}})
		do(cluster.Command{Open: &cluster.Open{Group: g, First: 5, Last: 8, View: s.View}})
	}
	return s
}

// largeNode returns the captain of such a cluster, which is its first component too and has heard from all. The component
// holds updates of as many portions as said.
func largeNode(tb testing.TB, st *cluster.State, holdings int) *Node {
	tb.Helper()
	n, err := New(DefaultConfig(1, 1), Bootstrap(st, []wire.AgentID{1}), 0)
	if err != nil {
		tb.Fatal(err)
	}
	for i := 0; i < holdings; {
		for _, id := range cluster.SortedKeys(n.state.Groups) {
			g := n.state.Groups[id]
			inc := g.Incs[len(g.Incs)-1]
			b := &wire.Body{Group: id, Primary: inc.Primary, Incarnation: inc.ID, Set: 5 + wire.Set(i%4)}
			for _, v := range cluster.SortedKeys(g.Volumes)[:min(len(g.Volumes), holdings-i)] {
				b.Updates = append(b.Updates, wire.Update{Seq: wire.Seq(i + 1), Volume: v, Portion: uint32(i), Kind: wire.KindWrite, Offset: uint64(i) * g.PortionSize, Length: 4096})
				i++
			}
			if len(b.Updates) > 0 && !n.Restore(i, b) {
				tb.Fatalf("update %d is not taken", i)
			}
		}
	}
	n.Restored()
	for n.captain == nil {
		n.Tick(n.now + 10*time.Millisecond)
		for {
			if _, ok := n.RaftReady(); !ok {
				break
			}
			if err := n.RaftAdvance(n.now); err != nil {
				tb.Fatal(err)
			}
		}
	}
	n.Take()
	for _, id := range cluster.SortedKeys(n.state.Agents) {
		n.Receive(n.now, id, largeStatus(n.state, id, 1))
	}
	return n
}

// largeStatus is what an agent says of itself.
func largeStatus(st *cluster.State, id wire.AgentID, round uint64) *Status {
	s := &Status{Run: 1, Round: round, View: st.View, Applied: st.Index}
	if st.Agents[id].Backup {
		s.Component = &ComponentStatus{Life: st.Agents[id].Life, Owned: 1000, Mirrored: 1000}
	}
	if st.Agents[id].Primary {
		for _, gid := range cluster.SortedKeys(st.Groups) {
			inc := st.Groups[gid].Live(id)
			s.Groups = append(s.Groups, GroupStatus{Group: gid, Inc: inc.ID, Open: 5, Seq: 100, HeldUpTo: 90})
		}
	}
	return s
}

// BenchmarkScale takes the time of what an agent does again and again, in clusters of the largest size that is promised.
func BenchmarkScale(b *testing.B) {
	for _, shape := range []struct{ components, volumes, groups, holdings int }{
		{3, 10, 1, 100}, {64, 1000, 1, 10000}, {64, 1000, 10, 10000}, {64, 1000, 100, 10000}, {64, 1000, 1000, 10000},
	} {
		st := large(b, shape.components, shape.volumes, shape.groups)
		n := largeNode(b, st, shape.holdings)
		name := fmt.Sprintf("components=%d/volumes=%d/groups=%d/", shape.components, shape.volumes, shape.groups)
		b.Run(name+"pair", func(b *testing.B) {
			b.ReportAllocs()
			g := n.state.Groups[1]
			for i := range b.N {
				n.state.Pair(g, 5, wire.Portion{Volume: 1, Index: uint32(i)})
			}
		})
		b.Run(name+"captain-tick", func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				n.captain.tick()
				n.control.queue, n.eff = nil, Effects{}
			}
		})
		b.Run(name+"captain-hears-primary", func(b *testing.B) {
			b.ReportAllocs()
			id := wire.AgentID(shape.components + 2)
			for i := range b.N {
				n.captain.receive(id, largeStatus(n.state, id, uint64(i)+2))
				n.eff = Effects{}
			}
		})
		b.Run(name+"component-tick", func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				n.now += 10 * time.Millisecond
				n.comp.tick()
				n.control.queue, n.eff = nil, Effects{}
			}
		})
		b.Run(name+"component-status", func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				n.comp.status()
			}
		})
		b.Run(name+"state-change", func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				n.stateChanged()
				n.control.queue, n.eff = nil, Effects{}
			}
		})
		b.Run(name+"new-view", func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				n.comp.view--
				n.stateChanged()
				n.control.queue, n.eff = nil, Effects{}
			}
		})
		b.Run(name+"snapshot", func(b *testing.B) {
			for range b.N {
				b.SetBytes(int64(len(n.state.Encode())))
			}
		})
	}
}

// TestStateSize: what a component, a volume, a group and a grant cost in the replicated state, and so in a snapshot, is
// small, and sets that are granted alike cost nothing.
func TestStateSize(t *testing.T) {
	bytes := func(components, volumes, groups int) int { return len(large(t, components, volumes, groups).Encode()) }
	whole := bytes(manyComponents, manyVolumes, 1)
	volume := (whole - bytes(manyComponents, manyVolumes/2, 1)) / (manyVolumes / 2)
	component := (whole - bytes(manyComponents/2, manyVolumes, 1)) / (manyComponents / 2)
	group := (bytes(manyComponents, manyVolumes, 11) - whole) / 10
	st := large(t, manyComponents, manyVolumes, 1)
	index := uint64(1 << 30)
	grant := func(sets wire.Set) {
		g := st.Groups[1]
		for end := g.Granted + sets; g.Granted < end; {
			index++
			if _, err := st.Apply(index, &cluster.Command{Open: &cluster.Open{Group: 1, First: g.Granted + 1, Last: g.Granted + 4, View: st.View}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	grant(40000)
	alike := len(st.Encode()) - whole
	for i := range 10 {
		st.Agents[1].Weight = uint8(i + 1)
		grant(4)
	}
	each := (len(st.Encode()) - whole - alike) / 10
	t.Logf("%d bytes; a component %d, a volume %d, a group %d; 40000 sets granted alike %d, a grant %d", whole, component, volume, group, alike, each)
	for what, c := range map[string]struct{ have, most int }{
		"component": {component, 300}, "volume": {volume, 200}, "group": {group, 4000}, "40000 sets granted alike": {alike, 16}, "grant": {each, 1200},
	} {
		if c.have > c.most {
			t.Errorf("%s: %d bytes, want at most %d", what, c.have, c.most)
		}
	}
}

// BenchmarkMemory reports what the replicated state of the largest cluster takes in memory on each agent, and what a
// component's index takes for an unapplied update.
func BenchmarkMemory(b *testing.B) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	st := large(b, manyComponents, manyVolumes, 1)
	g := st.Groups[1]
	inc := g.Incs[len(g.Incs)-1]
	for range b.N {
		before := heap()
		n := largeNode(b, st, 0)
		node := heap() - before
		const updates = 100000
		for i := 0; i < updates; {
			body := &wire.Body{Group: 1, Primary: inc.Primary, Incarnation: inc.ID, Set: 5}
			for range 64 { // updates of 4 KiB in a frame
				i++
				body.Updates = append(body.Updates, wire.Update{Seq: wire.Seq(i), Volume: wire.VolumeID(1 + i%100), Kind: wire.KindWrite, Length: 4096})
			}
			n.Restore(i, body)
		}
		b.ReportMetric(float64(node), "B/agent")
		b.ReportMetric(float64(heap()-before-node)/updates, "B/update")
		runtime.KeepAlive(n)
	}
}
