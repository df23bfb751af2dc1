package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"flotilla/agent/api"
)

const (
	linkShare   = int64(320) << 13 // bytes of the volume for each Mbit/s: at 100 Mbit/s it has 250 MiB
	linkWriters = 64
	linkPages   = 2.5 // aims: times what the raw link would carry
	linkHot     = 5.0
)

// link measures what a primary behind a slow link (100 Mbit/s) moves to another site, in bytes of its application, with two loads of
// database pages: written all over the volume, and overwriting, nine of ten writes to a tenth of the blocks. The time ends
// when everything that was written is on the target, and so the queue at the end counts; the bytes on the link are the
// link's own count.
func link(ctx context.Context, o options, rep *report, name string) ([]figure, error) {
	var figures []figure
	for _, l := range []struct {
		name   string
		aim    float64
		choose func(r *rand.Rand, pages int64) int64
	}{
		{"pages", linkPages, func(r *rand.Rand, pages int64) int64 { return r.Int64N(pages) }},
		{"overwriting", linkHot, func(r *rand.Rand, pages int64) int64 {
			if hot := pages / 10; r.IntN(10) > 0 {
				return r.Int64N(hot)
			}
			return r.Int64N(pages)
		}},
	} {
		m, err := moveOver(ctx, o, rep, name+" "+l.name, l.choose)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		raw := float64(o.site) * 1e6 / 8 * m.seconds
		prefix := "link/" + l.name
		figures = append(figures,
			figure{prefix + ", moved", float64(m.written) / m.seconds / 1e6, "MB/s", nil},
			figure{prefix + ", the link's own count", float64(m.link) / m.seconds / 1e6, "MB/s", nil},
			figure{prefix + ", of the link's rate", float64(m.link) / raw, "", nil},
			figure{prefix + ", folded", float64(m.folded) / float64(m.written), "of written", nil},
			figure{prefix + ", written for each byte on the link", float64(m.written) / float64(m.link), "bytes", nil},
			figure{prefix + ", times what the raw link carries", float64(m.written) / raw, "", atLeast(l.aim)})
	}
	return figures, nil
}

// moved is what a load came to.
type moved struct {
	written, folded int64   // application bytes
	link            int64   // bytes that the primary's link carried towards the others
	seconds         float64 // from the first write until all is on the target
}

// moveOver runs one load.
func moveOver(ctx context.Context, o options, rep *report, name string, choose func(r *rand.Rand, pages int64) int64) (_ *moved, err error) {
	r, err := startRig(ctx, o, shape{primaries: 1, components: 2, size: int64(o.site) * linkShare, link: o.site, limited: "primary"})
	if err != nil {
		return nil, err
	}
	defer func() { err = r.finish(err) }()
	p := r.primaries[0].Name
	before, err := r.network.Traffic(r.ctx, lan)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	w := startPages(r.ctx, r.volumes[0], o.pages, linkWriters, choose)
	r.users = append(r.users, w.done.Wait)
	for time.Since(began) < o.window {
		if err := pause(r.ctx, min(tellEvery, o.window)); err != nil {
			return nil, r.explain(err)
		}
		now, err := r.network.Traffic(r.ctx, lan)
		if err != nil {
			return nil, r.explain(err)
		}
		rep.timeline(name, began, []moment{{time.Now(), fmt.Sprintf("written %.1f MB/s, on the link %.1f MB/s, on average",
			float64(w.bytes.Load())/time.Since(began).Seconds()/1e6, float64(now[p].Sent-before[p].Sent)/time.Since(began).Seconds()/1e6)}})
	}
	m := &moved{}
	if m.written, err = w.end(); err != nil {
		return nil, r.explain(err)
	}
	if err := r.verify(); err != nil {
		return nil, r.explain(err)
	}
	m.seconds = time.Since(began).Seconds()
	after, err := r.network.Traffic(r.ctx, lan)
	if err != nil {
		return nil, r.explain(err)
	}
	m.link = after[p].Sent - before[p].Sent
	if n, err := r.events(r.primaries[0], "group.suspended"); err != nil || n > 0 {
		return nil, errors.Join(err, fmt.Errorf("the group was suspended %d times: what was written went to the bitmap", n))
	}
	s, err := r.secondary.Status(r.ctx)
	if err != nil {
		return nil, r.explain(err)
	}
	m.folded = foldedOf(s)
	return m, nil
}

// foldedOf returns what the only primary of the group folded.
func foldedOf(s *api.Status) int64 {
	if g := s.Group(groupName); g != nil && len(g.Primaries) == 1 {
		return g.Primaries[0].Folded
	}
	return 0
}
