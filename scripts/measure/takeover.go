package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
	"flotilla/internal/judge"
)

const (
	takeoverSize   = int64(256) << 20
	takeoverPeriod = "4s" // so that there is something to move
	looks          = 40   // at the components' shares, over nearly a second
)

// takeover has owners die. The aim is twice the heartbeat limit and the time to move what the dead one held unapplied; the
// rate for that is the one at which the same cluster took the volume's first copy, random bytes, just before.
func takeover(ctx context.Context, o options, rep *report, name string) (_ []figure, err error) {
	r, err := startRig(ctx, o, shape{
		primaries: 1, components: killComponents, size: takeoverSize, filled: true, group: []string{"--period", takeoverPeriod, "--portion-size", "1MiB"},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = r.finish(err) }()
	rate := float64(takeoverSize) / r.copied.Seconds()
	w := r.watch()
	l := r.load(o.rate)
	told := false
	defer func() { // a failure wants its timeline too
		if err != nil && !told {
			rep.timeline(name, l.began, w.end())
		}
	}()

	var took, noticed, rebuilt, moved, parts []float64
	captains := 0.0
	for i := range o.kills {
		t, err := r.owner(w, i%2 == 1)
		if err != nil {
			return nil, r.explain(err)
		}
		limit := 2*lossAfter.Seconds() + t.bytes/rate
		w.say("%s held %.1f MiB unapplied: view after %.3f s, held twice after %.3f s; the aim is %.3f s", t.name, t.bytes/(1<<20), t.view, t.settled, limit)
		took, noticed, rebuilt, moved = append(took, t.settled), append(noticed, t.view), append(rebuilt, t.settled-t.view), append(moved, t.bytes/(1<<20))
		parts = append(parts, t.settled/limit)
		if t.captain {
			captains = max(captains, t.settled)
		}
	}
	samples, err := l.end()
	if err != nil {
		return nil, r.explain(err)
	}
	told = true
	rep.timeline(name, l.began, w.end())
	if err := r.verify(); err != nil {
		return nil, r.explain(err)
	}
	failed, _ := failures(samples)
	return []figure{
		{"takeover/first copy", rate / (1 << 20), "MiB/s", nil},
		{"takeover/unapplied at the dead one", judge.Median(moved), "MiB", nil},
		{"takeover/until the view", judge.Median(noticed), "s", nil},
		{"takeover/from the view until held twice", judge.Median(rebuilt), "s", nil},
		{"takeover/until held twice", judge.Median(took), "s", nil},
		{"takeover/until held twice, longest", slices.Max(took), "s", nil},
		{"takeover/until held twice, longest of captains", captains, "s", nil},
		{"takeover/part of the aim", judge.Median(parts), "", below(1)},
		{"takeover/part of the aim, worst", slices.Max(parts), "", below(1)},
		{"takeover/failed writes", float64(failed), "", never()},
	}, nil
}

// taken is one takeover.
type taken struct {
	name          string
	bytes         float64 // that the dead one held of unapplied sets, as owner or mirror
	view, settled float64 // seconds after its death
	captain       bool
}

// owner kills the component that owns most, or the captain if that is a component, waits until everything is held twice,
// and has it return.
func (r *rig) owner(w *watcher, captain bool) (t taken, err error) {
	if _, err := w.until(r.ctx, "all are back", func(s *api.Status) bool {
		return s.Settled && len(membersOf(s)) == len(r.components)
	}); err != nil {
		return t, err
	}
	owned := map[string]int64{}
	for range looks {
		if err := pause(r.ctx, 2*watchEvery); err != nil {
			return t, err
		}
		if s := w.status(); s != nil {
			for _, c := range s.Components {
				owned[c.Agent] += c.OwnedUpdates
			}
		}
	}
	victim := slices.MaxFunc(r.components, func(a, b *fleet.Host) int { return int(owned[a.Name] - owned[b.Name]) })
	if s := w.status(); captain && s != nil {
		if i := slices.IndexFunc(r.components, func(h *fleet.Host) bool { return h.Name == s.Captain }); i >= 0 {
			victim = r.components[i]
		}
	}
	// Sets are applied every few seconds: it dies when it has about as much as it ever has.
	var most int64
	held := func(s *api.Status) int64 {
		c := s.Component(victim.Name)
		return c.OwnedUpdates + c.MirroredUpdates
	}
	began := time.Now()
	if _, err := w.until(r.ctx, "it holds much", func(s *api.Status) bool {
		most = max(most, held(s))
		return time.Since(began) > 8*time.Second && held(s) > most*9/10
	}); err != nil {
		return t, err
	}
	s := w.status()
	if s == nil {
		return t, fmt.Errorf("no captain answers just before %s is killed", victim.Name)
	}
	t.name, t.bytes = victim.Name, float64(held(s))*blockSize
	view := s.View
	word := ""
	if s.Captain == victim.Name {
		t.captain, word = true, ", the captain"
	}
	at := time.Now()
	if err := victim.Kill(); err != nil {
		return t, err
	}
	w.say("SIGKILL to %s%s", victim.Name, word)
	seen, err := w.until(r.ctx, "the view has risen", func(s *api.Status) bool { return s.View > view && !isMember(s, victim.Name) })
	if err != nil {
		return t, err
	}
	t.view = seen.Sub(at).Seconds()
	if seen, err = w.until(r.ctx, "everything is held twice", func(s *api.Status) bool { return s.View > view && s.Settled }); err != nil {
		return t, err
	}
	t.settled = seen.Sub(at).Seconds()
	if err := r.Launch(victim); err != nil {
		return t, err
	}
	w.say("%s is started again", victim.Name)
	_, err = w.until(r.ctx, victim.Name+" is back", func(s *api.Status) bool { return s.Settled && isMember(s, victim.Name) })
	return t, err
}
