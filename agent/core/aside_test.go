package core

import "testing"

// TestPutAside: what is put aside is not offered, still counts as to be copied, and comes back with Recall, or is done when
// it is copied by other means.
func TestPutAside(t *testing.T) {
	e := NewExtents(4, 1, nil)
	e.Resync()
	for _, want := range []int{0, 1, 2, 3} {
		i, _, ok := e.NextRun(1)
		if !ok || i != want {
			t.Fatalf("next is %d, %v, want %d", i, ok, want)
		}
		if i%2 == 0 {
			e.PutAside(i)
			e.PutAside(i)
		} else {
			e.Copied(i, 1)
		}
	}
	if i, _, ok := e.NextRun(1); ok {
		t.Errorf("extent %d is offered", i)
	}
	if n, first := e.Aside(1); n != 2 || len(first) != 1 || first[0] != 0 || e.ToCopy() != 2 {
		t.Errorf("%d put aside from %v on, %d to copy", n, first, e.ToCopy())
	}
	e.Copied(2, 1)
	e.Recall()
	if i, _, ok := e.NextRun(1); !ok || i != 0 || e.ToCopy() != 1 {
		t.Errorf("after the recall next is %d, %v, with %d to copy", i, ok, e.ToCopy())
	}
	e.PutAside(0)
	e.Detach()
	if n, _ := e.Aside(4); n != 0 {
		t.Errorf("%d put aside after the incarnation", n)
	}
}
