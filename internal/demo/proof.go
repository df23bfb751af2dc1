package demo

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

// readerAt is a volume that is read.
type readerAt interface {
	ReadAt(ctx context.Context, p []byte, offset int64) error
}

// volume is what the demo knows of a volume.
type volume struct {
	name    string
	layout  layout
	image   readerAt  // its first image bytes as they were at the start; zeroes follow
	streams []*stream // the areas behind it: writer, chain
}

// prefix is how far a recovered stream goes.
type prefix struct {
	stream *stream
	k      uint64 // updates 1 … k are there
	n      uint64 // of so many that were issued
}

// proof compares recovered volumes with what was written.
type proof struct {
	run uint64
}

// chunk is read at a time.
const chunk = mib

// volume finds the prefix of each stream of a volume, and compares every byte of the volume with them.
func (p *proof) volume(ctx context.Context, v *volume, r readerAt) ([]prefix, error) {
	var out []prefix
	expected := map[*stream][]uint64{}
	for _, s := range v.streams {
		k, err := p.newest(ctx, s, r)
		if err != nil {
			return nil, err
		}
		updates := s.all()
		if k > uint64(len(updates)) {
			return nil, fmt.Errorf("%w: volume %s: a block names update %d of the %s, of which only %d were ever issued", ErrDiffers, v.name, k, s.name, len(updates))
		}
		out = append(out, prefix{stream: s, k: k, n: uint64(len(updates))})
		expected[s] = replay(s, updates[:k])
	}
	return out, p.compare(ctx, v, r, expected)
}

// newest returns the highest index that a block of a stream's area names. As the last update of a prefix is overwritten
// by none of it, that is the prefix, if it is one.
func (p *proof) newest(ctx context.Context, s *stream, r readerAt) (k uint64, err error) {
	buf := make([]byte, chunk)
	for at := s.start; at < s.end; at += chunk {
		part := buf[:min(chunk, s.end-at)]
		if err := r.ReadAt(ctx, part, at); err != nil {
			return 0, fmt.Errorf("read recovered volume: %w", err)
		}
		for b := 0; b < len(part); b += blockSize {
			if n, ok := readName(part[b:]); ok && n.run == p.run && n.stream == s.id {
				k = max(k, n.index)
			}
		}
	}
	return k, nil
}

// replay returns for each block of a stream's area the update that wrote it last, 0 for none.
func replay(s *stream, updates []update) []uint64 {
	last := make([]uint64, (s.end-s.start)/blockSize)
	for i, u := range updates {
		for b := (u.offset - s.start) / blockSize; b < (u.offset+u.length-s.start)/blockSize; b++ {
			last[b] = uint64(i + 1)
		}
	}
	return last
}

// compare reads the whole volume and compares each block with what the prefixes say.
func (p *proof) compare(ctx context.Context, v *volume, r readerAt, expected map[*stream][]uint64) error {
	got, image, want := make([]byte, chunk), make([]byte, chunk), make([]byte, blockSize)
	var first error
	var differ int64
	for at := int64(0); at < v.layout.size; at += chunk {
		n := min(chunk, v.layout.size-at)
		if err := r.ReadAt(ctx, got[:n], at); err != nil {
			return fmt.Errorf("read recovered volume %s: %w", v.name, err)
		}
		if err := p.original(ctx, v, image[:n], at); err != nil {
			return err
		}
		for b := int64(0); b < n; b += blockSize {
			s, index := v.owner(at+b, expected)
			block := image[b : b+blockSize]
			if index != 0 {
				fill(want, p.run, s.id, index, at+b)
				block = want
			}
			if bytes.Equal(block, got[b:b+blockSize]) {
				continue
			}
			if differ++; first == nil {
				first = p.explain(v, at+b, s, index, got[b:b+blockSize])
			}
		}
	}
	if first != nil {
		return fmt.Errorf("%w: %d blocks of volume %s differ; the first: %w", ErrDiffers, differ, v.name, first)
	}
	return nil
}

// original reads what a volume held at the start.
func (p *proof) original(ctx context.Context, v *volume, to []byte, at int64) error {
	clear(to)
	if at >= v.layout.image {
		return nil
	}
	if err := v.image.ReadAt(ctx, to[:min(int64(len(to)), v.layout.image-at)], at); err != nil {
		return fmt.Errorf("read image of volume %s: %w", v.name, err)
	}
	return nil
}

// owner returns the stream whose area an offset is in, and the update that must be there; 0 for the image.
func (v *volume) owner(at int64, expected map[*stream][]uint64) (*stream, uint64) {
	for _, s := range v.streams {
		if at >= s.start && at < s.end {
			return s, expected[s][(at-s.start)/blockSize]
		}
	}
	return nil, 0
}

// explain says in words how a block differs.
func (p *proof) explain(v *volume, at int64, s *stream, index uint64, got []byte) error {
	want := "the image that it began with"
	if index != 0 {
		want = fmt.Sprintf("update %d of the %s", index, s.name)
	}
	have := "bytes that nobody wrote"
	name, ok := readName(got)
	switch {
	case ok && name.run == p.run && s != nil && name.stream == s.id && name.index == index:
		have = "that update, changed behind its first bytes"
	case ok && name.run == p.run:
		have = fmt.Sprintf("update %d of stream %d", name.index, name.stream)
	case len(bytes.Trim(got, "\x00")) == 0:
		have = "zeroes"
	}
	return fmt.Errorf("offset %d of %s should hold %s and holds %s", at, v.name, want, have)
}

// chain checks the two halves of the chain, of which the first has records 1, 3, 5 … and the second 2, 4, 6 … It returns
// the newest record.
func chain(first, second prefix) (record uint64, err error) {
	a, b := first.k, second.k
	if a != b && a != b+1 {
		return 0, fmt.Errorf("%w: the chain is broken: the first host has its records up to %d, the second up to %d, but record %d was only written when record %d had been acknowledged",
			ErrDiffers, max(2*a, 1)-1, 2*b, max(2*a-1, 2*b), max(2*a-1, 2*b)-1)
	}
	return a + b, nil
}

// causes checks that nothing is there that was issued after the reply to something that is missing. It returns how many
// updates are there.
func causes(prefixes []prefix) (there int64, err error) {
	type end struct {
		name  string
		index uint64
		at    time.Duration
	}
	var missing, present []end
	for _, p := range prefixes {
		updates := p.stream.all()
		there += int64(p.k)
		if p.k > 0 { // the last that is there was issued last
			present = append(present, end{p.stream.name, p.k, updates[p.k-1].issued})
		}
		if p.k < uint64(len(updates)) && updates[p.k].answered != 0 { // and the first that is missing answered first
			missing = append(missing, end{p.stream.name, p.k + 1, updates[p.k].answered})
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
