package journal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"flotilla/agent/vfs"
)

// Read returns a record's payload, verified, in dst if that is large enough. It finds records that are not durable
// yet as well. ErrRot means that the record is durable and cannot be read back as it was written.
func (j *Journal) Read(ref Ref, dst []byte) ([]byte, error) {
	seg, file, payload, err := j.acquire(ref, dst)
	if seg == nil {
		return payload, err
	}
	defer j.release(seg)
	n := recordHeaderSize + int(ref.Length)
	dst = slices.Grow(dst[:0], n)[:n]
	at := ref.Offset - recordHeaderSize
	if got, err := file.ReadAt(dst, at); got < n {
		if err == nil || errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read %d bytes of segment %d at %d: the file ends after %d of them: %w", n, ref.Segment, at, got, ErrRot)
		}
		return nil, fmt.Errorf("read %d bytes of segment %d at %d: %w", n, ref.Segment, at, err)
	}
	rh, ok := decodeRecordHeader(dst, seg.place(at))
	if !ok || rh.length != ref.Length || rh.kind != kindData {
		return nil, fmt.Errorf("read segment %d at %d: record header: %w", ref.Segment, at, ErrRot)
	}
	// One read and a move, rather than two reads: system calls are the dearer.
	copy(dst, dst[recordHeaderSize:])
	dst = dst[:ref.Length]
	if crc32.Checksum(dst, castagnoli) != rh.payload {
		return nil, fmt.Errorf("read segment %d at %d: payload of %d bytes: %w", ref.Segment, ref.Offset, ref.Length, ErrRot)
	}
	return dst, nil
}

// acquire finds a record. If it is still in memory, or cannot be read, the segment is nil and the rest is Read's
// answer. Otherwise the file stays open until release.
func (j *Journal) acquire(ref Ref, dst []byte) (*segment, vfs.File, []byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, nil, nil, ErrClosed
	}
	for _, b := range []*batch{j.fly, j.cur} {
		if b == nil {
			continue
		}
		if payload, ok := b.read(ref, dst); ok {
			return nil, nil, payload, nil
		}
	}
	seg := j.segs[ref.Segment]
	if seg == nil || seg.gone {
		return nil, nil, nil, fmt.Errorf("read segment %d: %w", ref.Segment, ErrFreed)
	}
	durable := seg.end
	switch {
	case j.fly != nil && j.fly.seg == seg:
		durable = j.fly.base
	case j.tail == seg:
		durable = j.end
	}
	if seg.file == nil || ref.Offset < block+batchHeaderSize+recordHeaderSize || ref.Offset+int64(ref.Length) > durable {
		return nil, nil, nil, fmt.Errorf("read %d bytes of segment %d at %d: no record is there, or its append failed", ref.Length, ref.Segment, ref.Offset)
	}
	seg.readers++
	return seg, seg.file, nil, nil
}

// release lets go of a segment's file. The last reader of a closed journal closes it.
func (j *Journal) release(seg *segment) {
	j.mu.Lock()
	defer j.mu.Unlock()
	seg.readers--
	if seg.readers > 0 {
		return
	}
	if j.released {
		// It was only read here; what was written had been flushed before.
		_ = seg.file.Close()
		seg.file = nil
	} else if seg.gone {
		j.wakeFlusher()
	}
}
