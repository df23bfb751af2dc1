package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"flotilla/agent/api"
)

const (
	killComponents = 5
	killSize       = int64(64) << 20
	calmTime       = time.Second            // between a return and the next death, and at both ends
	lossAfter      = 2 * time.Second        // the agents' default
	asyncStall     = 50.0                   // ms, for p99.9
	syncGrace      = 500 * time.Millisecond // above lossAfter, for the longest stall
)

func killAsync(ctx context.Context, o options, rep *report, name string) ([]figure, error) {
	return kill(ctx, o, rep, name, "async")
}

func killSync(ctx context.Context, o options, rep *report, name string) ([]figure, error) {
	return kill(ctx, o, rep, name, "sync")
}

// death is one component's, and what became of it.
type death struct {
	name    string
	captain bool
	// Of the load.
	killed, lost, back time.Duration
}

// kill has components die and return in turn, for o.duration and until the last is back.
func kill(ctx context.Context, o options, rep *report, name, mode string) (_ []figure, err error) {
	r, err := startRig(ctx, o, shape{
		primaries: 1, components: killComponents, size: killSize, group: []string{"--mode", mode, "--portion-size", "1MiB"},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = r.finish(err) }()
	w := r.watch()
	l := r.load(o.rate)
	told := false
	defer func() { // a failure wants its timeline too
		if err != nil && !told {
			rep.timeline(name, l.began, w.end())
		}
	}()

	var deaths []death
	err = pause(r.ctx, calmTime)
	for i := 0; err == nil && (i == 0 || l.now() < o.duration); i++ {
		var d death
		if d, err = r.dieAndReturn(w, l, i%killComponents); err == nil {
			deaths = append(deaths, d)
			err = pause(r.ctx, calmTime)
		}
	}
	if err != nil {
		return nil, r.explain(err)
	}
	ended := l.now()
	samples, err := l.end()
	if err != nil {
		return nil, r.explain(err)
	}
	told = true
	moments := w.end()
	rep.timeline(name, l.began, moments)
	if err := r.verify(); err != nil {
		return nil, r.explain(err)
	}
	return killFigures(rep, name, mode, l.began, deaths, ended, samples), nil
}

// dieAndReturn kills a component, waits until the others hold everything twice, and starts it again.
func (r *rig) dieAndReturn(w *watcher, l *load, i int) (d death, err error) {
	h := r.components[i]
	if _, err := w.until(r.ctx, "the view is settled", func(s *api.Status) bool { return s.Settled && isMember(s, h.Name) }); err != nil {
		return d, err
	}
	s := w.status()
	d.name = h.Name
	word := ""
	if s != nil && s.Captain == h.Name {
		d.captain, word = true, ", the captain"
	}
	d.killed = l.now()
	if err := h.Kill(); err != nil {
		return d, err
	}
	w.say("SIGKILL to %s%s", h.Name, word)
	at, err := w.until(r.ctx, h.Name+" is lost, and everything held twice", func(s *api.Status) bool { return s.Settled && !isMember(s, h.Name) })
	if err != nil {
		return d, err
	}
	d.lost = at.Sub(l.began)
	if err := r.Launch(h); err != nil {
		return d, err
	}
	w.say("%s is started again", h.Name)
	at, err = w.until(r.ctx, h.Name+" is back", func(s *api.Status) bool { return s.Settled && isMember(s, h.Name) })
	d.back = at.Sub(l.began)
	return d, err
}

// killFigures says what writes felt.
func killFigures(rep *report, name, mode string, began time.Time, deaths []death, ended time.Duration, samples []sample) []figure {
	any := func(*sample) bool { return true }
	whole, lag := latenciesOf(samples, any, (*sample).latency), latenciesOf(samples, any, (*sample).lag)
	failed, first := failures(samples)
	if first != nil {
		rep.say("  the first write that failed: %v", first)
	}
	calm := latenciesOf(samples, func(s *sample) bool { // the machine by itself
		return !slices.ContainsFunc(deaths, func(d death) bool { return within(d.killed, d.back)(s) })
	}, (*sample).latency)
	var others, captains float64 // the longest stalls
	for i, d := range deaths {
		until := ended + answerTime
		if i+1 < len(deaths) {
			until = deaths[i+1].killed
		}
		// By their replies: what was under way when the next one died has felt that.
		felt := latenciesOf(samples, answered(d.killed, until), (*sample).latency)
		word := ""
		if d.captain {
			word, captains = " (captain)", max(captains, felt.at(1))
		} else {
			others = max(others, felt.at(1))
		}
		text := fmt.Sprintf("%s%s: held twice again after %.2f s, back after %.2f s; of %d writes until the next death p50 %.2f ms, p99.9 %.2f ms, longest %.2f ms",
			d.name, word, (d.lost - d.killed).Seconds(), (d.back - d.killed).Seconds(), len(felt), felt.at(0.5), felt.at(0.999), felt.at(1))
		rep.say("  %s", text)
		rep.put(timeLine{Timeline: name + "/deaths", Seconds: d.killed.Seconds(), Text: text})
	}
	prefix := "kill-" + mode + "/"
	figures := []figure{
		{prefix + "deaths", float64(len(deaths)), "", nil},
		{prefix + "writes", float64(len(samples)), "", nil},
		{prefix + "failed writes", float64(failed), "", never()},
		{prefix + "p50", whole.at(0.5), "ms", nil},
		{prefix + "p99", whole.at(0.99), "ms", nil},
	}
	if mode == "async" {
		return append(figures, figure{prefix + "p99.9", whole.at(0.999), "ms", below(asyncStall)}, figure{prefix + "longest", whole.at(1), "ms", nil},
			figure{prefix + "p99.9 while nobody is dead", calm.at(0.999), "ms", nil},
			figure{prefix + "lag of the client, p99.9", lag.at(0.999), "ms", nil}, figure{prefix + "lag of the client, longest", lag.at(1), "ms", nil})
	}
	limit := milliseconds(lossAfter + syncGrace)
	return append(figures, figure{prefix + "p99.9", whole.at(0.999), "ms", nil}, figure{prefix + "longest", whole.at(1), "ms", below(limit)},
		figure{prefix + "longest, captain alive", others, "ms", nil}, figure{prefix + "longest, captain killed", captains, "ms", nil},
		figure{prefix + "lag of the client, longest", lag.at(1), "ms", nil})
}
