package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var errShortTable = errors.New("bytes end inside an entry")

// varintReader takes numbers off the front of buf. After the first error it returns zeroes and keeps the error.
type varintReader struct {
	buf []byte
	err error
}

func (r *varintReader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.buf = nil
}

// next reads an unsigned varint that is not above limit.
func (r *varintReader) next(limit uint64) uint64 {
	v, n := binary.Uvarint(r.buf)
	switch {
	case n == 0:
		r.fail(errShortTable)
		return 0
	case n < 0:
		r.fail(errors.New("number does not fit 64 bits"))
		return 0
	case v > limit:
		r.fail(fmt.Errorf("number %d is above its limit %d", v, limit))
		return 0
	}
	r.buf = r.buf[n:]
	return v
}

func (r *varintReader) byte() uint32 {
	if len(r.buf) < 1 {
		r.fail(errShortTable)
		return 0
	}
	v := r.buf[0]
	r.buf = r.buf[1:]
	return uint32(v)
}

func (r *varintReader) uint32() uint32 {
	if len(r.buf) < 4 {
		r.fail(errShortTable)
		return 0
	}
	v := binary.LittleEndian.Uint32(r.buf)
	r.buf = r.buf[4:]
	return v
}
