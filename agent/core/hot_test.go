package core

import (
	"math/rand/v2"
	"slices"
	"testing"

	"flotilla/wire"
)

// TestWorkingSetKeepsItsBits writes a working set in every set and other extents once each: the bits of the working set
// are never cleared, wherever on the volume it lies, and so cost nothing but their first flush.
func TestWorkingSetKeepsItsBits(t *testing.T) {
	const n, keep = 1000, 64
	rng := rand.New(rand.NewPCG(1, 2))
	e := NewExtents(n, 1, func(int) bool { return false })
	e.Resync()
	hot := rng.Perm(n)[:keep/2]
	grew, rounds := 0, 0
	for set := wire.Set(1); set <= 500; set++ {
		for k, i := range hot {
			if uint64(k)%4 != uint64(set)%4 {
				continue // it is written every now and then
			}
			if e.Touch(int64(i), 1) {
				grew++
			}
			e.Numbered(int64(i), 1, set)
		}
		for range 3 {
			i := int64(rng.IntN(n))
			e.Touch(i, 1)
			e.Numbered(i, 1, set)
		}
		if c := e.Clean(set-1, keep, n); len(c) > 0 {
			rounds++
			e.Cleared(c, set-1)
		}
		if e.Marked() > keep+keep/8+3 {
			t.Fatalf("set %d: %d bits are set, to be kept are %d", set, e.Marked(), keep)
		}
	}
	if grew > len(hot) {
		t.Errorf("the bits of %d hot extents were set %d times", len(hot), grew)
	}
	// Three cold extents a set: each round clears an eighth of keep at least.
	if most := 500 * 3 / (keep / 8); rounds == 0 || rounds > most {
		t.Errorf("%d rounds of clearing, want 1 … %d", rounds, most)
	}
}

// TestHotList compares the list with what it stands for after random steps.
func TestHotList(t *testing.T) {
	const n = 30
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 3))
		e := NewExtents(n, 1, nil)
		for set := wire.Set(1); set < 60; set++ {
			switch rng.IntN(12) {
			case 0:
				e.Resync()
			case 1:
				e.Detach()
			case 2:
				e.Cleared(e.Clean(set-1, rng.IntN(n), n), set-1)
			case 3:
				first, run, _ := e.NextRun(3)
				for i := first; i < first+run; i++ {
					e.Copied(i, set)
				}
			default:
				off, length := int64(rng.IntN(n-2)), int64(1+rng.IntN(3))
				e.Touch(off, length)
				e.Numbered(off, length, set)
			}
			var sets []wire.Set
			before := int32(-1)
			for i := e.hot.oldest; i >= 0; before, i = i, e.ext[i].newer {
				if e.ext[i].older != before || len(sets) > n {
					t.Fatalf("seed %d, set %d: the list is broken at extent %d", seed, set, i)
				}
				sets = append(sets, e.ext[i].set)
			}
			in, cold := 0, 0
			for i := range e.ext {
				if e.ext[i].set != 0 {
					in++
				}
				if e.ext[i].cold() {
					cold++
				}
			}
			if cold != e.cold {
				t.Fatalf("seed %d, set %d: %d extents are cold and %d are counted", seed, set, cold, e.cold)
			}
			if e.hot.newest != before || in != len(sets) || !slices.IsSorted(sets) {
				t.Fatalf("seed %d, set %d: %d extents have a set and the list is %v", seed, set, in, sets)
			}
		}
	}
}
