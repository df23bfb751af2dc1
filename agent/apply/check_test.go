package apply_test

import (
	"errors"
	"slices"
	"testing"

	"flotilla/agent/apply"
	"flotilla/wire"

	"github.com/google/go-cmp/cmp"
)

// checks is a request of two checks, the first one overlaid.
func checks() *apply.Request {
	data := []byte("twelve bytes")
	return &apply.Request{Group: 1, Inc: 2, Set: 3, View: 4, Volume: 5, Checks: true, Pieces: []apply.Piece{
		apply.NewCheck(4096, 8192, true, 77, wire.Digest(data)),
		{Kind: wire.KindWrite, Offset: 4096, Length: uint32(len(data)), Sum: apply.Sum(data), Data: data},
		{Kind: wire.KindZero, Offset: 8192, Length: 4096},
		apply.NewCheck(0, 4096, false, 78, wire.Digest(nil)),
	}}
}

func TestChecksRoundTrip(t *testing.T) {
	want := checks()
	raw, err := want.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	have, err := apply.Parse(slices.Clone(raw))
	if diff := cmp.Diff(want, have); err != nil || diff != "" {
		t.Fatalf("%v (-want +have):\n%s", err, diff)
	}
	if seq, digest := have.Pieces[0].Check(); seq != 77 || digest != wire.Digest([]byte("twelve bytes")) {
		t.Errorf("seq %d, digest %x", seq, digest)
	}
	for bit := range len(raw) * 8 {
		raw[bit/8] ^= 1 << (bit % 8)
		if _, err := apply.Parse(raw); !errors.Is(err, apply.ErrInvalid) {
			t.Fatalf("with bit %d changed: %v", bit, err)
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
}

func TestChecksRefused(t *testing.T) {
	for name, change := range map[string]func(r *apply.Request){
		"not said":      func(r *apply.Request) { r.Checks = false },
		"flush":         func(r *apply.Request) { r.Flush = true },
		"writes before": func(r *apply.Request) { r.Writes = 1 },
		"overlay first": func(r *apply.Request) { r.Pieces = r.Pieces[1:] },
		"in front":      func(r *apply.Request) { r.Pieces[2].Offset = 0 },
		"behind":        func(r *apply.Request) { r.Pieces[2].Length++ },
		"overlapping":   func(r *apply.Request) { r.Pieces[2].Offset, r.Pieces[2].Length = 4100, 1 },
		"descending":    func(r *apply.Request) { r.Pieces[1], r.Pieces[2] = r.Pieces[2], r.Pieces[1] },
		"later zeroes":  func(r *apply.Request) { r.Pieces[2].Later = true },
		"short digest":  func(r *apply.Request) { r.Pieces[3].Data = r.Pieces[3].Data[:20] },
		"long":          func(r *apply.Request) { r.Pieces[3].Length = apply.MaxCheckRange + 1 },
		"much": func(r *apply.Request) {
			r.Pieces = slices.Repeat([]apply.Piece{apply.NewCheck(0, apply.MaxCheckRange, false, 1, wire.Digest(nil))}, apply.MaxChecked/apply.MaxCheckRange+1)
		},
	} {
		r := checks()
		change(r)
		if err := r.Validate(); !errors.Is(err, apply.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
