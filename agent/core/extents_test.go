package core

import (
	"slices"
	"testing"

	"flotilla/wire"

	"pgregory.net/rapid"
)

// Against a model of what is where: whatever the order of writes, copies, detachments and crashes, an extent whose
// durable bit is clear has the same content on the durable source and on the target.
func TestExtentsNeverForget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const n, size = 6, 10
		type content struct{ source, durable, target int }
		var vol [n]content
		durableBit := make([]bool, n)
		for i := range durableBit {
			durableBit[i] = true
		}
		e := NewExtents(n*size, size, func(i int) bool { return durableBit[i] })
		saveBits := func() {
			for i := range durableBit {
				durableBit[i] = e.Bit(i)
			}
		}
		attached := false
		set, applied := wire.Set(0), wire.Set(0)
		type update struct {
			set    wire.Set
			extent int
			value  int
		}
		var stream []update
		value := 0
		apply := func(to wire.Set) {
			for len(stream) > 0 && stream[0].set <= to {
				vol[stream[0].extent].target = stream[0].value
				stream = stream[1:]
			}
			applied = max(applied, to)
		}
		steps := rapid.SliceOfN(rapid.SampledFrom([]string{"write", "write", "copy", "apply", "clean", "attach", "detach", "fail", "crash"}), 1, 80).Draw(t, "steps")
		for _, step := range steps {
			i := rapid.IntRange(0, n-1).Draw(t, "extent")
			off := int64(i * size)
			switch step {
			case "write", "fail":
				if e.Touch(off, size) {
					saveBits()
				}
				value++
				vol[i].source = value
				if attached && step == "write" {
					stream = append(stream, update{set, i, value})
					e.Numbered(off, size, set)
				} else {
					e.Dirtied(off, size)
				}
			case "copy":
				if first, run, ok := e.NextRun(rapid.IntRange(1, n).Draw(t, "run")); attached && ok {
					for k := range run {
						k += first
						stream = append(stream, update{set, k, vol[k].source})
						e.Copied(k, set)
					}
				}
			case "apply":
				if attached {
					apply(set)
					set++
				}
			case "clean":
				if !attached {
					break
				}
				c := e.Clean(applied, rapid.IntRange(0, n).Draw(t, "keep"), n)
				for k := range vol { // the flush
					vol[k].durable = vol[k].source
				}
				if e.Cleared(c, applied) {
					saveBits()
				}
			case "attach":
				if !attached {
					attached = true
					set++
					e.Resync()
				}
			case "detach":
				if attached { // what was not applied is dropped with the incarnation
					attached = false
					stream = nil
					e.Detach()
				}
			case "crash":
				attached, stream = false, nil
				for k := range vol {
					vol[k].source = vol[k].durable
				}
				e = NewExtents(n*size, size, func(i int) bool { return durableBit[i] })
			}
			for k := range vol {
				if !durableBit[k] && vol[k].durable != vol[k].target {
					t.Fatalf("after %s: the bit of extent %d is clear, its source holds %d and its target %d", step, k, vol[k].durable, vol[k].target)
				}
			}
		}
	})
}

// order copies everything in runs of up to limit and returns the extents in their order.
func order(e *Extents, limit int, set wire.Set) (out []int, runs int) {
	for {
		first, n, ok := e.NextRun(limit)
		if !ok {
			return out, runs
		}
		runs++
		for i := first; i < first+n; i++ {
			out = append(out, i)
			e.Copied(i, set)
		}
	}
}

// What is being written is copied last, and once.
func TestCopyHotLast(t *testing.T) {
	e := NewExtents(80, 10, nil)
	e.Resync()
	write := func(i int) {
		e.Touch(int64(10*i), 10)
		e.Numbered(int64(10*i), 10, 1)
	}
	write(0)
	write(3)
	e.Touch(50, 10) // under way
	if first, _, _ := e.NextRun(1); first != 1 {
		t.Fatalf("extent %d comes first, want 1", first)
	}
	e.Copied(1, 1)
	write(6)
	got, runs := order(e, 2, 1)
	if want := []int{2, 4, 7, 0, 3, 5, 6}; !slices.Equal(got, want) || runs != 6 {
		t.Errorf("copied %v in %d runs, want %v in 6", got, runs, want)
	}
	if e.ToCopy() != 0 {
		t.Errorf("%d extents are left", e.ToCopy())
	}
	// A write that fails behind the copier is copied again.
	e.Dirtied(50, 10)
	if got, _ := order(e, 8, 2); !slices.Equal(got, []int{5}) {
		t.Errorf("copied %v again, want 5", got)
	}
}

// Bits that a copy alone has kept set are cleared when it is applied; those of the working set may stay.
func TestCopiedIsClearedAtOnce(t *testing.T) {
	e := NewExtents(80, 10, nil)
	e.Resync()
	e.Touch(20, 20)
	e.Numbered(20, 20, 1)
	order(e, 3, 2)
	e.Touch(60, 10) // written after it was copied
	e.Numbered(60, 10, 3)
	if got, want := e.Clean(2, 3, 80), []int{0, 1, 4, 5, 7}; !slices.Equal(got, want) {
		t.Errorf("to clear with 3 to keep: %v, want %v", got, want)
	}
	c := e.Clean(3, 2, 80)
	if want := []int{0, 1, 4, 5, 7, 2}; !slices.Equal(c, want) {
		t.Errorf("to clear with 2 to keep: %v, want %v", c, want)
	}
	if !e.Cleared(c, 3) || e.Marked() != 2 {
		t.Errorf("%d bits are left, want 2", e.Marked())
	}
	if got := e.Clean(3, 2, 80); len(got) != 0 {
		t.Errorf("cleared again: %v", got)
	}
}
