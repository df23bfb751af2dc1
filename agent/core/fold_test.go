package core

import (
	"testing"

	"flotilla/wire"

	"pgregory.net/rapid"
)

// Folding gives, for every byte, the content of the highest seq that covers it, in disjoint ascending pieces.
func TestFoldAgainstBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const volumes, size = 2, 64
		n := rapid.IntRange(0, 40).Draw(t, "parts")
		parts := make([]Part, n)
		for i := range parts {
			off := rapid.Uint64Range(0, size-1).Draw(t, "offset")
			parts[i].Update = &wire.Update{
				Seq: wire.Seq(i + 1), Volume: wire.VolumeID(rapid.IntRange(1, volumes).Draw(t, "volume")),
				Kind:   rapid.SampledFrom([]wire.Kind{wire.KindWrite, wire.KindZero, wire.KindTrim, wire.KindMark, wire.KindCheck}).Draw(t, "kind"),
				Offset: off, Length: uint32(rapid.Uint64Range(1, size-off).Draw(t, "length")),
			}
		}
		shuffled := rapid.Permutation(parts).Draw(t, "order")
		type cell struct{ seq, at uint64 }
		var want [volumes + 1][size]cell
		for i := range parts {
			u := parts[i].Update
			if u.Kind == wire.KindMark || u.Kind == wire.KindCheck {
				continue
			}
			for b := u.Offset; b < u.End(); b++ {
				want[u.Volume][b] = cell{uint64(u.Seq), b - u.Offset}
			}
		}
		var have [volumes + 1][size]cell
		var last Piece
		for _, p := range Fold(shuffled) {
			if p.Volume < last.Volume || (p.Volume == last.Volume && p.Offset < last.Offset+uint64(last.Length)) || p.Length == 0 {
				t.Fatalf("piece %+v follows %+v", p, last)
			}
			last = p
			for b := range uint64(p.Length) {
				have[p.Volume][p.Offset+b] = cell{uint64(shuffled[p.Part].Update.Seq), uint64(p.From) + b}
			}
		}
		if have != want {
			t.Fatalf("have %v\nwant %v", have, want)
		}
	})
}

func BenchmarkFold(b *testing.B) {
	parts := make([]Part, 16384)
	for i := range parts {
		parts[i].Update = &wire.Update{Seq: wire.Seq(i + 1), Volume: 1, Kind: wire.KindWrite, Offset: mix(wire.Seq(i)) % (64 << 20) &^ 4095, Length: 4096}
	}
	for b.Loop() {
		Fold(parts)
	}
}
