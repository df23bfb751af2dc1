package blockdev

import "iter"

// Extent is a part of a device, in bytes.
type Extent struct {
	Offset int64
	Length int64
	// Hole says that the part has no storage and reads as zeroes. A part that is
	// not a hole may hold zeroes all the same.
	Hole bool
}

// ExtentMapper is what a Device also implements if it can tell holes from data.
type ExtentMapper interface {
	// Extents yields, in order and without gaps, extents that cover the range.
	// It shows each part as it was at some moment of the iteration: who writes
	// meanwhile has to look after those writes himself. After an error that is
	// not nil, whose Extent means nothing, the iteration ends.
	Extents(off, length int64) iter.Seq2[Extent, error]
}

// Extents yields the extents of a range of d as ExtentMapper describes. A
// device that is no ExtentMapper is all data.
func Extents(d Device, off, length int64) iter.Seq2[Extent, error] {
	if m, ok := d.(ExtentMapper); ok {
		return m.Extents(off, length)
	}
	return func(yield func(Extent, error) bool) {
		if err := checkRange(d.Size(), off, length); err != nil {
			yield(Extent{}, opError("map", off, length, "device", err))
			return
		}
		if length > 0 {
			yield(Extent{Offset: off, Length: length}, nil)
		}
	}
}
