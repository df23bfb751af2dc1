package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
)

const (
	resumeRate = int64(8) << 20  // of the copy, bytes a second
	resumeAim  = 4 * time.Second // of the copy, which a kill of the primary may cost: what is not applied, and what is not yet noted
)

// resume kills one process at each tenth of a copy, and starts it again: the primary in one copy, a component in the next,
// and the secondary; the same in a resync, of which nothing is applied before it is whole. Counted is what the copy reads of
// the source.
func resume(ctx context.Context, o options, rep *report, name string) ([]figure, error) {
	var figures []figure
	for _, resync := range []bool{false, true} {
		for _, who := range []string{"primary", "component", "secondary"} {
			fs, err := interrupt(ctx, o, rep, name, who, resync)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", who, err)
			}
			figures = append(figures, fs...)
		}
	}
	return figures, nil
}

func interrupt(ctx context.Context, o options, rep *report, name, who string, resync bool) (_ []figure, err error) {
	size := int64(o.copy) << 20
	rate := []string{"--resync-rate", fmt.Sprint(resumeRate)}
	s := shape{primaries: 1, components: 2, size: size, filled: true, copying: !resync}
	if !resync {
		s.group = rate
	}
	r, err := startRig(ctx, o, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = r.finish(err) }()
	if resync {
		if err := r.forgetBits(rate); err != nil {
			return nil, r.explain(err)
		}
	}
	victim := map[string]*fleet.Host{"primary": r.primaries[0], "component": r.components[0], "secondary": r.secondary}[who]
	began := time.Now()
	read, backward := 0.0, int64(0)
	for tenth := int64(1); tenth < 10; tenth++ {
		var done int64
		if err := r.until(fmt.Sprintf("%d tenths are copied", tenth), func(s *api.Status) bool {
			var known bool
			done, known = r.progress(s, size)
			return known && done >= tenth*size/10
		}); err != nil {
			return nil, r.explain(err)
		}
		n, err := r.copyRead()
		if err != nil {
			return nil, r.explain(err)
		}
		rep.timeline(name, began, []moment{{time.Now(), fmt.Sprintf("%s dies with %.0f of %d MiB copied", who, float64(done)/(1<<20), size>>20)}})
		if err := errors.Join(victim.Kill(), r.Start(r.ctx, victim)); err != nil {
			return nil, r.explain(err)
		}
		if who == "primary" {
			read += n
		}
		// Where it goes on: never at the start.
		var again int64
		if err := r.until("the copy goes on", func(s *api.Status) bool {
			var known bool
			again, known = r.progress(s, size)
			return known && s.Group(groupName).Primaries[0].Open != 0
		}); err != nil {
			return nil, r.explain(err)
		}
		backward = max(backward, done-again)
	}
	if err := r.until("the copy is whole", func(s *api.Status) bool {
		g := s.Group(groupName)
		return g != nil && len(g.Volumes) == 1 && g.Volumes[0].Copied && g.Volumes[0].CopyLeft == 0 && len(g.Primaries) == 1 && g.Primaries[0].Open != 0
	}); err != nil {
		return nil, r.explain(err)
	}
	n, err := r.copyRead()
	if err != nil {
		return nil, r.explain(err)
	}
	read += n
	if err := r.verify(); err != nil {
		return nil, r.explain(err)
	}
	limit := 9 * float64(resumeRate) * resumeAim.Seconds()
	prefix := "resume/" + who + " killed 9 times"
	if resync {
		prefix = "resume/" + who + " killed 9 times in a resync"
	}
	return []figure{
		{prefix + ", copy", float64(size) / (1 << 20), "MiB", nil},
		{prefix + ", read", read / (1 << 20), "MiB", nil},
		{prefix + ", furthest back", float64(backward) / (1 << 20), "MiB", below(resumeAim.Seconds() * float64(resumeRate>>20))},
		{prefix + ", read twice, of what 4 s a kill may cost", max(read-float64(size), 0) / limit, "", below(1)},
	}, nil
}

// forgetBits takes the primary's bits away, so that everything is resynced at a rate. The point before stays.
func (r *rig) forgetBits(rate []string) error {
	p := r.primaries[0]
	if _, err := r.Command(r.ctx, append([]string{"group", "set", groupName, "--socket", r.secondary.Socket()}, rate...)...); err != nil {
		return err
	}
	if err := p.Kill(); err != nil {
		return err
	}
	bits, err := filepath.Glob(filepath.Join(p.Dir, "primary", "*.bits")) // none where nothing was cleared yet
	for _, path := range bits {
		err = errors.Join(err, os.Remove(path))
	}
	if err != nil {
		return fmt.Errorf("remove the bits of the primary: %w", err)
	}
	return r.Start(r.ctx, p)
}

// progress returns how much of the volume's copy is done, and whether that is known: of a resync while it is under way, and
// all of it is to be copied.
func (r *rig) progress(s *api.Status, size int64) (done int64, known bool) {
	g := s.Group(groupName)
	if g == nil || len(g.Volumes) == 0 || len(g.Primaries) == 0 || !g.Primaries[0].Known {
		return 0, false
	}
	v := &g.Volumes[0]
	if v.Copied {
		return v.CopyTotal - v.CopyLeft, v.CopyTotal == size && v.CopyLeft > 0
	}
	return size - v.CopyLeft, v.CopyLeft > 0
}

// copyRead returns what copies have read of the first volume in this run of its primary.
func (r *rig) copyRead() (float64, error) {
	m, err := r.primaries[0].Metrics(r.ctx)
	if err != nil {
		return 0, err
	}
	return m.Sum("flotilla_copy_read_bytes_total", "")
}
