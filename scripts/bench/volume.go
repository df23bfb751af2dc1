package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"flotilla/agent/api"
)

const (
	groupName  = "bench"
	volumeName = "bench/data"

	copyTime  = 5 * time.Minute // for a first copy
	applyTime = 5 * time.Minute // for everything of a run to be applied
	// staleTime is how old what the captain says of a primary may be: it reports every 100 ms.
	staleTime = 300 * time.Millisecond
)

// volume is the volume under test of a cluster.
type volume struct {
	cluster        *agents
	source, target string
	uri            string
}

// createVolume makes a group and a volume over a filled file, and waits until it can be used and, where there are
// components, until its first copy is whole.
func createVolume(ctx context.Context, c *agents, size int64) (*volume, error) {
	first, last := c.members[0], c.members[len(c.members)-1]
	v := &volume{cluster: c, source: filepath.Join(c.dir, "source.img"), target: filepath.Join(c.dir, "target.img")}
	v.uri = "nbd+unix:///" + volumeName + "?socket=" + first.nbd
	if err := fill(v.source, size); err != nil {
		return nil, err
	}
	whole := size + c.kind.tail
	if err := errors.Join(os.Truncate(v.source, whole), os.WriteFile(v.target, nil, 0o600), os.Truncate(v.target, whole)); err != nil {
		return nil, fmt.Errorf("make source and target: %w", err)
	}
	if _, err := c.command(ctx, "group", "create", groupName, "--mode", "async"); err != nil {
		return nil, err
	}
	_, err := c.command(ctx, "volume", "create", volumeName, "--primary", first.name, "--source", v.source, "--secondary", last.name, "--target", v.target)
	if err != nil {
		return nil, err
	}
	err = until(ctx, startTime, "the volume is not served", func() (bool, error) {
		var local api.Local
		if err := first.client.Call(ctx, "GET", "/v1/agent", nil, &local); err != nil {
			return false, err
		}
		return len(local.Exports) == 1, c.alive()
	})
	if err != nil || !v.replicated() {
		return v, err
	}
	err = until(ctx, copyTime, "the first copy is not whole", func() (bool, error) {
		s, err := c.status(ctx)
		if err != nil {
			return false, err
		}
		g := s.Group(groupName)
		return g != nil && len(g.Volumes) == 1 && g.Volumes[0].Copied, c.alive()
	})
	if err != nil {
		return nil, err
	}
	if _, err := v.settle(ctx, time.Now()); err != nil {
		return nil, err
	}
	return v, v.compare()
}

func (v *volume) replicated() bool { return v.cluster.kind.name != alone.name }

// position is where a group's stream stands.
type position struct {
	incarnation uint64
	seq         uint64
	at          time.Time // when everything before was seen to be applied
}

// settle waits until everything that was written before end is on the target. What it says of the time is late by a set's
// period at most, never early.
func (v *volume) settle(ctx context.Context, end time.Time) (position, error) {
	var p position
	var upTo uint64 // the set that was open after the last write
	first := map[uint64]time.Time{}
	err := until(ctx, applyTime, "what was written is not applied", func() (bool, error) {
		asked := time.Now()
		s, err := v.cluster.status(ctx)
		if err != nil {
			return false, err
		}
		g := s.Group(groupName)
		if g == nil || len(g.Primaries) != 1 || !g.Primaries[0].Known {
			return false, v.cluster.alive()
		}
		src := &g.Primaries[0]
		if _, ok := first[g.Applied]; !ok {
			first[g.Applied] = time.Now()
		}
		if upTo == 0 && asked.Sub(end) >= staleTime && src.Open != 0 {
			upTo = src.Open
		}
		if upTo == 0 || g.Applied < upTo || src.HeldUpTo != src.Seq || src.Queued != 0 {
			return false, v.cluster.alive()
		}
		p = position{incarnation: src.Incarnation, seq: src.Seq}
		for set, at := range first {
			if set >= upTo && (p.at.IsZero() || at.Before(p.at)) {
				p.at = at
			}
		}
		return true, nil
	})
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w\n%s", err, v.cluster.logs())
	}
	return p, err
}

// errDiffers says that a copy is wrong.
var errDiffers = errors.New("source and target differ, though everything is applied")

// compare compares source and target byte by byte. Nobody may write.
func (v *volume) compare() (err error) {
	a, err := os.Open(v.source)
	if err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	defer a.Close()
	b, err := os.Open(v.target)
	if err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	defer b.Close()
	return compare(a, b)
}

// compare reads both to their ends.
func compare(a, b io.Reader) error {
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; off += int64(len(x)) {
		n, err := io.ReadFull(a, x)
		m, err2 := io.ReadFull(b, y)
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			at := 0
			for at < min(n, m) && x[at] == y[at] {
				at++
			}
			return fmt.Errorf("at offset %d: %w", off+int64(at), errDiffers)
		}
		if ended(err) && ended(err2) {
			return nil
		}
		if err := errors.Join(err, err2); err != nil {
			return fmt.Errorf("compare at offset %d: %w", off, err)
		}
	}
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
