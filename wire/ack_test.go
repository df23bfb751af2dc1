package wire_test

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"flotilla/wire"
)

func TestAckAddsAndRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a wire.Ack
		named := map[uint64]bool{}
		base := rapid.SampledFrom([]uint64{0, 1, 1 << 40, math.MaxUint64 - 60}).Draw(t, "base")
		for _, d := range rapid.SliceOfN(rapid.Uint64Range(0, 60), 1, 80).Draw(t, "numbers") {
			if !a.Add(base + d) {
				t.Fatal("no room")
			}
			named[base+d] = true
		}
		for i, r := range a.Ranges {
			if r.First > r.Last || (i > 0 && r.First <= a.Ranges[i-1].Last+1) {
				t.Fatalf("ranges %v", a.Ranges)
			}
		}
		for d := range uint64(61) {
			if a.Contains(base+d) != named[base+d] {
				t.Fatalf("%v contains %d: %v", a.Ranges, base+d, !named[base+d])
			}
		}
		raw, err := a.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := wire.ParseAck(raw)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(&a, got); d != "" {
			t.Fatal(d)
		}
	})
}

func TestAckIsBounded(t *testing.T) {
	var a wire.Ack
	for i := range uint64(wire.MaxAckRanges) {
		if !a.Add(i << 50) {
			t.Fatalf("no room for range %d", i)
		}
	}
	if a.Add(5) {
		t.Error("more ranges than allowed")
	}
	if !a.Add(1) || !a.Add(0) {
		t.Error("a full ack can not extend a range or take a repeat")
	}
	raw, err := a.Append(nil)
	if err != nil || len(raw) > wire.MaxAckLength {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
	if _, err := wire.ParseAck(raw); err != nil {
		t.Error(err)
	}
}

func TestAckRefusesRanges(t *testing.T) {
	for _, ranges := range [][]wire.FrameRange{
		nil,
		make([]wire.FrameRange, wire.MaxAckRanges+1),
		{{First: 2, Last: 1}},
		{{First: 1, Last: 5}, {First: 6, Last: 7}},
		{{First: 1, Last: 5}, {First: 3, Last: 7}},
		{{First: 9, Last: 9}, {First: 1, Last: 1}},
		{{First: 0, Last: math.MaxUint64}, {First: 0, Last: 0}},
	} {
		a := wire.Ack{Ranges: ranges}
		if _, err := a.Append(nil); err == nil {
			t.Errorf("encoded %v", ranges[:min(2, len(ranges))])
		}
	}
}

func TestAckAndNackEveryByteCorrupted(t *testing.T) {
	a := wire.Ack{Ranges: []wire.FrameRange{{First: 1, Last: 900}, {First: 1000, Last: 1000}}}
	raw, err := a.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		bad := slices.Clone(raw)
		bad[i] ^= 0x10
		if _, err := wire.ParseAck(bad); !errors.Is(err, wire.ErrCorrupt) {
			t.Errorf("ack byte %d: %v", i, err)
		}
	}
	nack := wire.Nack{No: 3, View: 9, Reason: wire.ReasonSpace}
	raw = nack.Append(nil)
	if got, err := wire.ParseNack(raw); err != nil || got != nack {
		t.Errorf("%v, %v", got, err)
	}
	for i := range raw {
		bad := slices.Clone(raw)
		bad[i] ^= 0x10
		if _, err := wire.ParseNack(bad); !errors.Is(err, wire.ErrCorrupt) {
			t.Errorf("nack byte %d: %v", i, err)
		}
	}
}

func FuzzParseAck(f *testing.F) {
	for _, ranges := range [][]wire.FrameRange{{{First: 0, Last: 0}}, {{First: 1, Last: 900}, {First: 1000, Last: 1 << 60}}} {
		a := wire.Ack{Ranges: ranges}
		raw, _ := a.Append(nil)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, in := range [][]byte{raw, mendEnd(raw)} {
			a, err := wire.ParseAck(in)
			if err != nil {
				if !errors.Is(err, wire.ErrCorrupt) {
					t.Fatalf("unclassified error: %v", err)
				}
				continue
			}
			again, err := a.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := wire.ParseAck(again); err != nil || !cmp.Equal(a, b) {
				t.Fatalf("%v, %v, %v", a, b, err)
			}
		}
	})
}

func FuzzParseNack(f *testing.F) {
	f.Add(wire.Nack{No: 1, View: 2, Reason: wire.ReasonView}.Append(nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, in := range [][]byte{raw, mendEnd(raw)} {
			n, err := wire.ParseNack(in)
			if err != nil {
				if !errors.Is(err, wire.ErrCorrupt) {
					t.Fatalf("unclassified error: %v", err)
				}
			} else if string(n.Append(nil)) != string(in) {
				t.Fatalf("%v does not encode to what it was", n)
			}
		}
	})
}
