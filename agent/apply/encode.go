package apply

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"flotilla/wire"
)

// MaxLength bounds an encoded request, in bytes.
const MaxLength = headerLength + relayLength + MaxPieces*pieceLength + MaxData

const (
	version      = 1
	headerLength = 64
	relayLength  = 16
	pieceLength  = 20
	flagFlush    = 1
	flagRelayed  = 2
	flagChecks   = 4
)

// Append encodes the request behind dst; it copies the data. It fails with ErrInvalid for what Parse would refuse.
//
//	0         1       2      4       8             16    24     32       36      40     44       48        56     60       64
//	| version | flags | zero | group | incarnation | set | view | volume | count | data | writes | attempt | zero | head   |
//	| 1       | u8    | u16  | u32   | u64         | u64 | u64  | u32    | u32   | u32  | u32    | u64     | u32  | CRC32C |
//
// then, if it is relayed, From and To (u64 each), then for each piece, and then the data of all writes and checks in order:
//
//	0      1       2      4        8        16    20
//	| kind | later | zero | length | offset | sum |
//	| u8   | 0, 1  | u16  | u32    | u64    | u32 |
//
// The data of a check are its seq (u64) and the digest.
//
// Numbers are little-endian. Bit 0 of the flags is Flush, bit 1 says that it is relayed, bit 2 is Checks. The head CRC32C covers the header
// before it and all up to the data, which is covered by the sums.
func (r *Request) Append(dst []byte) ([]byte, error) {
	if err := r.Validate(); err != nil {
		return dst, fmt.Errorf("encode apply request for volume %d: %w", r.Volume, err)
	}
	start := len(dst)
	dst = slices.Grow(dst, r.Length())
	flags := byte(0)
	if r.Flush {
		flags = flagFlush
	}
	if r.relayed() {
		flags |= flagRelayed
	}
	if r.Checks {
		flags |= flagChecks
	}
	le := binary.LittleEndian
	dst = append(dst, version, flags, 0, 0)
	dst = le.AppendUint32(dst, uint32(r.Group))
	dst = le.AppendUint64(dst, uint64(r.Inc))
	dst = le.AppendUint64(dst, uint64(r.Set))
	dst = le.AppendUint64(dst, uint64(r.View))
	dst = le.AppendUint32(dst, uint32(r.Volume))
	dst = le.AppendUint32(dst, uint32(len(r.Pieces)))
	dst = le.AppendUint32(dst, uint32(r.DataBytes()))
	dst = le.AppendUint32(dst, r.Writes)
	dst = le.AppendUint64(dst, r.Attempt)
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	if r.relayed() {
		dst = le.AppendUint64(dst, uint64(r.From))
		dst = le.AppendUint64(dst, uint64(r.To))
	}
	for i := range r.Pieces {
		p := &r.Pieces[i]
		later := byte(0)
		if p.Later {
			later = 1
		}
		dst = append(dst, byte(p.Kind), later, 0, 0)
		dst = le.AppendUint32(dst, p.Length)
		dst = le.AppendUint64(dst, p.Offset)
		dst = le.AppendUint32(dst, p.Sum)
	}
	le.PutUint32(dst[start+60:], headSum(dst[start:]))
	for i := range r.Pieces {
		dst = append(dst, r.Pieces[i].Data...)
	}
	return dst, nil
}

// Length returns the length of the encoded request, in bytes.
func (r *Request) Length() int {
	n := headerLength + len(r.Pieces)*pieceLength + r.DataBytes()
	if r.relayed() {
		n += relayLength
	}
	return n
}

func (r *Request) relayed() bool { return r.From != 0 || r.To != 0 }

// headSum is the CRC of a header and of what follows it up to the data.
func headSum(raw []byte) uint32 {
	return crc32.Update(crc32.Checksum(raw[:60], castagnoli), castagnoli, raw[headerLength:])
}

// Parse decodes and checks a request, sums of the data included. Its data lies in raw. It fails with ErrInvalid.
func Parse(raw []byte) (*Request, error) {
	r, err := parse(raw)
	if err == nil {
		err = r.Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("parse apply request of %d bytes: %w: %w", len(raw), err, ErrInvalid)
	}
	return r, nil
}

func parse(raw []byte) (*Request, error) {
	if len(raw) < headerLength || len(raw) > MaxLength {
		return nil, fmt.Errorf("want %d to %d bytes", headerLength, MaxLength)
	}
	if raw[0] != version {
		return nil, fmt.Errorf("version %d is not %d; run the same release on all agents", raw[0], version)
	}
	le := binary.LittleEndian
	count, dataLength := le.Uint32(raw[36:]), le.Uint32(raw[40:])
	begin := uint32(headerLength)
	if raw[1]&flagRelayed != 0 {
		begin += relayLength
	}
	if count > MaxPieces || uint64(begin)+uint64(count)*pieceLength+uint64(dataLength) != uint64(len(raw)) {
		return nil, fmt.Errorf("%d pieces and %d bytes of data do not add up", count, dataLength)
	}
	table := raw[begin : begin+count*pieceLength]
	data := raw[begin+uint32(len(table)):]
	if want, have := le.Uint32(raw[60:]), headSum(raw[:begin+uint32(len(table))]); want != have {
		return nil, fmt.Errorf("CRC32C of header and pieces is %08x, computed %08x", want, have)
	}
	if raw[1]&^(flagFlush|flagRelayed|flagChecks) != 0 || le.Uint16(raw[2:]) != 0 || le.Uint32(raw[56:]) != 0 {
		return nil, errors.New("reserved bits are not zero")
	}
	r := &Request{
		Group: wire.GroupID(le.Uint32(raw[4:])), Inc: wire.Incarnation(le.Uint64(raw[8:])), Set: wire.Set(le.Uint64(raw[16:])),
		View: wire.View(le.Uint64(raw[24:])), Volume: wire.VolumeID(le.Uint32(raw[32:])),
		Writes: le.Uint32(raw[44:]), Attempt: le.Uint64(raw[48:]), Flush: raw[1]&flagFlush != 0,
		Checks: raw[1]&flagChecks != 0,
	}
	if begin > headerLength {
		r.From, r.To = wire.AgentID(le.Uint64(raw[64:])), wire.AgentID(le.Uint64(raw[72:]))
		if !r.relayed() {
			return nil, errors.New("it is relayed between nobody")
		}
	}
	if count > 0 {
		r.Pieces = make([]Piece, count)
	}
	for i := range r.Pieces {
		entry := table[i*pieceLength:]
		if entry[1] > 1 || entry[2] != 0 || entry[3] != 0 {
			return nil, fmt.Errorf("reserved bytes of piece %d are not zero", i)
		}
		p := &r.Pieces[i]
		*p = Piece{Kind: wire.Kind(entry[0]), Later: entry[1] == 1, Length: le.Uint32(entry[4:]), Offset: le.Uint64(entry[8:]), Sum: le.Uint32(entry[16:])}
		var length uint32
		switch p.Kind {
		case wire.KindWrite:
			length = p.Length
		case wire.KindCheck:
			length = checkDataLength
		}
		if uint64(length) > uint64(len(data)) {
			return nil, fmt.Errorf("data ends inside piece %d", i)
		}
		if length > 0 {
			p.Data, data = data[:length:length], data[length:]
		}
	}
	if len(data) > 0 {
		return nil, fmt.Errorf("%d bytes follow the last piece", len(data))
	}
	return r, nil
}
