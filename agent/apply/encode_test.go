package apply_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"slices"
	"testing"

	"flotilla/agent/apply"
	"flotilla/wire"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// writes is a request of n writes.
func writes(n int, volume wire.VolumeID) *apply.Request {
	r := &apply.Request{Group: 1, Inc: 2, Set: 3, View: 4, Volume: volume, Flush: true}
	for i := range n {
		data := make([]byte, 4096)
		data[0] = byte(i)
		r.Pieces = append(r.Pieces, apply.Piece{Kind: wire.KindWrite, Offset: uint64(i) * 8192, Length: 4096, Sum: apply.Sum(data), Data: data})
	}
	return r
}

func drawRequest(t *rapid.T) *apply.Request {
	r := &apply.Request{
		Group: wire.GroupID(rapid.Uint32().Draw(t, "group")), Inc: wire.Incarnation(rapid.Uint64().Draw(t, "inc")),
		Set: wire.Set(rapid.Uint64().Draw(t, "set")), View: wire.View(rapid.Uint64().Draw(t, "view")),
		Volume:  wire.VolumeID(rapid.Uint32().Draw(t, "volume")),
		Attempt: rapid.Uint64().Draw(t, "attempt"), Writes: rapid.Uint32().Draw(t, "writes"),
	}
	if rapid.Bool().Draw(t, "relayed") {
		r.From, r.To = wire.AgentID(rapid.Uint64Min(1).Draw(t, "from")), wire.AgentID(rapid.Uint64().Draw(t, "to"))
	}
	end := uint64(0)
	for range rapid.IntRange(0, 40).Draw(t, "pieces") {
		piece := apply.Piece{
			Kind:   rapid.SampledFrom([]wire.Kind{wire.KindWrite, wire.KindZero, wire.KindTrim}).Draw(t, "kind"),
			Offset: end + rapid.Uint64Range(0, 1<<50).Draw(t, "gap"), Length: rapid.Uint32Range(1, 1<<30).Draw(t, "length"),
		}
		if piece.Kind == wire.KindWrite {
			piece.Data = rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "data")
			piece.Length, piece.Sum = uint32(len(piece.Data)), apply.Sum(piece.Data)
		}
		end = piece.Offset + uint64(piece.Length)
		r.Pieces = append(r.Pieces, piece)
	}
	r.Flush = len(r.Pieces) == 0 || rapid.Bool().Draw(t, "flush")
	return r
}

// A request comes back from its bytes, and no bit of them can change without an error.
func TestApplyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRequest(t)
		raw, err := r.Append([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		raw = raw[len("before"):]
		have, err := apply.Parse(raw)
		if diff := cmp.Diff(r, have, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Fatalf("%v (-want +have):\n%s", err, diff)
		}
		bit := rapid.IntRange(0, len(raw)*8-1).Draw(t, "bit")
		raw[bit/8] ^= 1 << (bit % 8)
		if _, err := apply.Parse(raw); !errors.Is(err, apply.ErrInvalid) {
			t.Fatalf("with bit %d changed: %v", bit, err)
		}
		raw[bit/8] ^= 1 << (bit % 8)
		cut := rapid.IntRange(0, len(raw)-1).Draw(t, "cut")
		if _, err := apply.Parse(raw[:cut]); !errors.Is(err, apply.ErrInvalid) {
			t.Fatalf("cut off at %d: %v", cut, err)
		}
		if _, err := apply.Parse(append(raw, 0)); !errors.Is(err, apply.ErrInvalid) {
			t.Fatalf("with a byte more: %v", err)
		}
	})
}

// The encoder refuses what the decoder would, and the decoder does so though the checksums fit.
func TestApplyRefuses(t *testing.T) {
	large := make([]byte, apply.MaxData/2+1)
	sum := apply.Sum(large)
	for name, pieces := range map[string][]apply.Piece{
		"nothing":       nil,
		"mark":          {{Kind: wire.KindMark, Length: 1, Data: []byte{1}}},
		"kind 0":        {{Length: 1}},
		"no length":     {{Kind: wire.KindZero}},
		"past the end":  {{Kind: wire.KindZero, Offset: math.MaxInt64 - 1, Length: 2}},
		"far past it":   {{Kind: wire.KindZero, Offset: math.MaxUint64, Length: 2}},
		"short data":    {{Kind: wire.KindWrite, Length: 2, Data: []byte{0}, Sum: apply.Sum([]byte{0})}},
		"wrong sum":     {{Kind: wire.KindWrite, Length: 1, Data: []byte{0}, Sum: 1}},
		"zero with sum": {{Kind: wire.KindZero, Length: 1, Sum: 1}},
		"zero, data":    {{Kind: wire.KindZero, Length: 1, Data: []byte{0}, Sum: apply.Sum([]byte{0})}},
		"too much data": {
			{Kind: wire.KindWrite, Length: uint32(len(large)), Data: large, Sum: sum},
			{Kind: wire.KindWrite, Offset: 1 << 40, Length: uint32(len(large)), Data: large, Sum: sum},
		},
		"too many pieces": slices.Repeat([]apply.Piece{{Kind: wire.KindZero, Length: 1}}, apply.MaxPieces+1),
	} {
		if raw, err := (&apply.Request{Pieces: pieces}).Append(nil); !errors.Is(err, apply.ErrInvalid) || len(raw) != 0 {
			t.Errorf("%s: %d bytes, %v", name, len(raw), err)
		}
	}

	good, err := writes(2, 1).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	for name, change := range map[string]func(raw []byte){
		"version":             func(raw []byte) { raw[0] = 2 },
		"flags":               func(raw []byte) { raw[1] = 5 },
		"relayed":             func(raw []byte) { raw[1] |= 2 },
		"reserved":            func(raw []byte) { raw[2] = 1 },
		"reserved too":        func(raw []byte) { raw[59] = 1 },
		"reserved of a piece": func(raw []byte) { raw[64+3] = 1 },
		"count":               func(raw []byte) { le.PutUint32(raw[36:], 1) },
		"huge count":          func(raw []byte) { le.PutUint32(raw[36:], math.MaxUint32) },
		"huge data":           func(raw []byte) { le.PutUint32(raw[40:], math.MaxUint32) },
		"kind":                func(raw []byte) { raw[64] = byte(wire.KindZero) },
		"length":              func(raw []byte) { le.PutUint32(raw[64+4:], 4097) },
		"huge length":         func(raw []byte) { le.PutUint32(raw[64+4:], math.MaxUint32) },
		"offset":              func(raw []byte) { le.PutUint64(raw[64+8:], math.MaxUint64) },
		"data":                func(raw []byte) { raw[len(raw)-1]++ },
	} {
		raw := slices.Clone(good)
		change(raw)
		table := crc32.MakeTable(crc32.Castagnoli)
		le.PutUint32(raw[60:], crc32.Update(crc32.Checksum(raw[:60], table), table, raw[64:64+2*20]))
		if r, err := apply.Parse(raw); !errors.Is(err, apply.ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// Whatever the bytes, the decoder neither fails to return nor takes what the encoder would not write the same.
func FuzzParseApply(f *testing.F) {
	for _, r := range []*apply.Request{writes(2, 1), {Flush: true}, {Flush: true, From: 3, To: 4}, checks(), {Pieces: []apply.Piece{{Kind: wire.KindTrim, Offset: 5, Length: 9}}}} {
		raw, err := r.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		raw = slices.Clone(raw) // a fuzzer does not find checksums: it is given them
		if len(raw) >= 64 {
			table := crc32.MakeTable(crc32.Castagnoli)
			end := min(uint64(len(raw)), 64+16*uint64(raw[1]>>1&1)+20*uint64(binary.LittleEndian.Uint32(raw[36:])))
			binary.LittleEndian.PutUint32(raw[60:], crc32.Update(crc32.Checksum(raw[:60], table), table, raw[64:end]))
		}
		r, err := apply.Parse(raw)
		if err != nil {
			return
		}
		again, err := r.Append(nil)
		if err != nil || string(again) != string(raw) {
			t.Fatalf("%+v is written otherwise: %v", r, err)
		}
	})
}
