package primary

import "testing"

// TestHurryIsOfThoseWhoWait: who waits ends the pauses of all others, and a group for which nobody waits hurries none.
func TestHurryIsOfThoseWhoWait(t *testing.T) {
	p := &Primary{}
	idle, busy := &group{p: p}, &group{p: p}
	groups := []*group{idle, busy}
	p.lookForHurry(groups)
	if p.hurried.Load() {
		t.Error("nobody waits, and there is haste")
	}
	pause := p.urge.wait()
	busy.waits = append(busy.waits, heldWait{})
	p.hurry()
	select {
	case <-pause:
	default:
		t.Error("a pause goes on though somebody waits")
	}
	p.lookForHurry(groups)
	if !p.hurried.Load() {
		t.Error("a write waits for being held, and there is no haste")
	}
	busy.waits = nil
	p.lookForHurry(groups)
	if p.hurried.Load() {
		t.Error("the write is answered, and there is haste")
	}
	idle.changed.wait()
	if p.lookForHurry(groups); !p.hurried.Load() {
		t.Error("a request waits for the end of a cut, and there is no haste")
	}
}
