package wire_test

import (
	"testing"

	"flotilla/wire"
)

func codecOf(tb testing.TB, ups []wire.Update, enc *wire.Encoder) (wire.Codec, int) {
	tb.Helper()
	raw, err := wire.EncodeBody(nil, testHeader, ups, enc)
	if err != nil {
		tb.Fatal(err)
	}
	b, err := wire.ParseBody(raw)
	if err != nil {
		tb.Fatal(err)
	}
	return b.Codec, len(raw)
}

func TestEncoderChoosesByGain(t *testing.T) {
	r := newRand(t, 3)
	pages, random := writes(r, 32, databasePage), writes(r, 32, noise)
	for _, c := range []struct {
		preferred wire.Codec
		link      uint64
		pages     wire.Codec
	}{
		{wire.CodecRaw, 0, wire.CodecRaw},
		{wire.CodecS2, 0, wire.CodecS2},
		{wire.CodecZstd, 0, wire.CodecZstd},
		{wire.CodecAuto, 12 << 20, wire.CodecZstd}, // 100 Mbit/s: the smaller one
		{wire.CodecAuto, 5000 << 20, wire.CodecS2}, // 40 Gbit/s: the faster one
	} {
		enc := newEncoder(t, c.preferred)
		enc.SetLinkRate(c.link)
		got, n := codecOf(t, pages, enc)
		if got != c.pages {
			t.Errorf("preferred %v, link %d: pages stored as %v, want %v", c.preferred, c.link, got, c.pages)
		}
		if got != wire.CodecRaw && n > 32*4096/2 {
			t.Errorf("preferred %v: pages stored in %d bytes", c.preferred, n)
		}
		if got, _ := codecOf(t, random, enc); got != wire.CodecRaw {
			t.Errorf("preferred %v: noise stored as %v", c.preferred, got)
		}
	}
}

// After a long run of noise the encoder tries rarely, but finds its way back within a bounded number of frames.
func TestEncoderComesBackFromNoise(t *testing.T) {
	r := newRand(t, 4)
	pages, random := writes(r, 32, databasePage), writes(r, 32, noise)
	for _, preferred := range []wire.Codec{wire.CodecS2, wire.CodecZstd, wire.CodecAuto} {
		enc := newEncoder(t, preferred)
		for range 200 {
			if got, _ := codecOf(t, random, enc); got != wire.CodecRaw {
				t.Fatalf("noise stored as %v", got)
			}
		}
		frames := 1
		for ; frames <= 17; frames++ {
			if got, _ := codecOf(t, pages, enc); got != wire.CodecRaw {
				break
			}
		}
		t.Logf("%v: compresses again after %d frames", preferred, frames)
		if frames == 1 {
			t.Errorf("%v: tries every frame in spite of the noise", preferred)
		}
		if frames > 17 {
			t.Errorf("%v: still raw after %d frames of pages", preferred, frames)
		}
	}
}

// A volume whose data do not compress costs little beside one whose data do, and takes nothing from that.
func TestEncoderTellsVolumesApart(t *testing.T) {
	r := newRand(t, 9)
	pages, random := writes(r, 32, databasePage), writes(r, 32, noise)
	for i := range random {
		random[i].Volume = 3
	}
	enc := newEncoder(t, wire.CodecAuto)
	enc.SetLinkRate(12 << 20)
	for i := range 100 {
		if got, _ := codecOf(t, pages, enc); got != wire.CodecZstd {
			t.Fatalf("round %d: pages stored as %v", i, got)
		}
		if got, _ := codecOf(t, random, enc); got != wire.CodecRaw {
			t.Fatalf("round %d: noise stored as %v", i, got)
		}
	}
	// Now the volume of noise holds pages: it was given up, so this does not show at once, but soon.
	for i := range pages {
		pages[i].Volume = 3
	}
	if got, _ := codecOf(t, pages, enc); got != wire.CodecRaw {
		t.Errorf("a volume of noise is tried at every frame: its first pages are stored as %v", got)
	}
	for frames := 1; ; frames++ {
		if got, _ := codecOf(t, pages, enc); got != wire.CodecRaw {
			break
		}
		if frames > 17 {
			t.Fatalf("still raw after %d frames of pages", frames)
		}
	}
}

func TestParseCodec(t *testing.T) {
	for _, c := range []wire.Codec{wire.CodecRaw, wire.CodecS2, wire.CodecZstd, wire.CodecAuto} {
		if got, err := wire.ParseCodec(c.String()); err != nil || got != c {
			t.Errorf("%v: %v, %v", c, got, err)
		}
	}
	if _, err := wire.ParseCodec("lz4"); err == nil {
		t.Error("lz4 accepted")
	}
	if _, err := wire.NewEncoder(9); err == nil {
		t.Error("encoder for codec 9")
	}
}

func TestEncodeAndParseAllocateLittle(t *testing.T) {
	r := newRand(t, 5)
	for name, ups := range map[string][]wire.Update{"pages": writes(r, 32, databasePage), "noise": writes(r, 32, noise)} {
		for _, codec := range []wire.Codec{wire.CodecRaw, wire.CodecS2, wire.CodecZstd} {
			enc := newEncoder(t, codec)
			dst := encode(t, ups, wire.CodecRaw)
			if n := testing.AllocsPerRun(50, func() { dst, _ = wire.EncodeBody(dst[:0], testHeader, ups, enc) }); n > 1 {
				t.Errorf("%s, %v: encoding allocates %v times", name, codec, n)
			}
			if n := testing.AllocsPerRun(50, func() { _, _ = wire.ParseBody(dst) }); n > 2 {
				t.Errorf("%s, %v: parsing allocates %v times", name, codec, n)
			}
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	r := newRand(b, 6)
	for _, data := range []struct {
		name string
		ups  []wire.Update
	}{{"pages", writes(r, 32, databasePage)}, {"noise", writes(r, 32, noise)}} {
		for _, codec := range []wire.Codec{wire.CodecRaw, wire.CodecS2, wire.CodecZstd, wire.CodecAuto} {
			b.Run(data.name+"/"+codec.String(), func(b *testing.B) {
				enc, dst := newEncoder(b, codec), []byte(nil)
				b.SetBytes(32 * 4096)
				b.ReportAllocs()
				for b.Loop() {
					dst, _ = wire.EncodeBody(dst[:0], testHeader, data.ups, enc)
				}
				b.ReportMetric(32*4096/float64(len(dst)), "ratio")
			})
		}
	}
}

func BenchmarkParse(b *testing.B) {
	r := newRand(b, 7)
	ups := writes(r, 32, databasePage)
	for _, codec := range []wire.Codec{wire.CodecRaw, wire.CodecS2, wire.CodecZstd} {
		raw := encode(b, ups, codec)
		b.Run("headers/"+codec.String(), func(b *testing.B) {
			b.SetBytes(32 * 4096)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = wire.ParseBody(raw)
			}
		})
		b.Run("verified/"+codec.String(), func(b *testing.B) {
			dec, buf := newDecoder(b), []byte(nil)
			b.SetBytes(32 * 4096)
			b.ReportAllocs()
			for b.Loop() {
				body, _ := wire.ParseBody(raw)
				buf, _ = body.Decompress(buf, dec)
				_ = body.Verify()
			}
		})
	}
}

func BenchmarkSeal(b *testing.B) {
	u := writes(newRand(b, 8), 1, noise)[0]
	b.SetBytes(4096)
	for b.Loop() {
		u.Seal(1, 2)
	}
}
