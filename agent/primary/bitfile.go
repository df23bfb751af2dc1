package primary

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"

	"flotilla/agent/vfs"
	"flotilla/wire"
)

// The file of bits of a volume holds one bit for each extent: set while the durable source and the target may differ
// there. It consists of sectors of 512 bytes, because that is what a disk writes whole or not at all. The first one says
// what the file is for:
//
//	0        8         12       16     24       32             508     512
//	| magic  | version | volume | size | extent | zero         | CRC32C |
//	| 8 bytes| u32     | u32    | u64  | u64    |              | u32    |
//
// Every other one holds the bits of sectorBits extents, lowest bit first, those behind the end zero:
//
//	0        4       8        12                               508     512
//	| magic  | index | volume | bits, 496 bytes                | CRC32C |
//	| u32    | u32   | u32    |                                | u32    |
//
// Numbers are little-endian; a CRC32C covers the bytes before it. A sector is written in place. It needs no second copy:
// a sector that is torn, rotten, missing or another's reads as all bits set, so that more is copied than need be and
// never less; and the old and the new content of a sector both have every bit that was ever reported durable and not
// cleared since. A header that does not fit the volume makes all bits set.
const (
	bitSector      = 512
	bitVersion     = 1
	bitHeaderMagic = "FLOTBITS"
	bitSectorMagic = 0x73746962 // "bits"
	bitSectorHead  = 12
	bitSectorBytes = bitSector - bitSectorHead - 4
	sectorBits     = 8 * bitSectorBytes
)

// castagnoli is never written after initialization.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// bitShape is what a file of bits is for.
type bitShape struct {
	volume wire.VolumeID
	size   int64
	extent int64
}

func (s bitShape) extents() int { return int((s.size + s.extent - 1) / s.extent) }

// sectors returns how many sectors of bits there are.
func (s bitShape) sectors() int { return (s.extents() + sectorBits - 1) / sectorBits }

// bitset is a set of extents.
type bitset []uint64

func newBitset(n int) bitset          { return make(bitset, (n+63)/64) }
func (b bitset) has(i int) bool       { return b[i/64]&(1<<(i%64)) != 0 }
func (b bitset) set(i int)            { b[i/64] |= 1 << (i % 64) }
func (b bitset) clear(i int)          { b[i/64] &^= 1 << (i % 64) }
func bitAt(p []byte, i int) bool      { return p[i/8]&(1<<(i%8)) != 0 }
func (s bitShape) first(sec int) int  { return sec * sectorBits }
func (s bitShape) behind(sec int) int { return min((sec+1)*sectorBits, s.extents()) }

func (s bitShape) appendHeader(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, bitHeaderMagic...)
	dst = binary.LittleEndian.AppendUint32(dst, bitVersion)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(s.volume))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(s.size))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(s.extent))
	dst = append(dst, make([]byte, bitSector-4-(len(dst)-start))...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// appendSector encodes one sector of bits behind dst.
func (s bitShape) appendSector(dst []byte, sec int, bit func(i int) bool) []byte {
	start := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, bitSectorMagic)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(sec))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(s.volume))
	var bits [bitSectorBytes]byte
	first := s.first(sec)
	for i := first; i < s.behind(sec); i++ {
		if bit(i) {
			bits[(i-first)/8] |= 1 << ((i - first) % 8)
		}
	}
	dst = append(dst, bits[:]...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// parseSector returns the bits of a sector, or false when it is not what was written there.
func (s bitShape) parseSector(raw []byte, sec int) ([]byte, bool) {
	le := binary.LittleEndian
	if crc32.Checksum(raw[:bitSector-4], castagnoli) != le.Uint32(raw[bitSector-4:]) || le.Uint32(raw) != bitSectorMagic ||
		le.Uint32(raw[4:]) != uint32(sec) || le.Uint32(raw[8:]) != uint32(s.volume) {
		return nil, false
	}
	return raw[bitSectorHead : bitSector-4], true
}

// bitFile is an open file of bits. One goroutine at a time uses it.
type bitFile struct {
	fs    vfs.FS
	name  string
	shape bitShape
	file  vfs.File // nil after a failure: the file must be made anew
}

// openBitFile reads the bits of a volume. bits is nil where all are to be taken as set: for a new volume, and, with a
// reason, where the file is of no use. bad is the number of sectors that were taken as all ones. A file that does not
// exist or is of no use is left to be made by the first write.
func openBitFile(fsys vfs.FS, name string, shape bitShape) (f *bitFile, bits bitset, bad int, reason error) {
	f = &bitFile{fs: fsys, name: name, shape: shape}
	file, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil, 0, nil
	}
	if err != nil {
		return f, nil, 0, fmt.Errorf("open the activity log: %w", err)
	}
	raw := make([]byte, (1+shape.sectors())*bitSector)
	n, err := file.ReadAt(raw, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		// What can not be read sector by sector is taken as set as a whole.
		return f, nil, 0, errors.Join(fmt.Errorf("read the activity log %s: %w", name, err), file.Close())
	}
	if n < bitSector || string(raw[:bitSector]) != string(shape.appendHeader(nil)) {
		return f, nil, 0, errors.Join(fmt.Errorf("read the activity log %s: it is not of volume %d with %d bytes in extents of %d",
			name, shape.volume, shape.size, shape.extent), file.Close())
	}
	bits = newBitset(shape.extents())
	for sec := range shape.sectors() {
		content, ok := shape.parseSector(raw[(1+sec)*bitSector:], sec)
		if !ok {
			bad++
		}
		for i := shape.first(sec); i < shape.behind(sec); i++ {
			if !ok || bitAt(content, i-shape.first(sec)) {
				bits.set(i)
			}
		}
	}
	if bad > 0 {
		// The whole file is made anew, so that what is bad does not stay until somebody writes there.
		reason := fmt.Errorf("read the activity log %s: %d of %d sectors are damaged", name, bad, shape.sectors())
		return f, bits, bad, errors.Join(reason, file.Close())
	}
	f.file = file
	return f, bits, 0, nil
}

// whole reports whether everything must be written, because there is no file that can be trusted.
func (f *bitFile) whole() bool { return f.file == nil }

// write makes sectors durable. secs is ascending, encoded holds one sector for each. When whole() is true it must be
// all of them. After an error nothing is known of what is on disk but what the format promises.
func (f *bitFile) write(secs []int, encoded []byte) error {
	if f.whole() {
		return f.rewrite(encoded)
	}
	fail := func(err error) error {
		// A flush that failed must not be tried again on the same file: its pages may be gone.
		err = errors.Join(fmt.Errorf("write the activity log %s: %w", f.name, err), f.file.Close())
		f.file = nil
		return err
	}
	for i := 0; i < len(secs); {
		k := i + 1
		for k < len(secs) && secs[k] == secs[k-1]+1 {
			k++
		}
		if _, err := f.file.WriteAt(encoded[i*bitSector:k*bitSector], int64(1+secs[i])*bitSector); err != nil {
			return fail(err)
		}
		i = k
	}
	if err := f.file.SyncData(); err != nil {
		return fail(err)
	}
	return nil
}

func (f *bitFile) rewrite(encoded []byte) error {
	all := append(f.shape.appendHeader(make([]byte, 0, bitSector+len(encoded))), encoded...)
	if err := vfs.WriteFileAtomic(f.fs, f.name, all); err != nil {
		return fmt.Errorf("make the activity log anew: %w", err)
	}
	file, err := f.fs.Open(f.name)
	if err != nil {
		return fmt.Errorf("open the new activity log: %w", err)
	}
	f.file = file
	return nil
}

func (f *bitFile) close() error {
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}

// remove takes the file away, once its volume is gone for good. IDs of volumes are never used again, so that one that
// stays behind does no harm.
func (f *bitFile) remove() error {
	if err := errors.Join(f.close(), f.fs.Remove(f.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the activity log: %w", err)
	}
	return nil
}
