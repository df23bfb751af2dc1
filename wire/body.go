package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

// BodyVersion is the version of the layout that EncodeBody writes and the only one that ParseBody reads.
const BodyVersion = 1

// ErrUnsupported says that bytes are in a version or codec that this build does not know.
var ErrUnsupported = errors.New("unsupported format")

// bodyHeaderLength is the length of a body before its table:
//
//	0         1       2      4       8         16            24    32      36        40       44       48            52
//	| version | codec | zero | group | primary | incarnation | set | count | table   | raw    | stored | payload     | head   |
//	| u8      | u8    | u16  | u32   | u64     | u64         | u64 | u32   | bytes   | bytes  | bytes  | CRC32C u32  | CRC32C |
//
//	56                  56+table
//	| update table …    | payload, stored bytes: the data of all updates in order, as one compressed block |
//
// All numbers are little-endian. The head CRC32C covers bytes 0 to 52 and the table; the payload's covers the stored
// bytes. The payload is never stored longer than it was: raw ≥ stored, and raw = stored for CodecRaw.
const bodyHeaderLength = 56

// BodyHeader is what all updates of a body share.
type BodyHeader struct {
	Group       GroupID
	Primary     AgentID
	Incarnation Incarnation
	Set         Set
}

// Body is the part of a frame that never changes once encoded: it is journaled and forwarded as received.
type Body struct {
	Version     uint8
	Codec       Codec
	Group       GroupID
	Primary     AgentID
	Incarnation Incarnation
	Set         Set
	Updates     []Update // headers, rising by seq; Data is nil until Decompress
	RawLen      uint32   // payload bytes before compression
	Raw         []byte   // the whole encoded body; not copied, not to be changed

	payload []byte  // the stored payload, inside Raw
	digests []uint8 // the lengths of the checks' data, in order
}

// EncodeBody encodes updates behind dst, their data compressed as one payload as enc sees fit. Updates rise strictly
// by seq and carry their data and sums. It fails without effect for what ParseBody would refuse.
func EncodeBody(dst []byte, h BodyHeader, ups []Update, enc *Encoder) ([]byte, error) {
	if len(ups) == 0 || len(ups) > MaxUpdatesPerFrame {
		return dst, fmt.Errorf("encode body: %d updates, want 1 to %d", len(ups), MaxUpdatesPerFrame)
	}
	var cursor tableCursor
	table, rawLen := enc.table[:0], 0
	var err error
	for i := range ups {
		u := &ups[i]
		if err = u.checkHeader(); err == nil {
			err = u.checkData()
		}
		if err == nil {
			table, err = cursor.append(table, u)
		}
		if err != nil {
			return dst, fmt.Errorf("encode body: update %d, seq %d of group %d: %w", i, u.Seq, h.Group, err)
		}
		if rawLen += len(u.Data); rawLen > MaxFramePayload {
			return dst, fmt.Errorf("encode body: data of %d updates is longer than %d bytes: use several frames", len(ups), MaxFramePayload)
		}
	}
	enc.table = table

	codec, packed := enc.pack(ups, rawLen)
	stored := rawLen
	if codec != CodecRaw {
		stored = len(packed)
	}
	start := len(dst)
	dst = slices.Grow(dst, bodyHeaderLength+len(table)+stored)
	dst = dst[:start+bodyHeaderLength]
	dst = append(dst, table...)
	if codec == CodecRaw {
		for i := range ups {
			dst = append(dst, ups[i].Data...)
		}
	} else {
		dst = append(dst, packed...)
	}

	head := dst[start : start+bodyHeaderLength]
	le := binary.LittleEndian
	head[0], head[1] = BodyVersion, byte(codec)
	le.PutUint16(head[2:], 0)
	le.PutUint32(head[4:], uint32(h.Group))
	le.PutUint64(head[8:], uint64(h.Primary))
	le.PutUint64(head[16:], uint64(h.Incarnation))
	le.PutUint64(head[24:], uint64(h.Set))
	le.PutUint32(head[32:], uint32(len(ups)))
	le.PutUint32(head[36:], uint32(len(table)))
	le.PutUint32(head[40:], uint32(rawLen))
	le.PutUint32(head[44:], uint32(stored))
	le.PutUint32(head[48:], crc32.Checksum(dst[start+bodyHeaderLength+len(table):], castagnoli))
	le.PutUint32(head[52:], headSum(head, table))
	return dst, nil
}

func headSum(head, table []byte) uint32 {
	return crc32.Update(crc32.Checksum(head[:52], castagnoli), castagnoli, table)
}

// ParseBody checks and reads the header and the update table of a body, and checks the CRC of its payload, which it
// leaves compressed. The body keeps raw. It fails with ErrCorrupt or ErrUnsupported.
func ParseBody(raw []byte) (*Body, error) {
	b := &Body{Raw: raw}
	if err := b.parse(); err != nil {
		return nil, fmt.Errorf("parse body of %d bytes: %w", len(raw), err)
	}
	return b, nil
}

func (b *Body) parse() error {
	raw := b.Raw
	if len(raw) < bodyHeaderLength {
		return fmt.Errorf("want at least %d: %w", bodyHeaderLength, ErrCorrupt)
	}
	le := binary.LittleEndian
	if b.Version = raw[0]; b.Version != BodyVersion {
		return fmt.Errorf("version %d is not %d, the one this agent reads; run the same release on all agents: %w", b.Version, BodyVersion, ErrUnsupported)
	}
	count, tableLen := le.Uint32(raw[32:]), le.Uint32(raw[36:])
	stored := le.Uint32(raw[44:])
	if bodyHeaderLength+uint64(tableLen)+uint64(stored) != uint64(len(raw)) {
		return fmt.Errorf("table of %d bytes and payload of %d do not add up: %w", tableLen, stored, ErrCorrupt)
	}
	table := raw[bodyHeaderLength : bodyHeaderLength+tableLen]
	b.payload = raw[bodyHeaderLength+tableLen:]
	if want, have := le.Uint32(raw[52:]), headSum(raw, table); want != have {
		return fmt.Errorf("CRC32C of header and table is %08x, computed %08x: %w", want, have, ErrCorrupt)
	}
	if want, have := le.Uint32(raw[48:]), crc32.Checksum(b.payload, castagnoli); want != have {
		return fmt.Errorf("CRC32C of the payload is %08x, computed %08x: %w", want, have, ErrCorrupt)
	}
	b.Codec = Codec(raw[1])
	if !b.Codec.stored() {
		return fmt.Errorf("codec %d is none of %v, %v, %v; run the same release on all agents: %w", raw[1], CodecRaw, CodecS2, CodecZstd, ErrUnsupported)
	}
	b.Group = GroupID(le.Uint32(raw[4:]))
	b.Primary = AgentID(le.Uint64(raw[8:]))
	b.Incarnation = Incarnation(le.Uint64(raw[16:]))
	b.Set = Set(le.Uint64(raw[24:]))
	b.RawLen = le.Uint32(raw[40:])
	switch {
	case le.Uint16(raw[2:]) != 0:
		return fmt.Errorf("reserved bytes are not zero: %w", ErrCorrupt)
	case b.RawLen > MaxFramePayload:
		return fmt.Errorf("payload of %d bytes is longer than %d: %w", b.RawLen, MaxFramePayload, ErrCorrupt)
	case stored > b.RawLen || (b.Codec == CodecRaw && stored != b.RawLen):
		return fmt.Errorf("%d payload bytes stored as %d by codec %v: %w", b.RawLen, stored, b.Codec, ErrCorrupt)
	case count == 0 || count > MaxUpdatesPerFrame || count > tableLen/minEntryLength:
		return fmt.Errorf("%d updates in a table of %d bytes: %w", count, tableLen, ErrCorrupt)
	}
	return b.parseTable(table, int(count))
}

func (b *Body) parseTable(table []byte, count int) error {
	b.Updates = make([]Update, count)
	var cursor tableCursor
	total := uint64(0)
	for i := range b.Updates {
		rest, dataLen, err := cursor.next(table, &b.Updates[i])
		if err != nil {
			return fmt.Errorf("update %d: %w: %w", i, err, ErrCorrupt)
		}
		if b.Updates[i].Kind == KindCheck {
			b.digests = append(b.digests, uint8(dataLen))
		}
		table = rest
		total += uint64(dataLen)
	}
	if len(table) != 0 {
		return fmt.Errorf("%d bytes follow the last update: %w", len(table), ErrCorrupt)
	}
	if total != uint64(b.RawLen) {
		return fmt.Errorf("updates hold %d bytes, payload %d: %w", total, b.RawLen, ErrCorrupt)
	}
	return nil
}

// Header returns what all updates of the body share.
func (b *Body) Header() BodyHeader {
	return BodyHeader{Group: b.Group, Primary: b.Primary, Incarnation: b.Incarnation, Set: b.Set}
}

// Verify checks the sum of every update. The body must have been decompressed.
func (b *Body) Verify() error {
	for i := range b.Updates {
		if err := b.Updates[i].Verify(b.Group, b.Incarnation); err != nil {
			return err
		}
	}
	return nil
}
