package wire

import (
	"math/rand/v2"
	"testing"
	"time"
)

// noiseFrame makes a frame of a megabyte that no codec makes less.
func noiseFrame() []Update {
	const n = 256
	data := make([]byte, n*4096)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data) // it cannot fail
	ups := make([]Update, n)
	for i := range ups {
		ups[i] = Update{Seq: Seq(i + 1), Volume: 2, Kind: KindWrite, Offset: uint64(i) * 8192, Length: 4096, Data: data[i*4096 : (i+1)*4096]}
	}
	return ups
}

// BenchmarkTrying shows what data that do not compress cost in trying: the time in which an encoder finds out that it leaves a
// frame raw, divided by what sealing and encoding that frame takes, both on average over many. The aim is below 0.03.
func BenchmarkTrying(b *testing.B) {
	ups := noiseFrame()
	rawLen := len(ups) * 4096
	auto, err := NewEncoder(CodecAuto)
	if err != nil {
		b.Fatal(err)
	}
	raw, err := NewEncoder(CodecRaw)
	if err != nil {
		b.Fatal(err)
	}
	var dst []byte
	var trying, sending time.Duration
	for b.Loop() {
		began := time.Now()
		if codec, _ := auto.pack(ups, rawLen); codec != CodecRaw {
			b.Fatalf("noise is stored as %v", codec)
		}
		trying += time.Since(began)

		began = time.Now()
		for i := range ups {
			ups[i].Seal(1, 2)
		}
		if dst, err = EncodeBody(dst[:0], BodyHeader{Group: 1, Primary: 1, Incarnation: 2, Set: 3}, ups, raw); err != nil {
			b.Fatal(err)
		}
		sending += time.Since(began)
	}
	b.ReportMetric(float64(trying)/float64(sending), "trying/sending")
}
