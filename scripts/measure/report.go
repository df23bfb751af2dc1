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
	"time"

	"flotilla/internal/judge"
)

// figure is one number of one run.
type figure struct {
	name  string
	value float64
	unit  string
	aim   *aim // nil where there is none
}

// The aims that figures have.
type aim = judge.Aim

func below(limit float64) *aim   { return judge.Below(limit) }
func atLeast(limit float64) *aim { return judge.AtLeast(limit) }
func never() *aim                { return judge.Never() }

// report prints, and writes JSON lines.
type report struct {
	w      io.Writer
	file   *os.File // nil for none
	lines  *bufio.Writer
	missed int
	err    error // the first of writing lines
}

// line is one figure over all runs. Aim and reached are left out where there is none.
type line struct {
	Name    string    `json:"name"`
	Median  float64   `json:"median"`
	Unit    string    `json:"unit"`
	Runs    []float64 `json:"runs"`
	Aim     string    `json:"aim,omitempty"`
	Reached *bool     `json:"reached,omitempty"`
}

// timeLine is one moment of a run.
type timeLine struct {
	Timeline string  `json:"timeline"` // name of the measurement, and number of the run
	Seconds  float64 `json:"seconds"`
	Text     string  `json:"text"`
}

func newReport(w io.Writer, path string) (*report, error) {
	r := &report{w: w}
	if path != "" {
		f, err := os.Create(path)
		if err != nil {
			return nil, fmt.Errorf("MEASURE_JSON: %w", err)
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

func (r *report) put(x any) {
	if r.file == nil {
		return
	}
	text, err := json.Marshal(x)
	if err == nil {
		_, err = r.lines.Write(append(text, '\n'))
	}
	if r.err == nil {
		r.err = err
	}
}

func (r *report) say(format string, args ...any) { fmt.Fprintf(r.w, format+"\n", args...) }

// head says where it is measured.
func (r *report) head(runs int) {
	r.say("%d processors, load %s; %d runs of each, medians; everything on tmpfs", runtime.NumCPU(), machineLoad(), runs)
}

// machineLoad returns the averages of the runnable processes over 1, 5 and 15 minutes.
func machineLoad() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if fields := strings.Fields(string(raw)); err == nil && len(fields) >= 3 {
		return strings.Join(fields[:3], " ")
	}
	return "unknown"
}

// timeline prints what happened in a run, from its begin.
func (r *report) timeline(name string, began time.Time, moments []moment) {
	for _, m := range moments {
		s := m.at.Sub(began).Seconds()
		r.say("  %8.3f s  %s", s, m.text)
		r.put(timeLine{Timeline: name, Seconds: s, Text: m.text})
	}
}

// figures prints and writes what the runs of a measurement came to. Every run has the same figures.
func (r *report) figures(runs [][]figure) {
	if len(runs) == 0 {
		return
	}
	for i, f := range runs[0] {
		values := make([]float64, len(runs))
		for k := range runs {
			values[k] = runs[k][i].value
		}
		l := line{Name: f.name, Median: judge.Median(values), Unit: f.unit, Runs: values, Aim: f.aim.String()}
		verdict := ""
		if f.aim != nil {
			reached := f.aim.Reached(values)
			l.Reached = &reached
			if verdict = "reached"; !reached {
				verdict = "MISSED"
				r.missed++
			}
		}
		r.put(l)
		spread := ""
		if len(values) > 1 {
			spread = fmt.Sprintf("(%.4g … %.4g)", slices.Min(values), slices.Max(values))
		}
		r.say("%-46s %10.4g %-10s %-22s %-9s %s", f.name, l.Median, f.unit, spread, l.Aim, verdict)
	}
}
