package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"flotilla/wire"
)

// drawUpdates makes valid updates of all kinds, with odd offsets, gaps in seqs and several volumes.
func drawUpdates(t *rapid.T) []wire.Update {
	n := rapid.IntRange(1, 40).Draw(t, "updates")
	ups := make([]wire.Update, n)
	seq := rapid.Uint64Range(0, math.MaxUint64-1<<20).Draw(t, "first seq")
	for i := range ups {
		u := &ups[i]
		u.Seq = wire.Seq(seq)
		seq += rapid.SampledFrom([]uint64{1, 1, 1, 2, 1000}).Draw(t, "gap")
		u.Volume = rapid.SampledFrom([]wire.VolumeID{0, 1, 2, 1 << 31, wire.MarkVolume}).Draw(t, "volume")
		u.Kind = wire.Kind(rapid.IntRange(1, 6).Draw(t, "kind"))
		u.Offset = rapid.OneOf(rapid.Uint64Range(0, 1<<20), rapid.Uint64Range(0, math.MaxUint64-math.MaxUint32)).Draw(t, "offset")
		u.Length = rapid.OneOf(rapid.Uint32Range(1, 5000), rapid.Uint32Range(1, math.MaxUint32)).Draw(t, "length")
		if rapid.Bool().Draw(t, "aligned") {
			u.Offset &^= 511
			u.Length = max(u.Length&^511, 512)
		}
		u.Portion = rapid.Uint32().Draw(t, "portion")
		if rapid.Bool().Draw(t, "default portion") {
			u.Portion = uint32(u.Offset / wire.DefaultPortionSize)
		}
		u.More = rapid.Bool().Draw(t, "more")
		switch u.Kind {
		case wire.KindFolded:
			u.Into = uint32(min(math.MaxUint64-uint64(u.Seq), uint64(rapid.Uint32Range(1, math.MaxUint32).Draw(t, "into"))))
		case wire.KindWrite, wire.KindMark:
			u.Length = u.Length%8192 + 1
			u.Data = bytes.Repeat([]byte{byte(i)}, int(u.Length))
			for k := range rapid.SliceOfN(rapid.Byte(), 0, 32).Draw(t, "data") {
				u.Data[k%len(u.Data)] = byte(k)
			}
		case wire.KindCheck:
			u.Data = rapid.SliceOfN(rapid.Byte(), 1, wire.MaxCheckLength).Draw(t, "digest")
		}
	}
	return ups
}

func TestBodyRoundTrip(t *testing.T) {
	dec := newDecoder(t)
	encoders := map[wire.Codec]*wire.Encoder{}
	for _, c := range []wire.Codec{wire.CodecRaw, wire.CodecS2, wire.CodecZstd, wire.CodecAuto} {
		encoders[c] = newEncoder(t, c)
	}
	rapid.Check(t, func(t *rapid.T) {
		ups := drawUpdates(t)
		h := wire.BodyHeader{
			Group: wire.GroupID(rapid.Uint32().Draw(t, "group")), Primary: wire.AgentID(rapid.Uint64().Draw(t, "primary")),
			Incarnation: wire.Incarnation(rapid.Uint64().Draw(t, "incarnation")), Set: wire.Set(rapid.Uint64().Draw(t, "set")),
		}
		for i := range ups {
			ups[i].Seal(h.Group, h.Incarnation)
		}
		codec := rapid.SampledFrom([]wire.Codec{wire.CodecRaw, wire.CodecS2, wire.CodecZstd, wire.CodecAuto}).Draw(t, "codec")
		prefix := []byte("before")
		raw, err := wire.EncodeBody(slices.Clone(prefix), h, ups, encoders[codec])
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(raw, prefix) {
			t.Fatal("encoding does not append")
		}
		b, err := wire.ParseBody(raw[len(prefix):])
		if err != nil {
			t.Fatal(err)
		}
		for i := range b.Updates {
			want := ups[i]
			want.Data = nil
			if d := cmp.Diff(want, b.Updates[i]); d != "" {
				t.Fatalf("header %d before decompressing: %s", i, d)
			}
		}
		if _, err := b.Decompress(nil, dec); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(ups, b.Updates, sameBytes); d != "" {
			t.Fatal(d)
		}
		if err := b.Verify(); err != nil {
			t.Fatal(err)
		}
		if b.Header() != h {
			t.Fatalf("header %+v, want %+v", b.Header(), h)
		}
	})
}

func TestSelect(t *testing.T) {
	dec := newDecoder(t)
	enc := newEncoder(t, wire.CodecAuto)
	rapid.Check(t, func(t *rapid.T) {
		ups := drawUpdates(t)
		for i := range ups {
			ups[i].Seal(testHeader.Group, testHeader.Incarnation)
		}
		raw, err := wire.EncodeBody(nil, testHeader, ups, enc)
		if err != nil {
			t.Fatal(err)
		}
		b, err := wire.ParseBody(raw)
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "decompressed") {
			if _, err := b.Decompress(nil, dec); err != nil {
				t.Fatal(err)
			}
		}
		idx := rapid.SliceOfNDistinct(rapid.IntRange(0, len(ups)-1), 1, len(ups), rapid.ID[int]).Draw(t, "indexes")
		slices.Sort(idx)
		part, err := b.Select(idx, enc)
		if err != nil {
			t.Fatal(err)
		}
		got, err := wire.ParseBody(part)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := got.Decompress(nil, dec); err != nil {
			t.Fatal(err)
		}
		if err := got.Verify(); err != nil {
			t.Fatal(err)
		}
		var want []wire.Update
		for _, i := range idx {
			want = append(want, ups[i])
		}
		if d := cmp.Diff(want, got.Updates, sameBytes); d != "" {
			t.Fatal(d)
		}
	})
}

func TestSelectRefusesIndexes(t *testing.T) {
	b := mustOpen(t, encode(t, everyKind(), wire.CodecRaw))
	for _, idx := range [][]int{nil, {-1}, {len(everyKind())}, {2, 1}, {1, 1}} {
		if _, err := b.Select(idx, newEncoder(t, wire.CodecRaw)); err == nil {
			t.Errorf("selected %v", idx)
		}
	}
}

// Every flip of a byte of a body is found by parsing, before anything is decompressed.
func TestBodyEveryByteCorrupted(t *testing.T) {
	for _, codec := range []wire.Codec{wire.CodecRaw, wire.CodecS2, wire.CodecZstd} {
		raw := encode(t, everyKind(), codec)
		mustOpen(t, raw)
		for i := range raw {
			for _, mask := range []byte{0x01, 0x80, 0xFF} {
				bad := slices.Clone(raw)
				bad[i] ^= mask
				if _, err := wire.ParseBody(bad); !errors.Is(err, wire.ErrCorrupt) && !errors.Is(err, wire.ErrUnsupported) {
					t.Fatalf("codec %v: byte %d of %d ^ %02x: %v", codec, i, len(raw), mask, err)
				}
			}
		}
		for n := range raw {
			if _, err := wire.ParseBody(raw[:n]); !errors.Is(err, wire.ErrCorrupt) {
				t.Fatalf("codec %v: cut to %d bytes: %v", codec, n, err)
			}
		}
	}
}

// Where the damage was done before the CRCs were made, decompressing or the updates' own sums find it.
func TestMendedBodyCorrupted(t *testing.T) {
	dec := newDecoder(t)
	for _, codec := range []wire.Codec{wire.CodecRaw, wire.CodecS2, wire.CodecZstd} {
		raw := encode(t, everyKind(), codec)
		b, err := wire.ParseBody(raw)
		if err != nil || b.Codec != codec {
			t.Fatal(b.Codec, err)
		}
		payload := len(raw) - int(binary.LittleEndian.Uint32(raw[44:]))
		for i := payload; i < len(raw); i++ {
			bad := slices.Clone(raw)
			bad[i] ^= 0x21
			b, err := wire.ParseBody(mendBody(bad))
			if err != nil {
				t.Fatalf("byte %d: %v", i, err)
			}
			if _, err = b.Decompress(nil, dec); err == nil {
				err = b.Verify()
			}
			if !errors.Is(err, wire.ErrCorrupt) && !errors.Is(err, wire.ErrSum) && !sameMeaning(t, b) {
				t.Fatalf("codec %v: byte %d of %d: %v", codec, i, len(raw), err)
			}
		}
	}
}

// sameMeaning reports whether a body still holds what everyKind made: compressed formats have bits that mean nothing.
func sameMeaning(t *testing.T, b *wire.Body) bool {
	t.Helper()
	return cmp.Equal(everyKind(), b.Updates, sameBytes)
}

// The sum alone finds changes of an update that the body's CRCs can not, since they were made before encoding.
func TestVerifyCoversPlaceAndData(t *testing.T) {
	good := everyKind()[0]
	change := map[string]func(*wire.Update){
		"seq":    func(u *wire.Update) { u.Seq++ },
		"volume": func(u *wire.Update) { u.Volume++ },
		"kind":   func(u *wire.Update) { u.Kind = wire.KindMark },
		"offset": func(u *wire.Update) { u.Offset += 512 },
		"length": func(u *wire.Update) { u.Length-- },
		"data":   func(u *wire.Update) { u.Data = slices.Clone(u.Data); u.Data[511] ^= 1 },
		"sum":    func(u *wire.Update) { u.Sum ^= 1 },
	}
	if err := good.Verify(testHeader.Group, testHeader.Incarnation); err != nil {
		t.Fatal(err)
	}
	for name, f := range change {
		u := good
		f(&u)
		if err := u.Verify(testHeader.Group, testHeader.Incarnation); !errors.Is(err, wire.ErrSum) {
			t.Errorf("%s changed: %v", name, err)
		}
	}
	if err := good.Verify(testHeader.Group+1, testHeader.Incarnation); !errors.Is(err, wire.ErrSum) {
		t.Errorf("other group: %v", err)
	}
	if err := good.Verify(testHeader.Group, testHeader.Incarnation+1); !errors.Is(err, wire.ErrSum) {
		t.Errorf("other incarnation: %v", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	write := func(change func(*wire.Update)) []wire.Update {
		u := wire.Update{Seq: 5, Volume: 1, Kind: wire.KindWrite, Length: 4, Data: []byte("data")}
		change(&u)
		return []wire.Update{u}
	}
	large := make([]byte, wire.MaxUpdateLength)
	full := make([]wire.Update, wire.MaxFramePayload/wire.MaxUpdateLength+1)
	for i := range full {
		full[i] = wire.Update{Seq: wire.Seq(i), Kind: wire.KindWrite, Length: uint32(len(large)), Data: large}
	}
	cases := map[string]struct {
		ups  []wire.Update
		want string
	}{
		"none":         {nil, "0 updates"},
		"too many":     {make([]wire.Update, wire.MaxUpdatesPerFrame+1), "16385 updates"},
		"kind":         {write(func(u *wire.Update) { u.Kind = 7 }), "kind 7"},
		"empty":        {write(func(u *wire.Update) { u.Length, u.Data = 0, nil }), "no length"},
		"no data":      {write(func(u *wire.Update) { u.Data = nil }), "carries 0"},
		"zero's data":  {write(func(u *wire.Update) { u.Kind = wire.KindZero }), "want none"},
		"digest":       {write(func(u *wire.Update) { u.Kind, u.Data = wire.KindCheck, make([]byte, 65) }), "digest of 65"},
		"too long":     {write(func(u *wire.Update) { u.Length++; u.Length = wire.MaxUpdateLength + 1 }), "split it"},
		"past the end": {write(func(u *wire.Update) { u.Offset = math.MaxUint64 - 2 }), "passes the end"},
		"into":         {write(func(u *wire.Update) { u.Into = 6 }), "write is folded into the update 6 seqs later"},
		"into none":    {write(func(u *wire.Update) { u.Kind, u.Data = wire.KindFolded, nil }), "folded is folded into the update 0 seqs later"},
		"folded data":  {write(func(u *wire.Update) { u.Kind, u.Into = wire.KindFolded, 1 }), "want none"},
		"order":        {append(write(func(*wire.Update) {}), write(func(*wire.Update) {})...), "order updates"},
		"payload":      {full, "several frames"},
	}
	for name, c := range cases {
		dst, err := wire.EncodeBody([]byte("kept"), testHeader, c.ups, newEncoder(t, wire.CodecRaw))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if string(dst) != "kept" {
			t.Errorf("%s: destination changed to %q", name, dst)
		}
	}
	if _, err := wire.EncodeBody(nil, testHeader, full[1:], newEncoder(t, wire.CodecRaw)); err != nil {
		t.Errorf("a payload of exactly the limit: %v", err)
	}
}

func TestTableIsCompact(t *testing.T) {
	r := newRand(t, 1)
	ups := writes(r, 32, noise)
	raw := encode(t, ups, wire.CodecRaw)
	per := float64(len(raw)-56-32*4096) / 32
	t.Logf("%.1f bytes an update", per)
	if per > 16 {
		t.Errorf("table takes %.1f bytes an update, want at most 16", per)
	}
}

func TestParsedBodyIsNotCopied(t *testing.T) {
	raw := encode(t, everyKind(), wire.CodecRaw)
	b := mustOpen(t, raw)
	if &b.Raw[0] != &raw[0] || len(b.Raw) != len(raw) {
		t.Error("Raw is a copy")
	}
	last := b.Updates[len(b.Updates)-1].Data
	if &last[len(last)-1] != &raw[len(raw)-1] {
		t.Error("raw payload was copied")
	}
}

// FuzzParseBody feeds arbitrary bytes, and bytes whose CRCs were mended, so that what lies behind them is reached.
func FuzzParseBody(f *testing.F) {
	for _, c := range []wire.Codec{wire.CodecRaw, wire.CodecS2, wire.CodecZstd} {
		f.Add(encode(f, everyKind(), c))
	}
	r := newRand(f, 2)
	f.Add(encode(f, writes(r, 3, databasePage), wire.CodecZstd))
	f.Add(encode(f, writes(r, 2, databasePage), wire.CodecS2))
	dec := newDecoder(f)
	enc := newEncoder(f, wire.CodecAuto)
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, in := range [][]byte{raw, mendBody(raw)} {
			b, err := wire.ParseBody(in)
			if err != nil {
				if !errors.Is(err, wire.ErrCorrupt) && !errors.Is(err, wire.ErrUnsupported) {
					t.Fatalf("unclassified error: %v", err)
				}
				continue
			}
			if _, err := b.Decompress(nil, dec); err != nil {
				if !errors.Is(err, wire.ErrCorrupt) {
					t.Fatalf("unclassified error: %v", err)
				}
				continue
			}
			// What parses can be encoded again and means the same.
			again, err := wire.EncodeBody(nil, b.Header(), b.Updates, enc)
			if err != nil {
				t.Fatal(err)
			}
			b2, err := wire.ParseBody(again)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b2.Decompress(nil, dec); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(b.Updates, b2.Updates, sameBytes); d != "" {
				t.Fatal(d)
			}
		}
	})
}
