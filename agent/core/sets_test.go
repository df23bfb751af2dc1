package core

import (
	"testing"
	"time"

	"flotilla/wire"
)

// TestWholeStaysWhole: where an older incarnation may still make a first copy count, what is left to copy breaks the sets of the
// new one until nothing is. What a failed write leaves to be copied later breaks nothing: in sync the other primaries'
// acknowledged writes of these sets would not be in any recovery point.
func TestWholeStaysWhole(t *testing.T) {
	n, s := sourceOf(t, nil)
	s.again = true
	for _, step := range []struct {
		said   bool // that it is broken, as long as nothing else was said
		left   int64
		broken bool
	}{{true, 0, true}, {false, 4096, true}, {false, 1, true}, {false, 0, false}, {false, 4096, false}} {
		n.SetResync(1, step.said, nil, step.left, 8192)
		submit(t, n, time.Second, 1)
		s.closeSet(s.open + 1)
		mark := s.pending[len(s.pending)-1]
		if mark.u.Kind != wire.KindMark {
			t.Fatalf("the last update is a %v", mark.u.Kind)
		}
		m, err := DecodeManifest(mark.u.Data)
		if err != nil {
			t.Fatal(err)
		}
		if m.Broken != step.broken {
			t.Errorf("%d bytes left: broken %v, want %v", step.left, m.Broken, step.broken)
		}
	}
}
