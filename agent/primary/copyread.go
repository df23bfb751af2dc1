package primary

import (
	"bytes"
	"slices"

	"flotilla/blockdev"
	"flotilla/wire"
)

const (
	// zeroUnit is the grain in which zeroes are looked for, and zeroRun how long a run must be to travel as zeroes;
	// shorter ones are left to compression.
	zeroUnit = 4096
	zeroRun  = 16 << 10
)

// zeroes is never written.
var zeroes [zeroUnit]byte

func hasData(ups []wire.Update) bool {
	return slices.ContainsFunc(ups, func(u wire.Update) bool { return u.Data != nil })
}

// holeAt returns how many bytes from off on, up to length of them, are known to have no storage and so to read as zeroes: whole
// extents of the activity log, or 0. off is the start of one.
func (v *volume) holeAt(off, length int64) (int64, error) {
	hole := int64(0)
	for e, err := range blockdev.Extents(v.dev, off, length) {
		if err != nil {
			return 0, err
		}
		if !e.Hole {
			break
		}
		hole += e.Length
	}
	if off+hole < v.marks.size() {
		hole -= hole % v.marks.shape.extent
	}
	return hole, nil
}

// readCopy reads a range into mem and appends updates with its content: holes and runs of zeroes without data. It returns
// how many bytes were read.
func (v *volume) readCopy(s *submission, off, length int64, mem []byte) (read int64, err error) {
	for e, err := range blockdev.Extents(v.dev, off, length) {
		if err != nil {
			return read, err
		}
		if e.Hole {
			s.ups = appendPieces(s.ups, v.id, wire.KindZero, e.Offset, e.Length, nil, v.g.portion)
			continue
		}
		data := mem[e.Offset-off : e.Offset-off+e.Length]
		if _, err := v.dev.ReadAt(data, e.Offset); err != nil {
			return read, err
		}
		read += e.Length
		for pos := int64(0); pos < e.Length; {
			n, zero := leadingRun(data[pos:])
			kind, content := wire.KindWrite, data[pos:pos+n]
			if zero {
				kind, content = wire.KindZero, nil
			}
			s.ups = appendPieces(s.ups, v.id, kind, e.Offset+pos, n, content, v.g.portion)
			pos += n
		}
	}
	return read, nil
}

// leadingRun returns the length of the first part of data, which is not empty, that is to travel as one kind.
func leadingRun(data []byte) (n int64, zero bool) {
	if run := zeroPrefix(data); run >= zeroRun || run == len(data) {
		return int64(run), true
	}
	for pos := 0; pos < len(data); {
		run := zeroPrefix(data[pos:])
		if run >= zeroRun {
			return int64(pos), false
		}
		pos += max(run, zeroUnit)
	}
	return int64(len(data)), false
}

// zeroPrefix returns how many bytes at the start of data are zero, in whole units but for the end.
func zeroPrefix(data []byte) int {
	n := 0
	for n < len(data) {
		unit := data[n:min(n+zeroUnit, len(data))]
		if !bytes.Equal(unit, zeroes[:len(unit)]) {
			break
		}
		n += len(unit)
	}
	return n
}
