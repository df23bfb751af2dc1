package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"flotilla/wire"
)

// scanner reads segments back. Its buffer serves one batch after the other.
type scanner struct {
	buf []byte
}

// foundRecord is one record of a valid batch. The payload is good until the next one.
type foundRecord struct {
	recordHeader
	off     int64 // of the payload, in the segment
	payload []byte
}

// foundSegment is what a scan learned about a segment.
type foundSegment struct {
	end    int64 // after the last valid batch
	marked bool  // the last batch holds nothing of the caller, so its loss would harm nothing
}

// readFull reads len(b) bytes. A file that ends before is errInvalid.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("read %d bytes at %d: the file ends after %d of them: %w", len(b), off, n, errInvalid)
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(b), off, err)
}

// sealed hands out the records of a segment that is durable up to end. Anything invalid before is ErrRot; what
// stands behind was never reported durable.
func (s *scanner) sealed(r io.ReaderAt, h *segmentHeader, end int64, emit func(foundRecord) error) (foundSegment, error) {
	found := foundSegment{end: h.length(), marked: true}
	for found.end < end {
		length, marked, err := s.batch(r, h, found.end, emit)
		if errors.Is(err, errInvalid) {
			return found, fmt.Errorf("segment %d at %d: %v below the durable mark %d: %w", h.id, found.end, err, end, ErrRot)
		}
		if err != nil {
			return found, fmt.Errorf("segment %d at %d: %w", h.id, found.end, err)
		}
		found.end += length
		found.marked = marked
	}
	if found.end != end {
		return found, fmt.Errorf("segment %d: a batch ends at %d, beyond the recorded end %d: %w", h.id, found.end, end, ErrRot)
	}
	return found, nil
}

// last hands out the records of the newest segment up to the first invalid batch, and fails with ErrRot if that
// is no torn tail.
func (s *scanner) last(r io.ReaderAt, h *segmentHeader, emit func(foundRecord) error) (foundSegment, error) {
	found := foundSegment{end: h.length(), marked: true}
	for {
		length, marked, err := s.batch(r, h, found.end, emit)
		if errors.Is(err, errInvalid) {
			break
		}
		if err != nil {
			return found, fmt.Errorf("segment %d at %d: %w", h.id, found.end, err)
		}
		found.end += length
		found.marked = marked
	}
	later, err := s.headerAfter(r, h, found.end)
	if err != nil {
		return found, fmt.Errorf("segment %d: %w", h.id, err)
	}
	if later > 0 {
		return found, fmt.Errorf("segment %d at %d: no valid batch, but a later one at %d proves that there was: %w",
			h.id, found.end, later, ErrRot)
	}
	return found, nil
}

// batch reads, checks and then hands out one batch. It returns the bytes the batch takes with its filling.
func (s *scanner) batch(r io.ReaderAt, h *segmentHeader, off int64, emit func(foundRecord) error) (int64, bool, error) {
	if off+block > h.size {
		return 0, false, fmt.Errorf("the segment ends: %w", errInvalid)
	}
	s.buf = slices.Grow(s.buf[:0], block)[:batchHeaderSize]
	if err := readFull(r, s.buf, off); err != nil {
		return 0, false, err
	}
	bh, ok := decodeBatchHeader(s.buf, place{h.id, h.salt, off})
	if !ok {
		return 0, false, fmt.Errorf("batch header: %w", errInvalid)
	}
	if off+int64(bh.length) > h.size {
		return 0, false, fmt.Errorf("batch of %d bytes passes the end of the segment: %w", bh.length, errInvalid)
	}
	s.buf = slices.Grow(s.buf[:0], bh.length)[:bh.length]
	if err := readFull(r, s.buf, off); err != nil {
		return 0, false, err
	}
	if err := s.check(h, off, bh); err != nil {
		return 0, false, err
	}
	marked := true
	for at := batchHeaderSize; at < bh.length; {
		rh, _ := decodeRecordHeader(s.buf[at:], place{h.id, h.salt, off + int64(at)})
		payload := s.buf[at+recordHeaderSize:][:rh.length]
		marked = marked && rh.kind != kindData
		if err := emit(foundRecord{rh, off + int64(at) + recordHeaderSize, payload}); err != nil {
			return 0, false, err
		}
		at += recordSize(int(rh.length))
	}
	return alignUp(int64(bh.length), block), marked, nil
}

// check verifies every record of the batch in the buffer, and that they are the ones its header speaks of.
func (s *scanner) check(h *segmentHeader, off int64, bh batchHeader) error {
	var sum uint32
	at := batchHeaderSize
	for at < bh.length {
		if at+recordHeaderSize > bh.length {
			return fmt.Errorf("record at %d passes the end of its batch: %w", at, errInvalid)
		}
		rh, ok := decodeRecordHeader(s.buf[at:], place{h.id, h.salt, off + int64(at)})
		if !ok {
			return fmt.Errorf("record header at %d: %w", at, errInvalid)
		}
		if int64(rh.length) > int64(bh.length-at-recordHeaderSize) {
			return fmt.Errorf("record of %d bytes at %d passes the end of its batch: %w", rh.length, at, errInvalid)
		}
		if crc32.Checksum(s.buf[at+recordHeaderSize:][:rh.length], castagnoli) != rh.payload {
			return fmt.Errorf("payload of %d bytes at %d: checksum: %w", rh.length, at, errInvalid)
		}
		sum = crc32.Update(sum, castagnoli, s.buf[at:at+recordHeaderSize])
		at += recordSize(int(rh.length))
	}
	if at != bh.length || sum != bh.records {
		return fmt.Errorf("records are not those of the batch: %w", errInvalid)
	}
	return nil
}

// headerAfter looks for a valid batch header above off and returns where it is, or 0.
func (s *scanner) headerAfter(r io.ReaderAt, h *segmentHeader, off int64) (int64, error) {
	const window = 1 << 20
	s.buf = slices.Grow(s.buf[:0], window)[:window]
	for off += block; off < h.size; off += window {
		n, err := r.ReadAt(s.buf, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("read at %d: %w", off, err)
		}
		for at := 0; at+batchHeaderSize <= n; at += block {
			if _, ok := decodeBatchHeader(s.buf[at:], place{h.id, h.salt, off + int64(at)}); ok {
				return off + int64(at), nil
			}
		}
		if n < window {
			break
		}
	}
	return 0, nil
}

// goneSegments decodes the payload of a gone record.
func goneSegments(payload []byte) []uint64 {
	ids := make([]uint64, 0, len(payload)/8)
	for ; len(payload) >= 8; payload = payload[8:] {
		ids = append(ids, binary.LittleEndian.Uint64(payload))
	}
	return ids
}

// covered keeps, for one group, what a segment holds of it.
type covered struct {
	upTo  wire.Set // the highest set
	bytes int64    // payload
}
