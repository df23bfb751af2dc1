package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"flotilla/internal/judge"
)

// report prints a table and writes JSON lines.
type report struct {
	w      io.Writer
	file   *os.File // nil for none
	lines  *bufio.Writer
	missed int
	err    error // the first of writing lines
}

// line is one row.
type line struct {
	Name    string  `json:"name"`
	Unit    string  `json:"unit"`
	Own     float64 `json:"own"`  // medians
	Peer    float64 `json:"peer"` // of this boot's other side
	Ratio   float64 `json:"ratio"`
	Least   float64 `json:"least"`
	Most    float64 `json:"most"`
	Aim     string  `json:"aim,omitempty"`
	Reached *bool   `json:"reached,omitempty"`
	Pairs   []pair  `json:"pairs"`
}

func newReport(w io.Writer, o options) (*report, error) {
	r := &report{w: w}
	if o.json != "" {
		f, err := os.Create(o.json)
		if err != nil {
			return nil, fmt.Errorf("-json: %w", err)
		}
		r.file, r.lines = f, bufio.NewWriter(f)
	}
	return r, nil
}

func (r *report) close() error {
	if r.file == nil {
		return nil
	}
	return errors.Join(r.err, r.lines.Flush(), r.file.Close())
}

func (r *report) say(format string, args ...any) { fmt.Fprintf(r.w, format+"\n", args...) }

func (r *report) head(o options, kernel string) {
	r.say("%s, on a machine with %d processors; load %s", kernel, runtime.NumCPU(), machineLoad())
	r.say("%d interleaved pairs; runs of %v (after %v), over the slow link of %v; volumes of %d MiB, everything in memory", o.pairs, o.runtime, o.ramp, o.linked, o.size>>20)
}

func machineLoad() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if fields := strings.Fields(string(raw)); err == nil && len(fields) >= 3 {
		return strings.Join(fields[:3], " ")
	}
	return "unknown"
}

// row reports the pairs of a row.
func (r *report) row(x *row, pairs []pair) {
	if len(pairs) == 0 {
		r.say("%-36s was not measured", x.name)
		return
	}
	var own, peer, ratios []float64
	for _, p := range pairs {
		own, peer, ratios = append(own, p.Own.Value), append(peer, p.Peer.Value), append(ratios, p.Own.Value/p.Peer.Value)
	}
	l := line{
		Name: x.name, Unit: pairs[0].Own.Unit, Own: judge.Median(own), Peer: judge.Median(peer), Ratio: judge.Median(ratios),
		Least: slices.Min(ratios), Most: slices.Max(ratios), Aim: x.aim.String(), Pairs: pairs,
	}
	verdict := ""
	if x.aim != nil {
		reached := x.aim.Reached(ratios)
		l.Reached = &reached
		if verdict = "reached"; !reached {
			verdict = "MISSED"
			r.missed++
		}
	}
	r.say("%-36s %s %9.4g  %s %9.4g %-5s ratio %6.3f (%.3f … %.3f, %d pairs) %-7s %s", x.name, x.own.who, l.Own, x.peer.who, l.Peer, l.Unit,
		l.Ratio, l.Least, l.Most, len(pairs), l.Aim, verdict)
	if x.pages != "" {
		var taken, folded, link []float64
		for _, p := range pairs {
			taken, folded, link = append(taken, p.Own.Taken/p.Peer.Taken), append(folded, p.Own.Folded), append(link, p.Own.Link)
		}
		r.say("%-36s   as fast as the application was answered: ratio %.3f; folded %.0f %%; on the link %.2f MB/s", "", judge.Median(taken), 100*judge.Median(folded), judge.Median(link))
	}
	r.put(l)
}

func (r *report) put(l line) {
	if r.file == nil {
		return
	}
	text, err := json.Marshal(l)
	if err == nil {
		_, err = r.lines.Write(append(text, '\n'))
	}
	r.err = errors.Join(r.err, err)
}

func (r *report) foot() { r.say("%d aims missed; load at the end %s", r.missed, machineLoad()) }
