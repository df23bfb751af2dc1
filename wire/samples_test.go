package wire_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flotilla/wire"
)

// sameBytes compares data as a whole, which cmp else does byte by byte.
var sameBytes = cmp.Comparer(bytes.Equal)

var testHeader = wire.BodyHeader{Group: 7, Primary: 3, Incarnation: 1 << 40, Set: 12}

// databasePage fills p with rows as a database has them: counters, keys, repeated words, some noise, free space.
func databasePage(r *rand.Rand, p []byte) {
	words := []string{"customer", "delivered", "pending", "Frankfurt", "Rotterdam", "2024-05-", "invoice", "EUR"}
	clear(p)
	binary.LittleEndian.PutUint64(p, r.Uint64N(1<<32))
	at := 24
	for at+80 < len(p)*7/8 {
		binary.LittleEndian.PutUint64(p[at:], r.Uint64N(1<<24))
		binary.LittleEndian.PutUint64(p[at+8:], r.Uint64())
		at += 16
		for range 1 + r.IntN(4) {
			at += copy(p[at:], words[r.IntN(len(words))])
		}
	}
}

func noise(r *rand.Rand, p []byte) {
	for i := 0; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], r.Uint64())
	}
}

// writes makes n sealed 4 KiB writes at random places of a 1 TiB volume.
func writes(r *rand.Rand, n int, fill func(*rand.Rand, []byte)) []wire.Update {
	ups := make([]wire.Update, n)
	for i := range ups {
		off := r.Uint64N(1<<40/4096) * 4096
		ups[i] = wire.Update{
			Seq: wire.Seq(1000 + i), Volume: 2, Portion: uint32(off / wire.DefaultPortionSize),
			Kind: wire.KindWrite, Offset: off, Length: 4096, Data: make([]byte, 4096),
		}
		fill(r, ups[i].Data)
		ups[i].Seal(testHeader.Group, testHeader.Incarnation)
	}
	return ups
}

// everyKind makes one small update of each kind.
func everyKind() []wire.Update {
	ups := []wire.Update{
		{Seq: 1, Volume: 1, Kind: wire.KindWrite, Offset: 4096, Length: 512, Data: make([]byte, 512)},
		{Seq: 2, Volume: 1, Kind: wire.KindZero, Offset: 1 << 20, Length: 1 << 20},
		{Seq: 3, Into: 4, More: true, Volume: 1, Kind: wire.KindFolded, Offset: 8192, Length: 4096},
		{Seq: 7, More: true, Volume: 1, Portion: 9, Kind: wire.KindTrim, Offset: 3, Length: 1<<32 - 1},
		{Seq: 8, Volume: 2, Kind: wire.KindCheck, Offset: 0, Length: 1 << 26, Data: []byte("0123456789abcdef")},
		{Seq: 9, Volume: wire.MarkVolume, Portion: 3, Kind: wire.KindMark, Offset: 12, Length: 5, Data: []byte("lines")},
	}
	for i := range ups {
		ups[i].Seal(testHeader.Group, testHeader.Incarnation)
	}
	return ups
}

func newRand(tb testing.TB, seed uint64) *rand.Rand {
	tb.Helper()
	tb.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func newEncoder(tb testing.TB, c wire.Codec) *wire.Encoder {
	tb.Helper()
	e, err := wire.NewEncoder(c)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func newDecoder(tb testing.TB) *wire.Decoder {
	tb.Helper()
	d, err := wire.NewDecoder()
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func encode(tb testing.TB, ups []wire.Update, c wire.Codec) []byte {
	tb.Helper()
	raw, err := wire.EncodeBody(nil, testHeader, ups, newEncoder(tb, c))
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

// mustOpen parses, decompresses and verifies.
func mustOpen(tb testing.TB, raw []byte) *wire.Body {
	tb.Helper()
	b, err := wire.ParseBody(raw)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := b.Decompress(nil, newDecoder(tb)); err != nil {
		tb.Fatal(err)
	}
	if err := b.Verify(); err != nil {
		tb.Fatal(err)
	}
	return b
}
