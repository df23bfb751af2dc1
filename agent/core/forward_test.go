package core

import "testing"

// TestForwardsOfAnother: who has become neither owner nor mirror of a holding brings nothing of it to its owner any more. What
// it mirrors, or owns by now, is waited for as before; and so is what was settled before it was another's.
func TestForwardsOfAnother(t *testing.T) {
	n, _ := alone(t)
	c, id := n.comp, n.cfg.ID
	mirrored, taken, another := &holding{owner: 2, mirror: id}, &holding{owned: true, owner: id, mirror: 2}, &holding{owner: 2, mirror: 3}
	for _, tt := range []struct {
		name    string
		wait    ackWait
		dropped bool
	}{
		{"a mirror's", ackWait{forward: true, entries: []*entry{{h: mirrored}}}, false},
		{"its owner was lost", ackWait{forward: true, entries: []*entry{{h: taken}}}, false},
		{"another mirrors it", ackWait{forward: true, entries: []*entry{{h: mirrored}, {h: another}}}, true},
		{"given back, another mirrors it", ackWait{forward: true, back: another, entries: []*entry{{h: another}}}, true},
		{"it was settled before", ackWait{forward: true, entries: []*entry{{h: another}, {h: mirrored}}, next: 1}, false},
		{"it is applied", ackWait{forward: true, entries: []*entry{{h: another, gone: true}}}, false},
		{"an owner's frame", ackWait{entries: []*entry{{h: another}}}, false},
	} {
		c.acking.add(&tt.wait)
		c.dropForwards()
		if tt.wait.over != tt.dropped {
			t.Errorf("%s: dropped %v, want %v", tt.name, tt.wait.over, tt.dropped)
		}
		c.acking.end(&tt.wait)
	}
	if c.acking.forwards != 0 {
		t.Errorf("%d forwards are left", c.acking.forwards)
	}
}
