package primary

import (
	"flotilla/nbd"
	"flotilla/wire"
)

// payload is memory that updates point to. core gives it back once for each update that had it as its handle.
type payload interface {
	Retain()
	Release()
}

// appendPieces splits a change at portion borders, and one with data at the limit of an update. data is nil for zero and
// trim. The data are not copied.
func appendPieces(ups []wire.Update, v wire.VolumeID, kind wire.Kind, off, length int64, data []byte, portion uint64) []wire.Update {
	for length > 0 {
		index := uint64(off) / portion
		n := min(length, int64((index+1)*portion)-off)
		u := wire.Update{Volume: v, Portion: uint32(index), Kind: kind, Offset: uint64(off)}
		if data != nil {
			n = min(n, wire.MaxUpdateLength)
			u.Data = data[:n:n]
			data = data[n:]
		}
		u.Length = uint32(n)
		ups = append(ups, u)
		off += n
		length -= n
	}
	return ups
}

// kindOf returns what a request does to its range.
func kindOf(op nbd.Op) wire.Kind {
	switch op {
	case nbd.OpTrim:
		return wire.KindTrim
	case nbd.OpWriteZeroes:
		return wire.KindZero
	}
	return wire.KindWrite
}
