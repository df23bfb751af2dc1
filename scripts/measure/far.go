package main

import (
	"context"
	"fmt"
	"time"

	"flotilla/internal/judge"
)

const (
	farDelay  = 5 * time.Millisecond // in each direction
	farSize   = int64(128) << 20
	farPairs  = 3
	farSettle = time.Second // before each window
	farDepth  = 32
	farAim    = 0.95
)

// far measures what distance costs: the primary is behind a link with a delay of 5 ms in each direction, everybody else is at one
// place. One write at a time in async ends on the source, and should not notice: windows with the delay and without take turns.
// Writes in sync end when two components have them, a round trip later at the least, which bounds what 32 at a time can come to.
func far(ctx context.Context, o options, rep *report, name string) ([]figure, error) {
	var near, delayed, ratios []float64
	began := time.Now()
	window := o.window / (2 * farPairs)
	err := withFar(ctx, o, nil, func(r *rig) error {
		p := startPressure(r.ctx, r.volumes[0], 1, blockSize)
		r.users = append(r.users, p.done.Wait)
		defer p.end()
		rates := map[time.Duration]float64{}
		for i := range 2 * farPairs {
			d := []time.Duration{0, farDelay, farDelay, 0}[i%4] // who is first takes turns, too
			var err error
			if rates[d], err = farRate(r, p, d, window); err != nil {
				return err
			}
			rep.timeline(name, began, []moment{{time.Now(), fmt.Sprintf("async, one at a time, delay %v: %.0f writes a second", d, rates[d])}})
			if i%2 == 1 {
				near, delayed = append(near, rates[0]), append(delayed, rates[farDelay])
				ratios = append(ratios, rates[farDelay]/rates[0])
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("async: %w", err)
	}
	var trip time.Duration
	var rate float64
	err = withFar(ctx, o, []string{"--mode", "sync"}, func(r *rig) (err error) {
		p := startPressure(r.ctx, r.volumes[0], farDepth, blockSize)
		r.users = append(r.users, p.done.Wait)
		defer p.end()
		if rate, err = farRate(r, p, farDelay, window); err != nil {
			return err
		}
		p.end()
		nodes := r.network.Nodes
		trip, err = r.network.RoundTrip(nodes[0], nodes[len(nodes)-1], lan)
		rep.timeline(name, began, []moment{{time.Now(), fmt.Sprintf("sync, %d at a time: %.0f writes a second; a round trip takes %v", farDepth, rate, trip)}})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sync: %w", err)
	}
	return []figure{
		{"far/async, one at a time, without delay", judge.Median(near), "1/s", nil},
		{"far/async, one at a time, 5 ms away", judge.Median(delayed), "1/s", nil},
		{"far/async, with the delay for each without", judge.Median(ratios), "", atLeast(farAim)},
		{"far/sync, a round trip", milliseconds(trip), "ms", nil},
		{"far/sync, 32 at a time", rate, "1/s", nil},
		{"far/sync, of 32 in each round trip", rate * trip.Seconds() / farDepth, "", nil},
	}, nil
}

// withFar has f use a cluster whose primary is far, and compares source and target when it has.
func withFar(ctx context.Context, o options, group []string, f func(r *rig) error) error {
	r, err := startRig(ctx, o, shape{primaries: 1, components: 2, size: farSize, group: group, far: true})
	if err != nil {
		return err
	}
	if err = f(r); err == nil {
		err = r.verify()
	}
	return r.finish(r.explain(err))
}

// farRate is how many writes were answered a second in a window, with a delay.
func farRate(r *rig, p *pressure, delay, window time.Duration) (float64, error) {
	r.wire.SetDelay(delay)
	if err := pause(r.ctx, farSettle); err != nil {
		return 0, err
	}
	before, at := p.answered.Load(), time.Now()
	if err := pause(r.ctx, window); err != nil {
		return 0, err
	}
	return float64(p.answered.Load()-before) / time.Since(at).Seconds(), p.failed()
}
