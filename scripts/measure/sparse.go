package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	sparseSize  = int64(1) << 40
	sparsePiece = int64(1) << 20
	sparseAim   = 1.1 // bytes read and sent for each byte of data
)

// sparse copies a volume of 1 TiB with 1 GiB of data, in pieces all over it, and says how long that takes and what it reads,
// sends and stores.
func sparse(ctx context.Context, o options, rep *report, name string) (_ []figure, err error) {
	data := int64(o.data) << 20
	r, err := startRig(ctx, o, shape{primaries: 1, components: 2, size: sparseSize, fill: func(f *os.File) error {
		return scatter(f, sparseSize, data)
	}})
	if err != nil {
		return nil, err
	}
	defer func() { err = r.finish(err) }()
	v := r.volumes[0]
	m, err := v.primary.Metrics(ctx)
	if err != nil {
		return nil, r.explain(err)
	}
	read, err1 := m.Sum("flotilla_copy_read_bytes_total", "")
	sent, err2 := m.Sum("flotilla_peer_sent_bytes_total", `kind="data"`)
	if err := errors.Join(err1, err2); err != nil {
		return nil, r.explain(err)
	}
	if err := errors.Join(r.applied(), sameFiles(v.source, v.target)); err != nil {
		return nil, r.explain(err)
	}
	from, to, err := v.stored()
	if err != nil {
		return nil, err
	}
	left, err := r.trimmed(v)
	if err != nil {
		return nil, r.explain(err)
	}
	var state int64
	for _, h := range r.Hosts {
		n, e := storedBelow(h.Dir)
		err = errors.Join(err, e)
		state = max(state, n)
	}
	if err != nil {
		return nil, r.explain(err)
	}
	return []figure{
		{"sparse/size", float64(sparseSize) / (1 << 30), "GiB", nil},
		{"sparse/data", float64(data) / (1 << 20), "MiB", nil},
		{"sparse/first copy", r.copied.Seconds(), "s", nil},
		{"sparse/read", read / (1 << 20), "MiB", nil},
		{"sparse/sent", sent / (1 << 20), "MiB", nil},
		{"sparse/read for each byte of data", read / float64(data), "", below(sparseAim)},
		{"sparse/sent for each byte of data", sent / float64(data), "", below(sparseAim)},
		{"sparse/stored by the target for each byte of the source", float64(to) / float64(from), "", below(sparseAim)},
		{"sparse/stored after a write and its trim, more than before", float64(left) / (1 << 20), "MiB", below(1)},
		{"sparse/state directory, largest", float64(state) / (1 << 20), "MiB", nil},
	}, nil
}

// trimmed writes into a hole, trims the one half and zeroes the other, and returns how many bytes more than before the source
// or the target then takes.
func (r *rig) trimmed(v *volume) (int64, error) {
	const half, at = 16 << 20, sparseSize/2 + 100<<20
	from, to, err := v.stored()
	if err != nil {
		return 0, err
	}
	content := randomBytes(half)
	for _, off := range []int64{at, at + half} {
		if err := v.clients[0].WriteAt(r.ctx, content, off, 0); err != nil {
			return 0, err
		}
	}
	if err := r.applied(); err != nil {
		return 0, err
	}
	if f, t, err := v.stored(); err != nil || f < from+2*half || t < to+2*half {
		return 0, errors.Join(err, fmt.Errorf("what was written is not stored: %d and %d bytes more", f-from, t-to))
	}
	err = errors.Join(v.clients[0].Trim(r.ctx, at, half, 0), v.clients[0].WriteZeroes(r.ctx, at+half, half, 0), r.applied(), sameFiles(v.source, v.target))
	if err != nil {
		return 0, err
	}
	f, t, err := v.stored()
	return max(f-from, t-to, 0), err
}

// stored returns what a volume's source and target take on their disks.
func (v *volume) stored() (source, target int64, err error) {
	source, err1 := stored(v.source)
	target, err2 := stored(v.target)
	return source, target, errors.Join(err1, err2)
}

// scatter writes random bytes in pieces all over a file of so many bytes.
func scatter(f *os.File, size, data int64) error {
	piece := make([]byte, sparsePiece)
	n := data / sparsePiece
	for i := range n {
		if _, err := io.ReadFull(rand.Reader, piece); err != nil {
			return err
		}
		if _, err := f.WriteAt(piece, i*(size/n)&^4095); err != nil {
			return fmt.Errorf("scatter data: %w", err)
		}
	}
	return nil
}

// stored returns the bytes that a file takes on its disk.
func stored(path string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", path, err)
	}
	return st.Blocks * 512, nil
}

// storedBelow adds up what the files below a directory take. They may come and go.
func storedBelow(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var n int64
			n, err = stored(path)
			sum += n
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return sum, err
}
