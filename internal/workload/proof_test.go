package workload

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// memory is a volume in memory.
type memory []byte

func (m memory) ReadAt(_ context.Context, p []byte, at int64) error {
	clear(p)
	if at < int64(len(m)) {
		copy(p, m[at:])
	}
	return nil
}

const testRun = 0x1234

// written is a volume of which everything is known: updates of both streams were issued one after the other.
func written(t *testing.T, writes, records int) *Volume {
	t.Helper()
	l := LayoutFor(MinSize)
	image := make(memory, l.Image)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range image {
		image[i] = byte(r.Uint32())
	}
	v := &Volume{Name: "v", Layout: l, Image: image, Streams: []*Stream{
		{id: 1, Name: "writer", start: l.Image, end: l.Chain},
		{id: 2, Name: "chain", start: l.Chain, end: l.Size},
	}}
	at := time.Duration(0)
	for i, n := range []int{writes, records} {
		s := v.Streams[i]
		for range n {
			length := (r.Int64N(maxBlocks) + 1) * BlockSize
			offset := s.start + r.Int64N((s.end-s.start-length)/BlockSize)*BlockSize
			at += 2
			s.answer(s.issue(offset, length, at), at+1)
		}
	}
	return v
}

// recovered is what a volume holds after the first k and c updates of its streams.
func recovered(v *Volume, k, c int) memory {
	m := make(memory, v.Layout.Size)
	copy(m, v.Image.(memory))
	for i, n := range []int{k, c} {
		s := v.Streams[i]
		for j, u := range s.All()[:n] {
			fill(m[u.Offset:u.Offset+u.Length], testRun, s.id, uint64(j+1), u.Offset)
		}
	}
	return m
}

// refill writes one update again, wherever it belongs.
func refill(v *Volume, m memory, stream, index int) {
	u := v.Streams[stream].All()[index-1]
	fill(m[u.Offset:u.Offset+u.Length], testRun, v.Streams[stream].id, uint64(index), u.Offset)
}

func TestProofFindsPrefix(t *testing.T) {
	v := written(t, 300, 40)
	for _, want := range [][2]int{{0, 0}, {1, 0}, {0, 1}, {137, 21}, {299, 40}, {300, 40}} {
		found, err := (&Proof{Run: testRun}).Volume(t.Context(), v, recovered(v, want[0], want[1]))
		if err != nil {
			t.Fatalf("%v: %v", want, err)
		}
		if found[0].K != uint64(want[0]) || found[1].K != uint64(want[1]) || found[0].N != 300 || found[1].N != 40 {
			t.Errorf("found %+v, want %v", found, want)
		}
	}
}

func TestProofFindsDifferences(t *testing.T) {
	v := written(t, 300, 40)
	l := v.Layout
	lastBlock := func(s *Stream, k int) int64 { u := s.All()[k-1]; return u.Offset + u.Length - BlockSize }
	for name, tc := range map[string]struct {
		damage func(m memory)
		want   string
	}{
		"a bit of the image":         {func(m memory) { m[5*mib+17] ^= 1 }, "should hold the image that it began with and holds bytes that nobody wrote"},
		"a bit of an update":         {func(m memory) { m[lastBlock(v.Streams[0], 200)+3000] ^= 4 }, "should hold update 200 of the writer and holds that update, changed"},
		"a bit of an update's name":  {func(m memory) { m[lastBlock(v.Streams[0], 200)+3] ^= 4 }, "should hold update 200 of the writer and holds bytes that nobody wrote"},
		"half of the newest update":  {func(m memory) { clear(m[lastBlock(v.Streams[0], 200):][:BlockSize]) }, "should hold update 200 of the writer and holds zeroes"},
		"an update that is missing":  {func(m memory) { copy(m, recovered(v, 198, 20)); refill(v, m, 0, 200) }, "should hold update 199 of the writer"},
		"a later update":             {func(m memory) { refill(v, m, 0, 250) }, "should hold update 2"},
		"an update that never was":   {func(m memory) { fill(m[l.Image:l.Image+BlockSize], testRun, 1, 301, l.Image) }, "names update 301 of the writer, of which only 300"},
		"an update in a wrong place": {func(m memory) { copy(m[0:BlockSize], m[lastBlock(v.Streams[0], 200):][:BlockSize]) }, "offset 0 of v should hold the image that it began with and holds update 200 of stream 1"},
		"another stream's update":    {func(m memory) { fill(m[l.Image:l.Image+BlockSize], testRun, 2, 290, l.Image) }, "1 blocks of volume v differ"},
		"another run's update":       {func(m memory) { fill(m[l.Image:l.Image+BlockSize], testRun+1, 1, 290, l.Image) }, "1 blocks of volume v differ"},
		"an older chain record":      {func(m memory) { copy(m[l.Chain:], recovered(v, 200, 5)[l.Chain:]); refill(v, m, 1, 20) }, "of the chain"},
		"the last byte":              {func(m memory) { m[len(m)-1] ^= 0x80 }, "offset"},
	} {
		t.Run(name, func(t *testing.T) {
			m := recovered(v, 200, 20)
			tc.damage(m)
			_, err := (&Proof{Run: testRun}).Volume(t.Context(), v, m)
			if !errors.Is(err, ErrDiffers) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// Blocks of another run of the demo are just bytes.
func TestProofIgnoresOtherRuns(t *testing.T) {
	v := written(t, 10, 10)
	image := v.Image.(memory)
	fill(image[:BlockSize], testRun+1, 1, 7, 0)
	if _, err := (&Proof{Run: testRun}).Volume(t.Context(), v, recovered(v, 10, 10)); err != nil {
		t.Error(err)
	}
}

func TestChain(t *testing.T) {
	for _, tc := range []struct {
		a, b   uint64
		record uint64
		ok     bool
	}{{0, 0, 0, true}, {1, 0, 1, true}, {1, 1, 2, true}, {8, 7, 15, true}, {0, 1, 0, false}, {2, 0, 0, false}, {5, 6, 0, false}, {9, 7, 0, false}} {
		record, err := Chain(Prefix{K: tc.a}, Prefix{K: tc.b})
		if (err == nil) != tc.ok || record != tc.record || (err != nil && !errors.Is(err, ErrDiffers)) {
			t.Errorf("%d and %d: record %d, %v", tc.a, tc.b, record, err)
		}
	}
}

func TestCauses(t *testing.T) {
	of := func(name string, updates ...Update) *Stream { return &Stream{Name: name, updates: updates} }
	one := of("one", Update{Issued: 1, Answered: 2}, Update{Issued: 3, Answered: 4}, Update{Issued: 7})
	two := of("two", Update{Issued: 1, Answered: 5}, Update{Issued: 5, Answered: 6})
	for _, tc := range []struct {
		one, two uint64
		ok       bool
	}{
		{0, 0, true},
		{2, 2, true},
		{3, 2, true},
		{2, 1, true},  // the missing one was issued after everything that is there
		{1, 1, true},  // update 2 of one was answered at 4, and nothing that is there was issued later
		{1, 2, false}, // update 2 of two was issued at 5
		{3, 1, false}, // update 2 of two was answered at 6, update 3 of one issued at 7
		{0, 1, true},  // both were under way at the same time
		{0, 2, false},
	} {
		there, err := Causes([]Prefix{{Stream: one, K: tc.one}, {Stream: two, K: tc.two}})
		if (err == nil) != tc.ok || there != int64(tc.one+tc.two) || (err != nil && !errors.Is(err, ErrDiffers)) {
			t.Errorf("%d and %d: %d, %v", tc.one, tc.two, there, err)
		}
	}
}

func TestBlockNames(t *testing.T) {
	a, b := make([]byte, BlockSize), make([]byte, BlockSize)
	n := blockName{run: testRun, stream: 3, index: 12, number: 77}
	n.fill(a)
	n.fill(b)
	if got, ok := readName(a); !ok || got != n || !bytes.Equal(a, b) {
		t.Errorf("read %+v, %v", got, ok)
	}
	n.number++
	n.fill(b)
	if bytes.Equal(a[blockHead:], b[blockHead:]) {
		t.Error("two blocks of an update have the same content")
	}
	for i := range blockHead {
		a[i] ^= 1
		if _, ok := readName(a); ok {
			t.Errorf("byte %d was changed, and nobody saw it", i)
		}
		a[i] ^= 1
	}
}

func TestAcknowledged(t *testing.T) {
	us := []Update{{Length: 1, Answered: 1}, {Length: 2, Answered: 1}, {Length: 4}}
	for above, want := range map[uint64]Tally{0: {2, 3}, 1: {1, 2}, 2: {}, 3: {}, 9: {}} {
		if got := Acknowledged(us, above); got != want {
			t.Errorf("above %d: %+v, want %+v", above, got, want)
		}
	}
}
