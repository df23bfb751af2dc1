package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"flotilla/internal/fleet"
)

const (
	cutPrimaries  = 3
	cutComponents = 3
	cutSize       = int64(64) << 20
	holdAim       = 10.0 // ms, for p99
)

// hold is one standing still of a primary, as it says itself (see core.Hold).
type hold struct {
	Message string    `json:"msg"`
	Time    time.Time `json:"time"`
	Set     uint64    `json:"set"`
	Seconds float64   `json:"seconds"`
	Stood   bool      `json:"stood"`
}

// cut has the captain call cuts under load. Each primary writes every hold to its log.
func cut(ctx context.Context, o options, rep *report, name string) (_ []figure, err error) {
	r, err := startRig(ctx, o, shape{
		primaries: cutPrimaries, components: cutComponents, size: cutSize,
		group: []string{"--period", o.period.String(), "--portion-size", "1MiB"}, settings: "log: {level: debug, format: json}\n",
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = r.finish(err) }()
	w := r.watch()
	before, err := r.voids()
	if err != nil {
		return nil, err
	}
	l := r.load(o.rate)
	told := false
	defer func() { // a failure wants its timeline too
		if err != nil && !told {
			rep.timeline(name, l.began, w.end())
		}
	}()
	from := time.Now()
	held := map[*fleet.Host][]hold{}
	for enough := false; !enough; {
		if err := pause(r.ctx, time.Second); err != nil {
			return nil, r.explain(err)
		}
		enough = true
		for _, p := range r.primaries {
			if held[p], err = readHolds(p.Log, from); err != nil {
				return nil, err
			}
			enough = enough && len(held[p]) >= o.cuts
		}
		if late := time.Duration(o.cuts)*(o.period+100*time.Millisecond) + time.Minute; time.Since(from) > late {
			return nil, fmt.Errorf("wait for %d cuts: there are not so many after %v", o.cuts, late)
		}
	}
	samples, err := l.end()
	if err != nil {
		return nil, r.explain(err)
	}
	told = true
	after, err := r.voids()
	if err != nil {
		return nil, err
	}
	rep.timeline(name, l.began, w.end())
	if err := r.verify(); err != nil {
		return nil, r.explain(err)
	}
	return r.cutFigures(rep, name, l.began, held, after-before, samples), nil
}

// voids returns how many boundaries the captains have called void so far.
func (r *rig) voids() (total int, err error) {
	for _, h := range r.Hosts {
		n, err := r.events(h, "cut.void")
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// readHolds returns what a primary's log says of its holds since a time.
func readHolds(path string, since time.Time) ([]hold, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read holds: %w", err)
	}
	defer f.Close()
	var out []hold
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var h hold
		if json.Unmarshal(lines.Bytes(), &h) == nil && h.Message == "cut.hold" && h.Time.After(since) { // other lines have other keys
			out = append(out, h)
		}
	}
	return out, lines.Err()
}

// slowest is how many of the longest holds a timeline shows.
const slowest = 5

func (r *rig) cutFigures(rep *report, name string, began time.Time, held map[*fleet.Host][]hold, voids int, samples []sample) []figure {
	var every, worst []float64 // ms; of all primaries together, and each one's p99
	unconfirmed := 0
	fewest := 0
	for _, p := range r.primaries {
		var own []float64
		longest := slices.Clone(held[p])
		slices.SortFunc(longest, func(a, b hold) int { return int((b.Seconds - a.Seconds) * 1e9) })
		var moments []moment
		for i, h := range longest {
			own = append(own, h.Seconds*1e3)
			if !h.Stood {
				unconfirmed++
			}
			if i < slowest {
				moments = append(moments, moment{h.Time, fmt.Sprintf("%s stood still for %.3f ms until set %d (stood: %v)", p.Name, h.Seconds*1e3, h.Set, h.Stood)})
			}
		}
		slices.SortFunc(moments, func(a, b moment) int { return a.at.Compare(b.at) })
		rep.timeline(name, began, moments)
		slices.Sort(own)
		rep.say("  %s: %d holds, p50 %.3f ms, p99 %.3f ms, longest %.3f ms", p.Name, len(own), quantile(own, 0.5), quantile(own, 0.99), quantile(own, 1))
		every, worst = append(every, own...), append(worst, quantile(own, 0.99))
		if fewest == 0 || len(own) < fewest {
			fewest = len(own)
		}
	}
	slices.Sort(every)
	felt := latenciesOf(samples, func(*sample) bool { return true }, (*sample).latency)
	failed, _ := failures(samples)
	return []figure{
		{"cut/cuts", float64(fewest), "", nil},
		{"cut/hold p50", quantile(every, 0.5), "ms", nil},
		{"cut/hold p99", quantile(every, 0.99), "ms", below(holdAim)},
		{"cut/hold p99 of the worst primary", slices.Max(worst), "ms", below(holdAim)},
		{"cut/hold longest", quantile(every, 1), "ms", nil},
		{"cut/void boundaries", float64(voids), "", nil},
		{"cut/holds that did not stand", float64(unconfirmed), "", nil},
		{"cut/write p50", felt.at(0.5), "ms", nil},
		{"cut/write p99.9", felt.at(0.999), "ms", nil},
		{"cut/write longest", felt.at(1), "ms", nil},
		{"cut/failed writes", float64(failed), "", never()},
	}
}
