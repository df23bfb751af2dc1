package core

import (
	"cmp"
	"slices"

	"flotilla/wire"
)

// Piece is a range of a volume after folding, and where its content comes from.
type Piece struct {
	Volume wire.VolumeID
	Offset uint64
	Length uint32
	Part   int    // index of the part that wins, which is a write, a zero or a trim
	From   uint32 // offset of the piece inside the part's data
}

// Fold reduces parts to disjoint pieces, ascending by (volume, offset): where parts overlap, the highest seq wins. Marks
// and checks are no content and are left out.
func Fold(parts []Part) []Piece {
	order := make([]int, 0, len(parts))
	for i := range parts {
		switch parts[i].Update.Kind {
		case wire.KindWrite, wire.KindZero, wire.KindTrim:
			order = append(order, i)
		}
	}
	// The newest first: what it covers is taken, older ones fill what is left.
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(uint64(parts[b].Update.Seq), uint64(parts[a].Update.Seq)) })
	var taken []Piece // disjoint, ascending
	for _, i := range order {
		u := parts[i].Update
		at, _ := slices.BinarySearchFunc(taken, u, func(p Piece, u *wire.Update) int {
			if p.Volume != u.Volume {
				return cmp.Compare(uint64(p.Volume), uint64(u.Volume))
			}
			if p.Offset+uint64(p.Length) <= u.Offset {
				return -1
			}
			return 1
		})
		var fresh []Piece
		pos := u.Offset
		end := at
		for pos < u.End() {
			stop := u.End()
			if end < len(taken) && taken[end].Volume == u.Volume && taken[end].Offset < stop {
				stop = taken[end].Offset
			}
			if pos < stop {
				fresh = append(fresh, Piece{Volume: u.Volume, Offset: pos, Length: uint32(stop - pos), Part: i, From: uint32(pos - u.Offset)})
			}
			if stop == u.End() {
				break
			}
			fresh = append(fresh, taken[end])
			pos = max(pos, taken[end].Offset+uint64(taken[end].Length))
			end++
		}
		taken = slices.Replace(taken, at, end, fresh...)
	}
	return taken
}
