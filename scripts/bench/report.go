package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// maxMemory is what an agent may have resident at most, in bytes.
const maxMemory = int64(300) << 20

// report prints a table and writes the JSON lines.
type report struct {
	w       io.Writer
	o       options
	file    *os.File // nil for none
	lines   *bufio.Writer
	details []string
	err     error // the first of writing lines
}

// line is one figure. Where there is nothing to compare with, peer is empty and the other two are null.
type line struct {
	Name      string   `json:"name"`
	Value     float64  `json:"value"`
	Unit      string   `json:"unit"`
	Peer      string   `json:"peer"`
	PeerValue *float64 `json:"peer_value"`
	Ratio     *float64 `json:"ratio"`
}

func newReport(w io.Writer, o options) (*report, error) {
	r := &report{w: w, o: o}
	if o.json != "" {
		f, err := os.Create(o.json)
		if err != nil {
			return nil, fmt.Errorf("BENCH_JSON: %w", err)
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

func (r *report) emit(name string, value float64, unit string) {
	r.put(line{Name: name, Value: value, Unit: unit})
}

func (r *report) emitAgainst(name string, value float64, unit, peer string, peerValue, ratio float64) {
	r.put(line{Name: name, Value: value, Unit: unit, Peer: peer, PeerValue: &peerValue, Ratio: &ratio})
}

func (r *report) put(l line) {
	if r.file == nil {
		return
	}
	text, err := json.Marshal(l)
	if err == nil {
		_, err = r.lines.Write(append(text, '\n'))
	}
	if r.err == nil {
		r.err = err
	}
}

// head says what was measured where.
func (r *report) head(ctx context.Context) {
	version := func(args ...string) string {
		out, err := exec.CommandContext(ctx, args[0], args[1:]...).Output()
		if err != nil {
			return args[0]
		}
		first, _, _ := strings.Cut(string(out), "\n")
		return first
	}
	fmt.Fprintf(r.w, "%s; %s; %s; %d processors; load %s\n", version(r.o.program, "version"), version("nbdkit", "--version"),
		version("fio", "--version"), runtime.NumCPU(), load())
	fmt.Fprintf(r.w, "%d interleaved pairs of %v (after %v) on volumes of %d MiB, everything on tmpfs; medians, ratios of pairs\n\n",
		r.o.pairs, r.o.runtime, r.o.ramp, r.o.size>>20)
	fmt.Fprintf(r.w, "%-30s %14s %14s %7s  %-15s %5s\n", "row", "flotilla", "nbdkit file", "ratio", "(least … most)", "aim")
}

// load returns the averages of the runnable processes over 1, 5 and 15 minutes.
func load() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if fields := strings.Fields(string(raw)); err == nil && len(fields) >= 3 {
		return strings.Join(fields[:3], " ")
	}
	return "unknown"
}

// row reports the pairs of a row.
func (r *report) row(x row, parts []string, pairs []pair) {
	iops := func(p *pair) float64 { return p.own.IOPS }
	peer := func(p *pair) float64 { return p.peer.IOPS }
	r.against(x.name(), x.aim, pairs, iops, peer, "IOPS", peerName)
	if x.cluster == replicated.name {
		r.against(x.name()+"/applied", x.aim, pairs, func(p *pair) float64 { return p.applied }, peer, "IOPS", peerName)
		drain := median(pairs, func(p *pair) float64 { return p.drain.Seconds() })
		r.emit(x.name()+"/drain", drain, "s")
		r.detail("%s: everything was applied %.2f s after the run (a set's period is 1 s)", x.name(), drain)
	}
	ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
	own99, peer99 := median(pairs, func(p *pair) float64 { return ms(p.own.P99) }), median(pairs, func(p *pair) float64 { return ms(p.peer.P99) })
	r.emitAgainst(x.name()+"/p99", own99, "ms", peerName, peer99, own99/peer99)

	// Processor time of a request, of everybody who serves.
	requests := func(p *pair) float64 {
		if p.updates > 0 {
			return float64(p.updates)
		}
		return p.wholeWrite
	}
	seconds := (r.o.ramp + r.o.runtime).Seconds()
	var text []string
	for _, part := range parts {
		us := median(pairs, func(p *pair) float64 { return p.used[part].Seconds() * 1e6 / requests(p) })
		r.emit(x.name()+"/cpu/"+part, us, "us/request")
		text = append(text, fmt.Sprintf("%s %.1f", part, us))
	}
	all := median(pairs, func(p *pair) float64 { return p.used.total().Seconds() * 1e6 / requests(p) })
	peerAll := median(pairs, func(p *pair) float64 { return p.peerCPU.Seconds() * 1e6 / (p.peer.IOPS * seconds) })
	r.emitAgainst(x.name()+"/cpu", all, "us/request", peerName, peerAll, all/peerAll)
	r.detail("%s: processor time of a request in µs: %s; together %.1f, nbdkit %.1f; p99 %.2f ms, nbdkit %.2f ms",
		x.name(), strings.Join(text, ", "), all, peerAll, own99, peer99)
}

// against reports a figure of the pairs and its ratio to that of a peer.
func (r *report) against(name string, aim float64, pairs []pair, own, peer func(*pair) float64, unit, peerName string) {
	ratio := func(p *pair) float64 { return own(p) / peer(p) }
	least, most := ratio(&pairs[0]), ratio(&pairs[0])
	for i := range pairs {
		least, most = min(least, ratio(&pairs[i])), max(most, ratio(&pairs[i]))
	}
	a, b, q := median(pairs, own), median(pairs, peer), median(pairs, ratio)
	verdict := "reached"
	if q < aim {
		verdict = "missed"
	}
	fmt.Fprintf(r.w, "%-30s %9.0f %-4s %9.0f %-4s %7.3f  (%.3f … %.3f) %5.2f %s\n", name, a, unit, b, unit, q, least, most, aim, verdict)
	r.emitAgainst(name, a, unit, peerName, b, q)
}

// cluster reports what is true of all rows of a cluster.
func (r *report) cluster(c *agents, idle float64) error {
	var text []string
	for _, a := range c.members {
		peak, err := a.peak()
		if err != nil {
			return err
		}
		r.emitAgainst(c.kind.name+"/memory/"+a.name, float64(peak)/(1<<20), "MiB", "limit", float64(maxMemory>>20), float64(peak)/float64(maxMemory))
		word := ""
		if peak >= maxMemory {
			word = " (over the limit)"
		}
		text = append(text, fmt.Sprintf("%s %d%s", a.name, peak>>20, word))
	}
	r.emit(c.kind.name+"/idle", 100*idle, "% of a processor")
	r.detail("%s: peak resident memory in MiB (limit %d): %s; idle, all agents use %.1f %% of a processor",
		c.kind.name, maxMemory>>20, strings.Join(text, ", "), 100*idle)
	return nil
}

func (r *report) detail(format string, args ...any) {
	r.details = append(r.details, fmt.Sprintf(format, args...))
}

// foot prints what does not fit into the table.
func (r *report) foot() {
	fmt.Fprintln(r.w)
	for _, d := range r.details {
		fmt.Fprintln(r.w, d)
	}
	fmt.Fprintf(r.w, "load at the end %s\n", load())
}
