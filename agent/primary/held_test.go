package primary

import (
	"testing"

	"flotilla/agent/core"
)

// TestAnsweredByWhichLook: a look at a degraded group answers what had its place by then, and nothing that may have come after
// the end of the degradation, of which the look does not know.
func TestAnsweredByWhichLook(t *testing.T) {
	whole := core.GroupView{Inc: 7, Seq: 100, HeldUpTo: 90, Whole: true, Index: 50}
	degraded := whole
	degraded.Early = true
	detached := core.GroupView{Early: true, Index: 50}
	for name, c := range map[string]struct {
		view core.GroupView
		at   placed
		want bool
	}{
		"held":                                {whole, placed{inc: 7, seq: 90, index: 49}, true},
		"not held":                            {whole, placed{inc: 7, seq: 91, index: 49}, false},
		"not held, degraded":                  {degraded, placed{inc: 7, seq: 95, index: 50}, true},
		"numbered after the look":             {degraded, placed{inc: 7, seq: 95, index: 51}, false},
		"dirty before the look":               {detached, placed{index: 50}, true},
		"dirty after the look":                {detached, placed{index: 51}, false},
		"of an incarnation that has ended":    {detached, placed{inc: 7, seq: 3, index: 40}, true},
		"of the same, and not degraded since": {core.GroupView{Index: 60}, placed{inc: 7, seq: 3, index: 40}, false},
	} {
		w := heldWait{v: &volume{}, at: c.at}
		if got := w.heldLocked(&c.view); got != c.want {
			t.Errorf("%s: answered %v", name, got)
		}
	}
}
