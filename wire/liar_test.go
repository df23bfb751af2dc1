package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"flotilla/wire"
)

// craft makes a body whose CRCs are right, whatever else it says.
func craft(codec wire.Codec, count, rawLen uint32, table, payload []byte) []byte {
	le := binary.LittleEndian
	raw := make([]byte, 56)
	raw[0], raw[1] = wire.BodyVersion, byte(codec)
	le.PutUint32(raw[32:], count)
	le.PutUint32(raw[36:], uint32(len(table)))
	le.PutUint32(raw[40:], rawLen)
	le.PutUint32(raw[44:], uint32(len(payload)))
	le.PutUint32(raw[48:], crc(payload))
	le.PutUint32(raw[52:], crc(append(raw[:52:52], table...)))
	return append(append(raw, table...), payload...)
}

// entry makes a table entry of flags, varints and a sum of zero.
func entry(flags byte, numbers ...uint64) []byte {
	e := []byte{flags}
	for _, n := range numbers {
		e = binary.AppendUvarint(e, n)
	}
	return append(e, 0, 0, 0, 0)
}

func join(entries ...[]byte) []byte { return bytes.Join(entries, nil) }

// Flag bits as table.go draws them.
const (
	nextSeq, sameVolume, portion, sectors, folding = 0x08, 0x10, 0x20, 0x40, 0x80
	usual                                          = nextSeq | sameVolume | portion
)

// A peer with a valid certificate can send a body that is wrong on purpose: it is refused by parsing.
func TestParseRefusesLiars(t *testing.T) {
	write := entry(1|usual, 0, 4)
	zero := entry(2|usual, 0, 4)
	good := craft(wire.CodecRaw, 1, 4, write, []byte("data"))
	mustParse := func(raw []byte) {
		t.Helper()
		if _, err := wire.ParseBody(raw); err != nil {
			t.Fatal(err)
		}
	}
	mustParse(good)
	mustParse(craft(wire.CodecRaw, 2, 0, join(zero, zero), nil))
	mustParse(craft(wire.CodecRaw, 1, 0, entry(2|usual|sectors, 0, 1<<23-1), nil))
	mustParse(craft(wire.CodecRaw, 1, 16, entry(4|usual, 0, 4, 16), make([]byte, 16)))

	for name, raw := range map[string][]byte{
		"no updates":              craft(wire.CodecRaw, 0, 0, nil, nil),
		"fewer than in the table": craft(wire.CodecRaw, 1, 0, join(zero, zero), nil),
		"more than in the table":  craft(wire.CodecRaw, 2, 0, zero, nil),
		"count of 4 billion":      craft(wire.CodecRaw, math.MaxUint32, 0, zero, nil),
		"too many":                craft(wire.CodecRaw, wire.MaxUpdatesPerFrame+1, 0, bytes.Repeat(zero, wire.MaxUpdatesPerFrame+1), nil),
		"payload short of data":   craft(wire.CodecRaw, 1, 3, write, []byte("dat")),
		"payload past the data":   craft(wire.CodecRaw, 1, 5, write, []byte("data!")),
		"payload without data":    craft(wire.CodecRaw, 1, 4, zero, []byte("data")),
		"raw, other length":       craft(wire.CodecRaw, 1, 4, write, []byte("dat")),
		"stored longer":           craft(wire.CodecS2, 1, 4, write, []byte("longer")),
		"bomb":                    craft(wire.CodecZstd, 1, math.MaxUint32, entry(1|usual, 0, math.MaxUint32), []byte("x")),
		"auto as a codec":         craft(wire.CodecAuto, 1, 4, write, []byte("data")),
		"kind 0":                  craft(wire.CodecRaw, 1, 0, entry(0|usual, 0, 4), nil),
		"kind 7":                  craft(wire.CodecRaw, 1, 0, entry(7|usual, 0, 4), nil),
		"no length":               craft(wire.CodecRaw, 1, 0, entry(2|usual, 0, 0), nil),
		"write too long":          craft(wire.CodecZstd, 1, wire.MaxUpdateLength+1, entry(1|usual, 0, wire.MaxUpdateLength+1), []byte("x")),
		"length of 33 bits":       craft(wire.CodecRaw, 1, 0, entry(2|usual, 0, 1<<32), nil),
		"sectors of 33 bits":      craft(wire.CodecRaw, 1, 0, entry(2|usual|sectors, 0, 1<<23), nil),
		"offset past the end":     craft(wire.CodecRaw, 1, 0, entry(2|nextSeq|sameVolume, 0, 1, 4), nil),
		"sector past the end":     craft(wire.CodecRaw, 1, 0, entry(2|nextSeq|sameVolume|sectors, 0, 1<<56, 1), nil),
		"portion of 33 bits":      craft(wire.CodecRaw, 1, 0, entry(2|nextSeq|sameVolume, 1<<32, 0, 4), nil),
		"implied portion":         craft(wire.CodecRaw, 1, 0, entry(2|usual, 1<<60, 4), nil),
		"volume of 33 bits":       craft(wire.CodecRaw, 1, 0, entry(2|nextSeq|portion, 1<<32, 0, 4), nil),
		"seq repeated":            craft(wire.CodecRaw, 2, 0, join(zero, entry(2|sameVolume|portion, 0, 0, 4)), nil),
		"seq falls":               craft(wire.CodecRaw, 2, 0, join(zero, entry(2|sameVolume|portion, math.MaxUint64, 0, 4)), nil),
		"seq wraps":               craft(wire.CodecRaw, 2, 0, join(entry(2|sameVolume|portion, math.MaxUint64, 0, 4), zero), nil),
		"absorbed too many":       craft(wire.CodecRaw, 1, 0, entry(2|usual|folding, 0, 4, 2<<1), nil),
		"digest of 0 bytes":       craft(wire.CodecRaw, 1, 0, entry(4|usual, 0, 4, 0), nil),
		"digest of 65 bytes":      craft(wire.CodecRaw, 1, 65, entry(4|usual, 0, 4, 65), make([]byte, 65)),
		"varint of 11 bytes":      craft(wire.CodecRaw, 1, 0, append([]byte{2 | usual}, bytes.Repeat([]byte{0xFF}, 20)...), nil),
		"table cut":               craft(wire.CodecRaw, 1, 0, zero[:len(zero)-1], nil),
		"reserved bytes": func() []byte {
			raw := bytes.Clone(good)
			raw[2] = 1
			binary.LittleEndian.PutUint32(raw[52:], crc(append(raw[:52:52], write...)))
			return raw
		}(),
	} {
		if _, err := wire.ParseBody(raw); !errors.Is(err, wire.ErrCorrupt) && !errors.Is(err, wire.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A payload that does not make exactly the bytes that the header says is refused, and never makes more.
func TestDecompressRefusesLiars(t *testing.T) {
	dec := newDecoder(t)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	content := make([]byte, 4096)
	streamed := func(p []byte) []byte { // a zstd frame that does not say its length
		var out bytes.Buffer
		w, err := zstd.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		for half := range 2 {
			if _, err := w.Write(p[half*len(p)/2 : (half+1)*len(p)/2]); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	for name, packed := range map[string]struct {
		codec   wire.Codec
		payload []byte
	}{
		"s2": {wire.CodecS2, s2.Encode(nil, content)}, "zstd": {wire.CodecZstd, z.EncodeAll(content, nil)},
		"zstd stream": {wire.CodecZstd, streamed(content)},
	} {
		for length, want := range map[uint32]error{4095: wire.ErrCorrupt, 4096: nil, 4097: wire.ErrCorrupt, 3000: wire.ErrCorrupt, 1 << 20: wire.ErrCorrupt} {
			b, err := wire.ParseBody(craft(packed.codec, 1, length, entry(1|usual, 0, uint64(length)), packed.payload))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Decompress(nil, dec); !errors.Is(err, want) {
				t.Errorf("%s of 4096 bytes said to be %d: %v", name, length, err)
			}
		}
	}
}
