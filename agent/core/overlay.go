package core

import "flotilla/wire"

// An owner's share of a set may hold checks: digests of ranges as the source had them at their seq. They are compared
// before anything of the share is written, while the target stands at the end of the set before: what the share's own
// updates of lower seqs put into a range is laid over it. So folding and sorting of the writes need not know of checks, and
// an application that is repeated finds the same outside of what it writes itself. Updates of higher seqs that overlap
// the range are the exception, since a repeat may find them written: the unit says so (Later), and the secondary, which
// knows whether it is a repeat (Begun), answers that it does not know.

// CheckUnit is one check of a share and what overlays its range.
type CheckUnit struct {
	Part    int     // of the Apply
	Later   bool    // an update of a higher seq overlaps the range
	Overlay []Piece // ascending, disjoint, inside the check's range
}

// FindChecks returns the checks of ranges of at most so many bytes among parts, which are ascending by (volume, portion,
// seq).
func FindChecks(parts []Part, longest uint32) []CheckUnit {
	var units []CheckUnit
	for lo := 0; lo < len(parts); {
		hi := lo + 1
		for hi < len(parts) && parts[hi].Update.PortionID() == parts[lo].Update.PortionID() {
			hi++
		}
		for i := lo; i < hi; i++ {
			if u := parts[i].Update; u.Kind == wire.KindCheck && u.Length <= longest {
				units = append(units, overlaid(parts, lo, hi, i))
			}
		}
		lo = hi
	}
	return units
}

// overlaid makes the unit of the check parts[at], whose portion's parts are parts[lo:hi].
func overlaid(parts []Part, lo, hi, at int) CheckUnit {
	c, unit := parts[at].Update, CheckUnit{Part: at}
	var below []Part
	var index []int
	for i := lo; i < hi; i++ {
		u := parts[i].Update
		if !isContent(u.Kind) || u.Offset >= c.End() || u.End() <= c.Offset {
			continue
		}
		if u.Seq > c.Seq {
			unit.Later = true
			continue
		}
		below, index = append(below, parts[i]), append(index, i)
	}
	for _, p := range Fold(below) {
		first, end := max(p.Offset, c.Offset), min(p.Offset+uint64(p.Length), c.End())
		if first >= end {
			continue
		}
		p.From += uint32(first - p.Offset)
		p.Part, p.Offset, p.Length = index[p.Part], first, uint32(end-first)
		unit.Overlay = append(unit.Overlay, p)
	}
	return unit
}

func isContent(k wire.Kind) bool {
	return k == wire.KindWrite || k == wire.KindZero || k == wire.KindTrim
}

// Begun is the portions of a target in which writes of one set began.
type Begun struct {
	set  wire.Set
	size uint64   // of a portion, in bytes
	bits []uint64 // by index
}

// Add notes a range, in bytes. Sets rise.
func (b *Begun) Add(set wire.Set, size, off, end uint64) {
	if b.set != set || b.size != size {
		clear(b.bits)
		b.set, b.size = set, size
	}
	for i := off / size; i <= (end-1)/size; i++ {
		for uint64(len(b.bits)) <= i/64 {
			b.bits = append(b.bits, 0)
		}
		b.bits[i/64] |= 1 << (i % 64)
	}
}

// Has reports whether a write of the set began in a portion that the range touches.
func (b *Begun) Has(set wire.Set, size, off, end uint64) bool {
	if b.set != set || b.size != size {
		return false
	}
	for i := off / size; i <= (end-1)/size && i/64 < uint64(len(b.bits)); i++ {
		if b.bits[i/64]>>(i%64)&1 == 1 {
			return true
		}
	}
	return false
}
