package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"flotilla/wire"
)

// Entry is a record to append.
type Entry struct {
	Group wire.GroupID
	Set   wire.Set
	Tag   uint64 // the caller's own
	// Parts are the payload, one after the other.
	Parts [][]byte
	// Urgent lets the record use the reserve.
	Urgent bool
	// NoWait makes Append return ErrBusy instead of waiting for the disk.
	NoWait bool
}

// batch collects records for one write. Its place is fixed from the begin, so that a Ref can be given out at once.
type batch struct {
	seg   *segment
	fresh bool   // seg has no file yet
	base  int64  // offset in seg
	limit int    // bytes that records may take it to
	buf   []byte // from the batch header on
	sum   uint32 // CRC of the record headers so far
	done  []pending
	bytes uint64   // payload of the caller's records
	gone  []uint64 // segments that its gone record lists

	// Where the next batch would have gone before this one was taken.
	prevTail *segment
	prevEnd  int64
}

// pending is a record that waits for the disk.
type pending struct {
	ref  Ref
	done func(Ref, error)
}

// header checks an entry and makes its record header, with the payload's checksum.
func (j *Journal) header(e Entry) (recordHeader, error) {
	n := 0
	for _, p := range e.Parts {
		if n += len(p); n > j.opt.maxRecord() {
			return recordHeader{}, fmt.Errorf("append more than %d bytes: %w", j.opt.maxRecord(), ErrTooLarge)
		}
	}
	rh := recordHeader{length: uint32(n), kind: kindData, group: e.Group, set: e.Set, tag: e.Tag}
	for _, p := range e.Parts {
		rh.payload = crc32.Update(rh.payload, castagnoli, p)
	}
	return rh, nil
}

// makeRoomLocked sees to it that j.cur can take a record of so many bytes with its header. It returns false if that must
// wait for the flusher, and ErrFull if it must wait for a Free. j.mu is held.
func (j *Journal) makeRoomLocked(need int, urgent bool) (bool, error) {
	bound := j.opt.Limit - j.opt.Reserve
	if urgent {
		bound = j.opt.Limit
	}
	full := func(used int64) error {
		return fmt.Errorf("append: the segments would take %d of %d bytes (limit %d, reserve %d): %w",
			used, bound, j.opt.Limit, j.opt.Reserve, ErrFull)
	}
	if j.used > bound {
		return false, full(j.used)
	}
	if j.cur != nil {
		return len(j.cur.buf)+need <= j.cur.limit, nil
	}
	b := &batch{seg: j.tail, base: j.end}
	if j.tail == nil || j.end+int64(batchHeaderSize+need) > j.tail.dataEnd() {
		if j.used+j.opt.SegmentSize > bound {
			return false, full(j.used + j.opt.SegmentSize)
		}
		seg, err := j.newSegmentLocked()
		if err != nil {
			return false, err
		}
		b.seg, b.base, b.fresh = seg, seg.header.length(), true
	}
	b.limit = int(min(b.seg.dataEnd()-b.base, int64(max(j.opt.maxBatch(), batchHeaderSize+need))))
	var head [batchHeaderSize]byte
	b.buf = append(j.buf[:0], head[:]...)
	j.buf = nil
	j.cur = b
	return true, nil
}

// add appends a record. The caller has made room and holds the journal's mutex.
func (b *batch) add(rh *recordHeader, parts [][]byte, done func(Ref, error)) Ref {
	at := len(b.buf)
	var head [recordHeaderSize]byte
	rh.encode(head[:], b.seg.place(b.base+int64(at)))
	b.sum = crc32.Update(b.sum, castagnoli, head[:])
	b.buf = append(b.buf, head[:]...)
	for _, p := range parts {
		b.buf = append(b.buf, p...)
	}
	var fill [8]byte
	b.buf = append(b.buf, fill[:alignUp(int64(rh.length), 8)-int64(rh.length)]...)
	ref := Ref{Segment: b.seg.id, Offset: b.base + int64(at) + recordHeaderSize, Length: rh.length}
	if rh.kind == kindData {
		b.seg.note(rh.group, rh.set, int64(rh.length))
		b.done = append(b.done, pending{ref, done})
		b.bytes += uint64(rh.length)
	}
	return ref
}

// addGone lists segments that hold nothing that is needed.
func (b *batch) addGone(ids []uint64) {
	payload := make([]byte, 0, 8*len(ids))
	for _, id := range ids {
		payload = binary.LittleEndian.AppendUint64(payload, id)
	}
	b.gone = ids
	rh := recordHeader{length: uint32(len(payload)), payload: crc32.Checksum(payload, castagnoli), kind: kindGone}
	b.add(&rh, [][]byte{payload}, nil)
}

// finish writes the batch's header and fills it up to whole blocks. After that the buffer does not change.
func (b *batch) finish() {
	length := len(b.buf)
	b.buf = append(b.buf, make([]byte, alignUp(int64(length), block)-int64(length))...)
	batchHeader{length, b.sum}.encode(b.buf, b.seg.place(b.base))
}

// read copies a record out of the batch and reports whether it is in it. The journal's mutex is held.
func (b *batch) read(ref Ref, dst []byte) ([]byte, bool) {
	at := ref.Offset - b.base
	if b.seg.id != ref.Segment || at < batchHeaderSize+recordHeaderSize || at+int64(ref.Length) > int64(len(b.buf)) {
		return nil, false
	}
	rh, ok := decodeRecordHeader(b.buf[at-recordHeaderSize:], b.seg.place(ref.Offset-recordHeaderSize))
	if !ok || rh.length != ref.Length || rh.kind != kindData {
		return nil, false
	}
	return append(dst[:0], b.buf[at:at+int64(ref.Length)]...), true
}
