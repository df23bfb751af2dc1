package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"flotilla/agent/api"
	"flotilla/internal/fleet"

	"golang.org/x/sys/unix"
)

// group is the one that most scenarios use.
const group = "db"

// settled waits until the group's target is what its source is: nothing is left to be copied, and what was written before is
// applied. Nobody may write.
func (c *cluster) settled(name string) error {
	var until uint64
	return fleet.Until(c.ctx, c.patience*fleet.StepTime, "all of group "+name+" is applied", func(ctx context.Context) (bool, error) {
		s, err := c.secondary.Status(ctx)
		if s == nil || err != nil {
			return false, err
		}
		g := s.Group(name)
		if g == nil {
			return false, fmt.Errorf("there is no group %s", name)
		}
		if !quiet(s, g) {
			until = 0
			return false, nil
		}
		if until == 0 {
			until = g.Open + 1 // what the primary has said by now may be of the set after
		}
		return g.Applied >= until, nil
	})
}

// quiet reports whether the group's primaries have nothing to send, by what they said within the last second.
func quiet(s *api.Status, g *api.Group) bool {
	for _, v := range g.Volumes {
		if !v.Copied || v.CopyLeft != 0 {
			return false
		}
	}
	for _, p := range g.Primaries {
		if !p.Known || p.Incarnation == 0 || p.CopyLeft != 0 || p.Queued != 0 || p.ResyncNeeds != 0 {
			return false
		}
	}
	for _, a := range s.Agents {
		if a.HeardSeconds == nil || *a.HeardSeconds > 1 {
			return false
		}
	}
	return g.Open != 0
}

// same compares the first n bytes of two files or devices, past whatever the kernel remembers of devices.
func same(a, b string, n int64) error {
	f, err := openPast(a)
	if err != nil {
		return err
	}
	defer f.Close()
	g, err := openPast(b)
	if err != nil {
		return err
	}
	defer g.Close()
	const piece = 1 << 20
	x, y := make([]byte, piece), make([]byte, piece)
	for off := int64(0); off < n; off += piece {
		length := min(piece, n-off)
		hole, err := holes(off, length, f, g)
		if err != nil {
			return err
		}
		if hole {
			continue
		}
		if _, err := f.ReadAt(x[:length], off); err != nil {
			return fmt.Errorf("compare: %w", err)
		}
		if _, err := g.ReadAt(y[:length], off); err != nil {
			return fmt.Errorf("compare: %w", err)
		}
		if string(x[:length]) != string(y[:length]) {
			return fmt.Errorf("%s and %s differ at offset %d, or within 1 MiB behind it", a, b, off)
		}
	}
	return nil
}

func openPast(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("compare: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&os.ModeDevice != 0 {
		err = forget(f)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("compare %s: %w", path, err), f.Close())
	}
	return f, nil
}

// forget writes out and drops what the kernel's cache has of a block device.
func forget(f *os.File) error {
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("drop the cache of %s: %w", f.Name(), err)
	}
	return nil
}

// holes reports whether none of the files has data there. A device has data everywhere.
func holes(off, length int64, files ...*os.File) (bool, error) {
	for _, f := range files {
		at, err := f.Seek(off, unix.SEEK_DATA)
		switch {
		case errors.Is(err, syscall.ENXIO):
		case errors.Is(err, syscall.EINVAL):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("look for data in %s: %w", f.Name(), err)
		case at < off+length:
			return false, nil
		}
	}
	return true, nil
}

// stored returns how many bytes a file takes.
func stored(path string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", path, err)
	}
	return st.Blocks * 512, nil
}

// until waits for a condition for as long as a step may take.
func (m *machine) until(ctx context.Context, what string, ask func() (bool, error)) error {
	return fleet.Until(ctx, m.patience*fleet.StepTime, what, func(context.Context) (bool, error) { return ask() })
}
