package proto

import "encoding/binary"

// Request is the header of every message of a client in the transmission
// phase. A write is followed by Length bytes of data; nothing else is.
//
//	 0       4       6       8              16              24      28
//	┌───────┬───────┬───────┬───────────────┬───────────────┬───────┐
//	│ magic │ flags │ type  │ cookie        │ offset        │length │
//	└───────┴───────┴───────┴───────────────┴───────────────┴───────┘
type Request struct {
	Flags  uint16
	Type   uint16
	Cookie uint64
	Offset uint64 // bytes
	Length uint32 // bytes
}

// ParseRequest decodes the first RequestSize bytes of b; ok is false when the
// magic number is wrong, after which nothing in the stream can be trusted.
func ParseRequest(b []byte) (r Request, ok bool) {
	_ = b[RequestSize-1]
	r.Flags = binary.BigEndian.Uint16(b[4:])
	r.Type = binary.BigEndian.Uint16(b[6:])
	r.Cookie = binary.BigEndian.Uint64(b[8:])
	r.Offset = binary.BigEndian.Uint64(b[16:])
	r.Length = binary.BigEndian.Uint32(b[24:])
	return r, binary.BigEndian.Uint32(b) == RequestMagic
}

// Append appends the RequestSize bytes of r to b.
func (r Request) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, RequestMagic)
	b = binary.BigEndian.AppendUint16(b, r.Flags)
	b = binary.BigEndian.AppendUint16(b, r.Type)
	b = binary.BigEndian.AppendUint64(b, r.Cookie)
	b = binary.BigEndian.AppendUint64(b, r.Offset)
	return binary.BigEndian.AppendUint32(b, r.Length)
}

// AppendSimpleReply appends a simple reply. The data of a successful read
// follow it.
//
//	 0       4       8              16
//	┌───────┬───────┬───────────────┐
//	│ magic │ error │ cookie        │
//	└───────┴───────┴───────────────┘
func AppendSimpleReply(b []byte, cookie uint64, code Errno) []byte {
	b = binary.BigEndian.AppendUint32(b, SimpleReplyMagic)
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return binary.BigEndian.AppendUint64(b, cookie)
}

// AppendChunk appends the header of a structured reply chunk whose payload
// has length bytes.
//
//	 0       4       6       8              16      20
//	┌───────┬───────┬───────┬───────────────┬───────┐
//	│ magic │ flags │ type  │ cookie        │length │
//	└───────┴───────┴───────┴───────────────┴───────┘
func AppendChunk(b []byte, flags, kind uint16, cookie uint64, length uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, StructuredReplyMagic)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, cookie)
	return binary.BigEndian.AppendUint32(b, length)
}

// AppendOption appends the header of a client's option with length bytes of
// data.
//
//	 0              8      12      16
//	┌───────────────┬───────┬───────┐
//	│ magic         │option │length │
//	└───────────────┴───────┴───────┘
func AppendOption(b []byte, option, length uint32) []byte {
	b = binary.BigEndian.AppendUint64(b, OptionMagic)
	b = binary.BigEndian.AppendUint32(b, option)
	return binary.BigEndian.AppendUint32(b, length)
}

// AppendOptionReply appends a whole reply to an option.
//
//	 0              8      12      16      20
//	┌───────────────┬───────┬───────┬───────┬─────────
//	│ magic         │option │ type  │length │ data …
//	└───────────────┴───────┴───────┴───────┴─────────
func AppendOptionReply(b []byte, option, kind uint32, data []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, OptionReplyMagic)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}
