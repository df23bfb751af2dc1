package core

import (
	"slices"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// TestGrowthNotHeardOf: an update above a volume's size meets a component that has not heard that the volume grows. It is
// refused as of another view, not as a bad one, nothing of it is stored or acknowledged, and it is sent again until the
// component has heard; and so it is where only the mirror has not.
func TestGrowthNotHeardOf(t *testing.T) {
	const wanted = 1<<40 + 1<<30
	grow := func(n *Node) {
		t.Helper()
		c := cluster.Command{ResizeVolume: &cluster.ResizeVolume{Volume: n.volume(), Size: wanted}}
		if _, err := n.state.Apply(1<<30, &c); err != nil {
			t.Fatal(err)
		}
		n.stateChanged()
	}
	component := func(id wire.AgentID) *Node {
		t.Helper()
		n, err := New(DefaultConfig(id, 1), Bootstrap(large(t, 2, 1, 1), []wire.AgentID{99}), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		n.Restored()
		n.Take()
		return n
	}
	for name, behind := range map[string]func(owner, mirror *Node) (late *Node){
		"the owner":  func(owner, mirror *Node) *Node { grow(mirror); return owner },
		"the mirror": func(owner, mirror *Node) *Node { grow(owner); return mirror },
	} {
		t.Run(name, func(t *testing.T) {
			p, s := sourceOf(t, nil)
			grow(p)
			g := p.state.Groups[1]
			const off = 1 << 40
			u := wire.Update{Volume: p.volume(), Portion: uint32(off / g.PortionSize), Kind: wire.KindZero, Offset: off, Length: 4096}
			pair := p.state.Pair(g, s.open, u.PortionID())
			nodes := map[wire.AgentID]*Node{p.cfg.ID: p, pair.Owner: component(pair.Owner), pair.Mirror: component(pair.Mirror)}
			late := behind(nodes[pair.Owner], nodes[pair.Mirror])
			if _, _, err := p.Submit(time.Second, 1, []wire.Update{u}, nil); err != nil {
				t.Fatal(err)
			}

			refused, stored, sent := 0, 0, 0
			heard := false
			for now := time.Second; now < 4*time.Second; now += 20 * time.Millisecond {
				if !heard && now >= 2*time.Second {
					if heard = true; refused < 2 || s.heldUpTo() != 0 {
						t.Fatalf("%d refusals, held up to %d, before the component has heard", refused, s.heldUpTo())
					}
					if stored > 1 || late == nodes[pair.Owner] && stored > 0 {
						t.Fatalf("%d frames were stored before the component has heard", stored)
					}
					grow(late)
				}
				p.now = now
				s.resend()
				for _, to := range p.Hops() {
					if out := p.NextFrame(now, to, 1<<20); out != nil {
						sent++
						h := out.Header
						nodes[to].ReceiveFrame(now, p.cfg.ID, out.Route, &wire.Body{
							Group: h.Group, Primary: h.Primary, Incarnation: h.Incarnation, Set: h.Set, Updates: slices.Clone(out.Updates),
						})
					}
				}
				for _, id := range []wire.AgentID{pair.Owner, pair.Mirror, p.cfg.ID} {
					n := nodes[id]
					if n != p {
						n.Tick(now)
					}
					e := n.Take()
					for _, ev := range e.Events {
						if ev.Name == "frame.refused" {
							t.Errorf("the primary takes it as refused for good: %v", ev.Attrs)
						}
					}
					for _, st := range e.Store {
						stored++
						n.Stored(now, st.ID, st.Body, nil)
					}
					for _, f := range e.Frames {
						nodes[f.To].ReceiveFrame(now, id, f.Route, f.Body)
					}
					for _, r := range e.Remirror {
						b := *r.Ref.(*wire.Body)
						nodes[r.To].ReceiveFrame(now, id, r.Route, &b)
					}
					for _, m := range e.Send {
						if nack, ok := m.Msg.(*FrameNack); ok {
							refused++
							if n != late || heard || nack.Reason != NackView {
								t.Errorf("%d refuses: %v", id, nack.Reason)
							}
						}
						if to := nodes[m.To]; to != nil {
							to.Receive(now, id, m.Msg)
						}
					}
				}
			}
			if stored != 2 || s.heldUpTo() != 1 || len(s.pending) != 0 {
				t.Errorf("%d copies stored, held up to %d, sent %d times", stored, s.heldUpTo(), sent)
			}
		})
	}
}
