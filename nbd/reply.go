package nbd

import (
	"encoding/binary"

	"flotilla/nbd/internal/proto"
)

// batch is the replies that leave with one system call: their headers one
// after the other in head, and the data to be put in between.
type batch struct {
	head  []byte
	data  []batchData
	count int   // requests answered
	cost  int64 // bytes of the budget that are free once this is sent

	pieces [][]byte // scratch of send
}

type batchData struct {
	at  int // position in head before which the data go, or notSent
	buf *Buffer
}

// notSent marks a buffer that is only to be released with the batch.
const notSent = -1

func (b *batch) empty() bool { return b.count == 0 }

func (b *batch) reset() {
	clear(b.data)
	clear(b.pieces)
	b.head, b.data, b.pieces, b.count, b.cost = b.head[:0], b.data[:0], b.pieces[:0], 0, 0
}

// addStatus appends the reply of a request without data.
func (b *batch) addStatus(cookie uint64, structured bool, code Errno, text string) {
	if code != 0 && structured {
		b.addErrorChunk(cookie, code, text)
		return
	}
	b.head = proto.AppendSimpleReply(b.head, cookie, code)
}

// addErrorChunk appends the chunk
//
//	error u32 │ message length u16 │ message
func (b *batch) addErrorChunk(cookie uint64, code Errno, text string) {
	text = clip(text)
	b.head = proto.AppendChunk(b.head, proto.ReplyFlagDone, proto.ReplyError, cookie, uint32(6+len(text)))
	b.head = binary.BigEndian.AppendUint32(b.head, uint32(code))
	b.head = binary.BigEndian.AppendUint16(b.head, uint16(len(text)))
	b.head = append(b.head, text...)
}

// addRead appends the reply of a successful read and takes over the
// reference to its buffer. The whole data are there, so one chunk says all:
//
//	offset u64 │ data                 OFFSET_DATA
//	offset u64 │ length u32           OFFSET_HOLE
func (b *batch) addRead(r *Request, structured bool) {
	if !structured {
		b.head = proto.AppendSimpleReply(b.head, r.cookie, 0)
		if r.hole {
			clear(r.buf.Bytes())
		}
		b.addData(r.buf)
		return
	}
	offset, length := uint64(r.Offset), uint32(r.Length)
	if r.hole {
		b.head = proto.AppendChunk(b.head, proto.ReplyFlagDone, proto.ReplyOffsetHole, r.cookie, 12)
		b.head = binary.BigEndian.AppendUint64(b.head, offset)
		b.head = binary.BigEndian.AppendUint32(b.head, length)
		b.data = append(b.data, batchData{at: notSent, buf: r.buf})
		return
	}
	b.head = proto.AppendChunk(b.head, proto.ReplyFlagDone, proto.ReplyOffsetData, r.cookie, 8+length)
	b.head = binary.BigEndian.AppendUint64(b.head, offset)
	b.addData(r.buf)
}

// addEmpty appends the successful reply of a read of no bytes.
func (b *batch) addEmpty(cookie uint64, structured bool) {
	if !structured {
		b.head = proto.AppendSimpleReply(b.head, cookie, 0)
		return
	}
	b.head = proto.AppendChunk(b.head, proto.ReplyFlagDone, proto.ReplyNone, cookie, 0)
}

func (b *batch) addData(buf *Buffer) {
	b.data = append(b.data, batchData{at: len(b.head), buf: buf})
}

// addExtents appends the chunk
//
//	context u32 │ (length u32 │ flags u32) …
func (b *batch) addExtents(cookie uint64, list []Extent) {
	b.head = proto.AppendChunk(b.head, proto.ReplyFlagDone, proto.ReplyBlockStatus, cookie, uint32(4+8*len(list)))
	b.head = binary.BigEndian.AppendUint32(b.head, allocationContext)
	for _, e := range list {
		b.head = binary.BigEndian.AppendUint32(b.head, uint32(e.Length))
		b.head = binary.BigEndian.AppendUint32(b.head, uint32(e.Flags))
	}
}

// send writes the batch to s.
func (b *batch) send(s *stream) error {
	pos := 0
	for _, d := range b.data {
		if d.at == notSent {
			continue
		}
		if d.at > pos {
			b.pieces = append(b.pieces, b.head[pos:d.at])
			pos = d.at
		}
		b.pieces = append(b.pieces, d.buf.Bytes())
	}
	if pos < len(b.head) {
		b.pieces = append(b.pieces, b.head[pos:])
	}
	return s.writev(b.pieces)
}

// release gives the data's buffers back.
func (b *batch) release() {
	for _, d := range b.data {
		d.buf.Release()
	}
}

// clip bounds a message to what a chunk may carry, without cutting a
// character in half.
func clip(text string) string {
	const most = 1024
	if len(text) <= most {
		return text
	}
	end := most
	for end > 0 && text[end]&0xc0 == 0x80 {
		end--
	}
	return text[:end]
}
