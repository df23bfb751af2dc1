package primary

import (
	"encoding/binary"
	"hash/crc32"
	"slices"

	"flotilla/wire"
)

// The bits as they lie on a disk; package doc.go draws them.
const (
	bitSector      = 512
	bitVersion     = 3
	bitHeaderMagic = "FLOTBITS"
	bitSectorMagic = 0x32746962 // "bit2"
	bitSectorHead  = 12
	bitSectorBytes = bitSector - bitSectorHead - 4
	sectorBits     = 8 * bitSectorBytes
	bitClusterID   = 64 // bytes of a cluster's ID that count

	// Version 2 is the same but for its number. An agent that writes it knows nothing of what is kept (keptformat.go): it
	// would leave extents as kept that it writes into. It takes version 3 for none, and version 2 says that nothing is kept.
	bitVersionWithoutKept = 2

	// Version 1 had no cluster and no copy in its header, and the volume's number in the place of a sector's key.
	oldBitVersion     = 1
	oldBitSectorMagic = 0x73746962 // "bits"
)

// castagnoli is never written after initialization.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// bitShape is what bits are for. Bits of any other shape count for nothing.
type bitShape struct {
	cluster string // its ID
	volume  wire.VolumeID
	copy    uint64 // see cluster.Volume.Copy
	size    int64  // of the volume, in bytes
	extent  int64
}

func (s bitShape) extents() int { return int((s.size + s.extent - 1) / s.extent) }

// sectors returns how many sectors of bits there are.
func (s bitShape) sectors() int { return (s.extents() + sectorBits - 1) / sectorBits }

// length returns how many bytes the header and all sectors take.
func (s bitShape) length() int { return (1 + s.sectors()) * bitSector }

// bitset is a set of extents.
type bitset []uint64

func newBitset(n int) bitset          { return make(bitset, (n+63)/64) }
func (b bitset) has(i int) bool       { return b[i/64]&(1<<(i%64)) != 0 }
func (b bitset) set(i int)            { b[i/64] |= 1 << (i % 64) }
func (b bitset) clear(i int)          { b[i/64] &^= 1 << (i % 64) }
func bitAt(p []byte, i int) bool      { return p[i/8]&(1<<(i%8)) != 0 }
func (s bitShape) first(sec int) int  { return sec * sectorBits }
func (s bitShape) behind(sec int) int { return min((sec+1)*sectorBits, s.extents()) }

func (s bitShape) appendHeader(dst []byte) []byte { return s.appendHeaderOf(dst, bitVersion) }

func (s bitShape) appendHeaderOf(dst []byte, version uint32) []byte {
	start := len(dst)
	dst = s.appendHead(dst, version)
	dst = binary.LittleEndian.AppendUint64(dst, s.copy)
	var id [bitClusterID]byte
	copy(id[:], s.cluster)
	return sealSector(append(dst, id[:]...), start)
}

// appendOldHeader encodes a header of version 1.
func (s bitShape) appendOldHeader(dst []byte) []byte {
	start := len(dst)
	return sealSector(s.appendHead(dst, oldBitVersion), start)
}

func (s bitShape) appendHead(dst []byte, version uint32) []byte {
	dst = append(dst, bitHeaderMagic...)
	dst = binary.LittleEndian.AppendUint32(dst, version)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(s.volume))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(s.size))
	return binary.LittleEndian.AppendUint64(dst, uint64(s.extent))
}

// sealSector fills a sector that begins at start with zeroes and ends it with its checksum.
func sealSector(dst []byte, start int) []byte {
	dst = append(dst, make([]byte, bitSector-4-(len(dst)-start))...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// sealed reports whether a sector's checksum is right.
func sealed(raw []byte) bool {
	return crc32.Checksum(raw[:bitSector-4], castagnoli) == binary.LittleEndian.Uint32(raw[bitSector-4:])
}

// key is what binds a sector to its header: the header's checksum.
func (s bitShape) key() uint32 { return s.keyOf(bitVersion) }

func (s bitShape) keyOf(version uint32) uint32 {
	return binary.LittleEndian.Uint32(s.appendHeaderOf(nil, version)[bitSector-4:])
}

// appendSector encodes one sector of bits behind dst. key is that of the shape.
func (s bitShape) appendSector(dst []byte, sec int, key uint32, bit func(i int) bool) []byte {
	start := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, bitSectorMagic)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(sec))
	dst = binary.LittleEndian.AppendUint32(dst, key)
	var bits [bitSectorBytes]byte
	first := s.first(sec)
	for i := first; i < s.behind(sec); i++ {
		if bit(i) {
			bits[(i-first)/8] |= 1 << ((i - first) % 8)
		}
	}
	return sealSector(append(dst, bits[:]...), start)
}

// parseSector returns the bits of a sector, or false when it is not what was written there.
func parseSector(raw []byte, sec int, magic, key uint32) ([]byte, bool) {
	le := binary.LittleEndian
	if !sealed(raw) || le.Uint32(raw) != magic || le.Uint32(raw[4:]) != uint32(sec) || le.Uint32(raw[8:]) != key {
		return nil, false
	}
	return raw[bitSectorHead : bitSector-4], true
}

// found returns the shape that a header names, if it is one that bits of this shape may have on disk: of the same copy of the same
// volume, grown on the way to reach bytes, and in extents from finest on; those of a volume that grows stay as they are.
func (s bitShape) found(raw []byte, reach, finest int64) bitShape {
	if len(raw) < bitSector {
		return s
	}
	f := s
	f.size = int64(binary.LittleEndian.Uint64(raw[16:]))
	f.extent = int64(binary.LittleEndian.Uint64(raw[24:]))
	if f.size < s.size || f.size > max(s.size, reach) || f.extent < min(finest, s.extent) || f.extent > s.extent || s.extent%f.extent != 0 ||
		string(raw[:bitSector]) != string(f.appendHeader(nil)) && string(raw[:bitSector]) != string(f.appendHeaderOf(nil, bitVersionWithoutKept)) {
		return s
	}
	return f
}

// coarser makes bits of a shape those of larger extents: one is set where a part of it was.
func (s bitShape) coarser(bits bitset, extent int64) (bitShape, bitset) {
	to := s
	to.extent = extent
	out := newBitset(to.extents())
	for i := range s.extents() {
		if bits.has(i) {
			out.set(int(int64(i) * s.extent / extent))
		}
	}
	return to, out
}

// parse reads what lies on a disk. bits is nil, and all are to be taken as set, where it is not of this shape; bad is how
// many sectors were taken as all ones; old says that it is of an older version.
func (s bitShape) parse(raw []byte) (bits bitset, bad int, old bool) {
	if len(raw) < bitSector {
		return nil, 0, false
	}
	magic, key := uint32(bitSectorMagic), s.key()
	switch header := raw[:bitSector]; {
	case string(header) == string(s.appendHeader(nil)):
	case string(header) == string(s.appendHeaderOf(nil, bitVersionWithoutKept)):
		old, key = true, s.keyOf(bitVersionWithoutKept)
	case s.copy == 0 && string(header) == string(s.appendOldHeader(nil)):
		old, magic, key = true, oldBitSectorMagic, uint32(s.volume)
	default:
		return nil, 0, false
	}
	raw = slices.Concat(raw, make([]byte, max(0, s.length()-len(raw)))) // what is cut off is as bad as zeroes
	bits = newBitset(s.extents())
	for sec := range s.sectors() {
		content, ok := parseSector(raw[(1+sec)*bitSector:][:bitSector], sec, magic, key)
		if !ok {
			bad++
		}
		for i := s.first(sec); i < s.behind(sec); i++ {
			if !ok || bitAt(content, i-s.first(sec)) {
				bits.set(i)
			}
		}
	}
	return bits, bad, old
}

// isBits reports whether a sector is a header or a sector of bits, of whatever volume.
func isBits(raw []byte) bool {
	magic := binary.LittleEndian.Uint32(raw)
	return sealed(raw) && (string(raw[:len(bitHeaderMagic)]) == bitHeaderMagic || magic == bitSectorMagic)
}
