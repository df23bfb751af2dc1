package primary

import (
	"encoding/binary"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// What is kept as it lies on a disk; package doc.go draws it.
const (
	keptSectorMagic = 0x7470656b // "kept"
	keptSectorHead  = 28
	keptSectorBytes = bitSector - keptSectorHead - 4
	keptSectorBits  = 8 * keptSectorBytes
)

// keptFor is what extents are kept for: all of them were copied in this incarnation, in sets up to this one, or count in it.
type keptFor struct {
	inc wire.Incarnation // 0 for none
	set wire.Set
}

func (s bitShape) keptSectors() int       { return (s.extents() + keptSectorBits - 1) / keptSectorBits }
func (s bitShape) keptFirst(sec int) int  { return sec * keptSectorBits }
func (s bitShape) keptBehind(sec int) int { return min((sec+1)*keptSectorBits, s.extents()) }

// appendKept encodes one sector behind dst. key is that of the shape.
func (s bitShape) appendKept(dst []byte, sec int, key uint32, by keptFor, kept func(i int) bool) []byte {
	start := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, keptSectorMagic)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(sec))
	dst = binary.LittleEndian.AppendUint32(dst, key)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(by.inc))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(by.set))
	var bits [keptSectorBytes]byte
	first := s.keptFirst(sec)
	for i := first; i < s.keptBehind(sec); i++ {
		if kept(i) {
			bits[(i-first)/8] |= 1 << ((i - first) % 8)
		}
	}
	return sealSector(append(dst, bits[:]...), start)
}

// parseKept returns what a sector says, or false when it is not what was written there.
func parseKept(raw []byte, sec int, key uint32) (by keptFor, bits []byte, ok bool) {
	le := binary.LittleEndian
	if !sealed(raw) || le.Uint32(raw) != keptSectorMagic || le.Uint32(raw[4:]) != uint32(sec) || le.Uint32(raw[8:]) != key {
		return keptFor{}, nil, false
	}
	by = keptFor{wire.Incarnation(le.Uint64(raw[12:])), wire.Set(le.Uint64(raw[20:]))}
	return by, raw[keptSectorHead : bitSector-4], true
}

// keptBy is what the replicated state says of a primary's ended incarnations.
type keptBy struct {
	upTo      map[wire.Incarnation]wire.Set // see cluster.Group.Kept
	copy      uint64                        // of the volume: what is older is of another target
	undecided func(wire.Incarnation) bool   // see cluster.State.Undecided; nil where nothing is
}

// keptIn looks at a state. It is to be used before the loop goes on.
func keptIn(st *cluster.State, g *cluster.Group, p wire.AgentID, v *cluster.Volume) keptBy {
	return keptBy{upTo: g.Kept(p), copy: v.Copy, undecided: func(inc wire.Incarnation) bool { return st.Undecided(g, inc) }}
}

// counts reports whether what is kept for a set of an incarnation need not be copied.
func (k *keptBy) counts(f keptFor) bool {
	upTo, ok := k.upTo[f.inc]
	return ok && f.set <= upTo && uint64(f.inc) > k.copy
}
