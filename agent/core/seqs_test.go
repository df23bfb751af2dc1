package core

import (
	"slices"
	"testing"

	"flotilla/wire"

	"pgregory.net/rapid"
)

func TestSeqRangesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seqs := rapid.SliceOfDistinct(rapid.Uint64Range(1, 300), func(x uint64) uint64 { return x }).Draw(t, "seqs")
		slices.Sort(seqs)
		var r SeqRanges
		var end wire.Seq
		for _, s := range seqs {
			r = r.Add(&end, wire.Seq(s))
		}
		var have []uint64
		if err := r.Each(func(s wire.Seq) { have = append(have, uint64(s)) }); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(seqs, have) {
			t.Fatalf("put in %v, came out %v", seqs, have)
		}
	})
}

// A list that a peer made up can not make its reader work without end.
func TestSeqRangesRefusesLiars(t *testing.T) {
	for name, r := range map[string]SeqRanges{
		"odd":        {1},
		"gap zero":   {0, 1},
		"run zero":   {1, 0},
		"too many":   {1, maxListedSeqs + 1},
		"many runs":  {1, maxListedSeqs, 1, 1},
		"wraps":      {5, 1, ^uint64(0), 1},
		"total wrap": {1, 2, 1, ^uint64(0)},
	} {
		if err := r.Each(func(wire.Seq) {}); err == nil {
			t.Errorf("%s: %v was taken", name, r)
		}
	}
}
