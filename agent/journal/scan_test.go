package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"flotilla/wire"
)

// buildSegment makes a segment with one batch for each slice of payload sizes, and returns where the batches begin.
func buildSegment(batches [][]byte) ([]byte, *segmentHeader, []int64) {
	seg := newSegment(segmentHeader{id: 7, salt: 0x1122334455667788, size: minSegmentSize, live: []segmentEnd{{3, 8192}}})
	file := seg.header.encode()
	var starts []int64
	for i, sizes := range batches {
		b := &batch{seg: seg, base: int64(len(file)), buf: make([]byte, batchHeaderSize)}
		for k, n := range sizes {
			data := bytes.Repeat([]byte{byte(i), byte(k), n}, int(n))
			rh := recordHeader{length: uint32(len(data)), payload: crc32.Checksum(data, castagnoli), kind: kindData,
				group: wire.GroupID(i), set: wire.Set(k), tag: uint64(n)}
			b.add(&rh, [][]byte{data}, nil)
		}
		b.finish()
		if len(file)+len(b.buf) > minSegmentSize {
			break
		}
		starts = append(starts, b.base)
		file = append(file, b.buf...)
	}
	return file, &seg.header, starts
}

// A batch is taken whole: valid records of another batch that was to stand in the same place do not count as its own.
func TestRecordsBelongToTheirBatch(t *testing.T) {
	file, h, starts := buildSegment([][]byte{{1}, {4, 4}})
	// The second batch again, with records that only differ in their number.
	b := &batch{seg: newSegment(*h), base: starts[1], buf: make([]byte, batchHeaderSize)}
	for k := range 2 {
		data := bytes.Repeat([]byte{9}, 12)
		rh := recordHeader{length: 12, payload: crc32.Checksum(data, castagnoli), kind: kindData, group: 9, set: wire.Set(k)}
		b.add(&rh, [][]byte{data}, nil)
	}
	b.finish()
	at := batchHeaderSize + recordSize(12) // The second record of either.
	copy(file[starts[1]+int64(at):], b.buf[at:])
	var s scanner
	n := 0
	found, err := s.last(bytes.NewReader(file), h, func(foundRecord) error { n++; return nil })
	if err != nil || n != 1 || found.end != starts[1] {
		t.Errorf("%d records up to %d, %v; want the first batch only", n, found.end, err)
	}
}

// What an older life of a file left behind is told by the salt, even at the same offset under the same number.
func TestSaltTellsLivesApart(t *testing.T) {
	file, h, starts := buildSegment([][]byte{{1, 2}})
	b := file[starts[0]:]
	for _, salt := range []uint64{h.salt, h.salt + 1} {
		_, ok := decodeBatchHeader(b, place{h.id, salt, starts[0]})
		_, ok2 := decodeRecordHeader(b[batchHeaderSize:], place{h.id, salt, starts[0] + batchHeaderSize})
		if ok != (salt == h.salt) || ok2 != ok {
			t.Errorf("salt %x: batch valid %v, record valid %v", salt, ok, ok2)
		}
	}
}

// repair makes the checksums of the headers right again, so that what they claim gets believed.
func repair(data []byte, id, salt uint64) {
	for off := 0; off+batchHeaderSize+recordHeaderSize <= len(data); off += block {
		b := data[off:]
		if string(b[:4]) != batchMagic {
			continue
		}
		length := int(binary.LittleEndian.Uint32(b[32:]))
		at, sum := batchHeaderSize, uint32(0)
		for at < length && at+recordHeaderSize <= len(b) {
			binary.LittleEndian.PutUint32(b[at:], recordSum(b[at:], place{id, salt, int64(off + at)}))
			sum = crc32.Update(sum, castagnoli, b[at:at+recordHeaderSize])
			n := int(binary.LittleEndian.Uint32(b[at+4:]))
			if n > len(b)-at-recordHeaderSize {
				break
			}
			binary.LittleEndian.PutUint32(b[at+8:], crc32.Checksum(b[at+recordHeaderSize:][:n], castagnoli))
			binary.LittleEndian.PutUint32(b[at:], recordSum(b[at:], place{id, salt, int64(off + at)}))
			at += recordSize(n)
		}
		batchHeader{length, sum}.encode(b, place{id, salt, int64(off)})
	}
}

// FuzzSegment reads arbitrary bytes as a segment.
func FuzzSegment(f *testing.F) {
	file, _, _ := buildSegment([][]byte{{1, 2, 3}, {200}, {}, {5}})
	f.Add(file, true)
	f.Add(file[:9000], false)
	huge := bytes.Clone(file)
	binary.LittleEndian.PutUint32(huge[40:], 0xffffffff)
	f.Add(huge, true)
	f.Fuzz(func(t *testing.T, data []byte, fix bool) {
		if len(data) > maxSegmentSize {
			return
		}
		r := bytes.NewReader(data)
		h, err := readSegmentHeader(r)
		if err != nil {
			h = &segmentHeader{id: 7, salt: 0x1122334455667788, size: minSegmentSize}
		}
		if fix {
			data = bytes.Clone(data)
			repair(data, h.id, h.salt)
			r = bytes.NewReader(data)
		}
		var s scanner
		total := 0
		emit := func(rec foundRecord) error {
			total += recordSize(len(rec.payload))
			if !bytes.Equal(rec.payload, data[rec.off:][:len(rec.payload)]) {
				t.Errorf("record at %d is not what stands there", rec.off)
			}
			goneSegments(rec.payload)
			return nil
		}
		found, err := s.last(r, h, emit)
		if found.end < h.length() || found.end > h.size || total > len(data) {
			t.Errorf("end %d, %d bytes of records in %d, %v", found.end, total, len(data), err)
		}
		if cap(s.buf) > 2*(maxBatchSize+block) {
			t.Errorf("a buffer of %d bytes", cap(s.buf))
		}
		if _, err := s.sealed(r, h, h.size, func(foundRecord) error { return nil }); err == nil && found.end != h.size {
			t.Errorf("durable up to %d by one reading, %d by the other", h.size, found.end)
		}
	})
}

// FuzzDamage changes one byte of a segment: below the last batch that is rot or makes no difference.
func FuzzDamage(f *testing.F) {
	f.Add([]byte{3, 1, 2, 3, 1, 200, 0, 2, 4, 4}, uint32(5000), byte(1))
	f.Add([]byte{1, 1, 1, 1, 1, 1}, uint32(4100), byte(0x80))
	f.Fuzz(func(t *testing.T, plan []byte, at uint32, mask byte) {
		var batches [][]byte
		for len(plan) > 0 && len(batches) < 16 {
			n := min(int(plan[0]%8), len(plan)-1)
			batches = append(batches, plan[1:1+n])
			plan = plan[1+n:]
		}
		file, h, starts := buildSegment(batches)
		collect := func(file []byte) ([]foundRecord, error) {
			var records []foundRecord
			var s scanner
			_, err := s.last(bytes.NewReader(file), h, func(r foundRecord) error {
				r.payload = bytes.Clone(r.payload)
				records = append(records, r)
				return nil
			})
			return records, err
		}
		want, err := collect(file)
		if err != nil || mask == 0 || len(starts) < 2 {
			if err != nil {
				t.Errorf("undamaged: %v", err)
			}
			return
		}
		lo, hi := starts[0], starts[len(starts)-1]
		off := lo + int64(at)%(hi-lo)
		file[off] ^= mask
		got, err := collect(file)
		if errors.Is(err, ErrRot) {
			return
		}
		if err != nil || len(got) != len(want) {
			t.Fatalf("byte %d: %d of %d records, %v", off, len(got), len(want), err)
		}
		for i := range want {
			if got[i].recordHeader != want[i].recordHeader || !bytes.Equal(got[i].payload, want[i].payload) {
				t.Errorf("byte %d: record %d differs", off, i)
			}
		}
	})
}
