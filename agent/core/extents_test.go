package core

import (
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
				if k, ok := e.Next(); attached && ok {
					stream = append(stream, update{set, k, vol[k].source})
					e.Copied(k, set)
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
				c := e.Clean(applied, 0, n)
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
