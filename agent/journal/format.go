package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"flotilla/wire"
)

const (
	formatVersion = 1

	// block is the unit to which batches are aligned: no disk tears a write of less, and none that is durable shares
	// a sector with one that is not.
	block = 4096

	segmentMagic  = "FLOTJRNL"
	segmentFixed  = 48
	listEntrySize = 16

	batchMagic      = "FJB1"
	batchHeaderSize = 40

	recordHeaderSize = 40

	// maxListed bounds a header's list: 65,536 segments, a header of 1 MiB.
	maxListed = 1 << 16
	// minSegmentSize and maxSegmentSize bound what a header may claim.
	minSegmentSize = 128 << 10
	maxSegmentSize = 1 << 30
	// maxBatchSize bounds what recovery reads at once.
	maxBatchSize = 64 << 20
)

// recordKind tells payloads of the caller from the journal's own.
type recordKind uint32

const (
	kindData recordKind = 1
	kindGone recordKind = 2
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errInvalid = errors.New("invalid")
)

// segmentEnd says up to where a segment was durable.
type segmentEnd struct {
	id  uint64
	end int64
}

type segmentHeader struct {
	id   uint64
	salt uint64
	size int64
	live []segmentEnd
}

// headerLength returns the bytes that a header with n listed segments takes, a multiple of block.
func headerLength(n int) int64 { return alignUp(segmentFixed+listEntrySize*int64(n), block) }

func (h *segmentHeader) length() int64 { return headerLength(len(h.live)) }

func (h *segmentHeader) encode() []byte {
	b := make([]byte, h.length())
	copy(b, segmentMagic)
	binary.LittleEndian.PutUint32(b[12:], formatVersion)
	binary.LittleEndian.PutUint64(b[16:], h.id)
	binary.LittleEndian.PutUint64(b[24:], h.salt)
	binary.LittleEndian.PutUint64(b[32:], uint64(h.size))
	binary.LittleEndian.PutUint32(b[40:], uint32(len(h.live)))
	at := segmentFixed
	for _, s := range h.live {
		binary.LittleEndian.PutUint64(b[at:], s.id)
		binary.LittleEndian.PutUint64(b[at+8:], uint64(s.end))
		at += listEntrySize
	}
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b[12:at], castagnoli))
	return b
}

// readSegmentHeader reads and checks a header. An error that wraps errInvalid means that the bytes are wrong, any
// other that they could not be read.
func readSegmentHeader(r io.ReaderAt) (*segmentHeader, error) {
	fixed := make([]byte, segmentFixed)
	if err := readFull(r, fixed, 0); err != nil {
		return nil, err
	}
	if string(fixed[:8]) != segmentMagic {
		return nil, fmt.Errorf("segment header: magic %q: %w", fixed[:8], errInvalid)
	}
	n := binary.LittleEndian.Uint32(fixed[40:])
	if n > maxListed {
		return nil, fmt.Errorf("segment header: lists %d segments, at most %d are possible: %w", n, maxListed, errInvalid)
	}
	b := make([]byte, segmentFixed+listEntrySize*int(n))
	if err := readFull(r, b, 0); err != nil {
		return nil, err
	}
	if crc32.Checksum(b[12:], castagnoli) != binary.LittleEndian.Uint32(b[8:]) {
		return nil, fmt.Errorf("segment header: checksum: %w", errInvalid)
	}
	if v := binary.LittleEndian.Uint32(b[12:]); v != formatVersion {
		return nil, fmt.Errorf("%w: version %d, this program knows %d", ErrVersion, v, formatVersion)
	}
	h := &segmentHeader{
		id:   binary.LittleEndian.Uint64(b[16:]),
		salt: binary.LittleEndian.Uint64(b[24:]),
		size: int64(binary.LittleEndian.Uint64(b[32:])),
	}
	if h.size < minSegmentSize || h.size > maxSegmentSize {
		return nil, fmt.Errorf("segment header: size %d: %w", h.size, errInvalid)
	}
	for at := segmentFixed; at < len(b); at += listEntrySize {
		e := segmentEnd{binary.LittleEndian.Uint64(b[at:]), int64(binary.LittleEndian.Uint64(b[at+8:]))}
		if e.id >= h.id || e.end < block || e.end > maxSegmentSize || e.end%block != 0 {
			return nil, fmt.Errorf("segment header: lists segment %d up to %d: %w", e.id, e.end, errInvalid)
		}
		h.live = append(h.live, e)
	}
	if h.length() > h.size {
		return nil, fmt.Errorf("segment header: %d bytes in a segment of %d: %w", h.length(), h.size, errInvalid)
	}
	return h, nil
}

// place says of which segment, and where in it, some bytes are. It is part of their checksum.
type place struct {
	id   uint64
	salt uint64
	off  int64
}

type batchHeader struct {
	length  int    // bytes without the filling, header included
	records uint32 // CRC of all record headers
}

func (h batchHeader) encode(b []byte, at place) {
	copy(b, batchMagic)
	binary.LittleEndian.PutUint64(b[8:], at.salt)
	binary.LittleEndian.PutUint64(b[16:], at.id)
	binary.LittleEndian.PutUint64(b[24:], uint64(at.off))
	binary.LittleEndian.PutUint32(b[32:], uint32(h.length))
	binary.LittleEndian.PutUint32(b[36:], h.records)
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:batchHeaderSize], castagnoli))
}

// decodeBatchHeader reports false unless the header was written for this place.
func decodeBatchHeader(b []byte, at place) (batchHeader, bool) {
	if string(b[:4]) != batchMagic ||
		binary.LittleEndian.Uint64(b[8:]) != at.salt ||
		binary.LittleEndian.Uint64(b[16:]) != at.id ||
		binary.LittleEndian.Uint64(b[24:]) != uint64(at.off) ||
		binary.LittleEndian.Uint32(b[4:]) != crc32.Checksum(b[8:batchHeaderSize], castagnoli) {
		return batchHeader{}, false
	}
	h := batchHeader{int(binary.LittleEndian.Uint32(b[32:])), binary.LittleEndian.Uint32(b[36:])}
	return h, h.length >= batchHeaderSize && h.length <= maxBatchSize
}

type recordHeader struct {
	length  uint32
	payload uint32 // CRC
	kind    recordKind
	group   wire.GroupID
	set     wire.Set
	tag     uint64
}

func (h *recordHeader) encode(b []byte, at place) {
	binary.LittleEndian.PutUint32(b[4:], h.length)
	binary.LittleEndian.PutUint32(b[8:], h.payload)
	binary.LittleEndian.PutUint32(b[12:], uint32(h.kind))
	binary.LittleEndian.PutUint64(b[16:], uint64(h.group))
	binary.LittleEndian.PutUint64(b[24:], uint64(h.set))
	binary.LittleEndian.PutUint64(b[32:], h.tag)
	binary.LittleEndian.PutUint32(b, recordSum(b, at))
}

// decodeRecordHeader reports false unless the header was written for this place.
func decodeRecordHeader(b []byte, at place) (recordHeader, bool) {
	if binary.LittleEndian.Uint32(b) != recordSum(b, at) {
		return recordHeader{}, false
	}
	h := recordHeader{
		length:  binary.LittleEndian.Uint32(b[4:]),
		payload: binary.LittleEndian.Uint32(b[8:]),
		kind:    recordKind(binary.LittleEndian.Uint32(b[12:])),
		group:   wire.GroupID(binary.LittleEndian.Uint64(b[16:])),
		set:     wire.Set(binary.LittleEndian.Uint64(b[24:])),
		tag:     binary.LittleEndian.Uint64(b[32:]),
	}
	return h, h.kind == kindData || h.kind == kindGone
}

func recordSum(b []byte, at place) uint32 {
	var seed [16]byte
	binary.LittleEndian.PutUint64(seed[:], at.salt)
	binary.LittleEndian.PutUint64(seed[8:], uint64(at.off))
	return crc32.Update(crc32.Checksum(seed[:], castagnoli), castagnoli, b[4:recordHeaderSize])
}

// recordSize returns the bytes a record takes in a batch.
func recordSize(payload int) int { return recordHeaderSize + int(alignUp(int64(payload), 8)) }

// alignUp rounds n up to a multiple of a, a power of two.
func alignUp(n, a int64) int64 { return (n + a - 1) &^ (a - 1) }
