package workload

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrDiffers is wrapped by what the proof finds wrong.
var ErrDiffers = errors.New("the proof failed")

// ReaderAt is a volume that is read.
type ReaderAt interface {
	ReadAt(ctx context.Context, p []byte, offset int64) error
}

// Volume is what is known of a volume.
type Volume struct {
	Name    string
	Layout  Layout
	Image   ReaderAt  // its first Layout.Image bytes as they were at the start; zeroes follow
	Streams []*Stream // the areas behind it: writer, chain
}

// NewVolume returns the i-th volume, from 0, of a run. Its image may be shorter than its place: zeroes follow.
func NewVolume(i int, name string, l Layout, image ReaderAt) *Volume {
	return &Volume{
		Name: name, Layout: l, Image: image,
		Streams: []*Stream{
			{id: uint64(2*i + 1), Name: "writer of " + name, start: l.Image, end: l.Chain},
			{id: uint64(2*i + 2), Name: "chain on " + name, start: l.Chain, end: l.Size},
		},
	}
}

// Prefix is how far a recovered stream goes.
type Prefix struct {
	Stream *Stream
	K      uint64 // updates 1 … K are there
	N      uint64 // of so many that were issued
}

// Proof compares recovered volumes with what was written.
type Proof struct {
	Run uint64 // of the clients
}

// chunk is read at a time.
const chunk = mib

// Volume finds the prefix of each stream of a volume, and compares every byte of the volume with them.
func (p *Proof) Volume(ctx context.Context, v *Volume, r ReaderAt) ([]Prefix, error) {
	var out []Prefix
	expected := map[*Stream][]uint64{}
	for _, s := range v.Streams {
		k, err := p.newest(ctx, s, r)
		if err != nil {
			return nil, err
		}
		updates := s.All()
		if k > uint64(len(updates)) {
			return nil, fmt.Errorf("%w: volume %s: a block names update %d of the %s, of which only %d were ever issued", ErrDiffers, v.Name, k, s.Name, len(updates))
		}
		out = append(out, Prefix{Stream: s, K: k, N: uint64(len(updates))})
		expected[s] = replay(s, updates[:k])
	}
	return out, p.compare(ctx, v, r, expected)
}

// newest returns the highest index that a block of a stream's area names. As the last update of a prefix is overwritten
// by none of it, that is the prefix, if it is one.
func (p *Proof) newest(ctx context.Context, s *Stream, r ReaderAt) (k uint64, err error) {
	buf := make([]byte, chunk)
	for at := s.start; at < s.end; at += chunk {
		part := buf[:min(chunk, s.end-at)]
		if err := r.ReadAt(ctx, part, at); err != nil {
			return 0, fmt.Errorf("read recovered volume: %w", err)
		}
		for b := 0; b < len(part); b += BlockSize {
			if n, ok := readName(part[b:]); ok && n.run == p.Run && n.stream == s.id {
				k = max(k, n.index)
			}
		}
	}
	return k, nil
}

// replay returns for each block of a stream's area the update that wrote it last, 0 for none.
func replay(s *Stream, updates []Update) []uint64 {
	last := make([]uint64, (s.end-s.start)/BlockSize)
	for i, u := range updates {
		for b := (u.Offset - s.start) / BlockSize; b < (u.Offset+u.Length-s.start)/BlockSize; b++ {
			last[b] = uint64(i + 1)
		}
	}
	return last
}

// compare reads the whole volume and compares each block with what the prefixes say.
func (p *Proof) compare(ctx context.Context, v *Volume, r ReaderAt, expected map[*Stream][]uint64) error {
	got, image, want := make([]byte, chunk), make([]byte, chunk), make([]byte, BlockSize)
	var first error
	var differ int64
	for at := int64(0); at < v.Layout.Size; at += chunk {
		n := min(chunk, v.Layout.Size-at)
		if err := r.ReadAt(ctx, got[:n], at); err != nil {
			return fmt.Errorf("read recovered volume %s: %w", v.Name, err)
		}
		if err := p.original(ctx, v, image[:n], at); err != nil {
			return err
		}
		for b := int64(0); b < n; b += BlockSize {
			s, index := v.owner(at+b, expected)
			block := image[b : b+BlockSize]
			if index != 0 {
				fill(want, p.Run, s.id, index, at+b)
				block = want
			}
			if bytes.Equal(block, got[b:b+BlockSize]) {
				continue
			}
			if differ++; first == nil {
				first = p.explain(v, at+b, s, index, got[b:b+BlockSize])
			}
		}
	}
	if first != nil {
		return fmt.Errorf("%w: %d blocks of volume %s differ; the first: %w", ErrDiffers, differ, v.Name, first)
	}
	return nil
}

// original reads what a volume held at the start.
func (p *Proof) original(ctx context.Context, v *Volume, to []byte, at int64) error {
	clear(to)
	if at >= v.Layout.Image {
		return nil
	}
	if err := v.Image.ReadAt(ctx, to[:min(int64(len(to)), v.Layout.Image-at)], at); err != nil {
		return fmt.Errorf("read image of volume %s: %w", v.Name, err)
	}
	return nil
}

// owner returns the stream whose area an offset is in, and the update that must be there; 0 for the image.
func (v *Volume) owner(at int64, expected map[*Stream][]uint64) (*Stream, uint64) {
	for _, s := range v.Streams {
		if at >= s.start && at < s.end {
			return s, expected[s][(at-s.start)/BlockSize]
		}
	}
	return nil, 0
}

// explain says in words how a block differs.
func (p *Proof) explain(v *Volume, at int64, s *Stream, index uint64, got []byte) error {
	want := "the image that it began with"
	if index != 0 {
		want = fmt.Sprintf("update %d of the %s", index, s.Name)
	}
	have := "bytes that nobody wrote"
	name, ok := readName(got)
	switch {
	case ok && name.run == p.Run && s != nil && name.stream == s.id && name.index == index:
		have = "that update, changed behind its first bytes"
	case ok && name.run == p.Run:
		have = fmt.Sprintf("update %d of stream %d", name.index, name.stream)
	case len(bytes.Trim(got, "\x00")) == 0:
		have = "zeroes"
	}
	return fmt.Errorf("offset %d of %s should hold %s and holds %s", at, v.Name, want, have)
}

// Chain checks the two halves of the chain, of which the first has records 1, 3, 5 … and the second 2, 4, 6 … It returns
// the newest record.
func Chain(first, second Prefix) (record uint64, err error) {
	a, b := first.K, second.K
	if a != b && a != b+1 {
		return 0, fmt.Errorf("%w: the chain is broken: the first host has its records up to %d, the second up to %d, but record %d was only written when record %d had been acknowledged",
			ErrDiffers, max(2*a, 1)-1, 2*b, max(2*a-1, 2*b), max(2*a-1, 2*b)-1)
	}
	return a + b, nil
}

// Causes checks that nothing is there that was issued after the reply to something that is missing. It returns how many
// updates are there.
func Causes(prefixes []Prefix) (there int64, err error) {
	type end struct {
		name  string
		index uint64
		at    time.Duration
	}
	var missing, present []end
	for _, p := range prefixes {
		updates := p.Stream.All()
		there += int64(p.K)
		if p.K > 0 { // the last that is there was issued last
			present = append(present, end{p.Stream.Name, p.K, updates[p.K-1].Issued})
		}
		if p.K < uint64(len(updates)) && updates[p.K].Answered != 0 { // and the first that is missing answered first
			missing = append(missing, end{p.Stream.Name, p.K + 1, updates[p.K].Answered})
		}
	}
	byTime := func(a, b end) int { return cmp.Compare(a.at, b.at) }
	if len(missing) == 0 || len(present) == 0 {
		return there, nil
	}
	m, e := slices.MinFunc(missing, byTime), slices.MaxFunc(present, byTime)
	if m.at < e.at {
		return there, fmt.Errorf("%w: an effect without its cause: update %d of the %s is there, but update %d of the %s, acknowledged %v before that was issued, is missing",
			ErrDiffers, e.index, e.name, m.index, m.name, e.at-m.at)
	}
	return there, nil
}
