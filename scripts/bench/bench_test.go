package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flotilla/internal/fio"
)

func TestParseCPU(t *testing.T) {
	const stat = "4711 (a) b (c)) S 1 4711 4711 0 -1 4194560 1 2 3 4 150 25 9 9 20 0 11 0 12345 1 2 3"
	got, err := parseCPU(stat)
	if err != nil || got != 1750*time.Millisecond {
		t.Errorf("parseCPU = %v, %v; want 1.75 s: 150 and 25 ticks", got, err)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S 1 2 3", strings.Replace(stat, "150", "x", 1)} {
		if got, err := parseCPU(bad); err == nil {
			t.Errorf("parseCPU(%q) = %v, want an error", bad, got)
		}
	}
}

func TestParsePeak(t *testing.T) {
	got, err := parsePeak("Name:\tx\nVmPeak:\t  99 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n")
	if err != nil || got != 2<<20 {
		t.Errorf("parsePeak = %d, %v; want 2 MiB", got, err)
	}
	for _, bad := range []string{"", "VmRSS:\t 1 kB\n", "VmHWM:\t many kB\n"} {
		if _, err := parsePeak(bad); err == nil {
			t.Errorf("parsePeak(%q) succeeds", bad)
		}
	}
}

func TestMedian(t *testing.T) {
	of := func(values ...float64) float64 {
		pairs := make([]pair, len(values))
		for i, v := range values {
			pairs[i].own.IOPS = v
		}
		return median(pairs, func(p *pair) float64 { return p.own.IOPS })
	}
	if a, b, c := of(3, 1, 2), of(4, 1, 3, 2), of(7); a != 2 || b != 2.5 || c != 7 {
		t.Errorf("medians %v, %v, %v; want 2, 2.5, 7", a, b, c)
	}
}

// TestCompare: a copy that is wrong in one byte, or too short, is found.
func TestCompare(t *testing.T) {
	const size = 2<<20 + 4096
	whole := bytes.Repeat([]byte{7}, size)
	read := func(p []byte) io.Reader { return bytes.NewReader(p) }
	if err := compare(read(whole), read(bytes.Clone(whole))); err != nil {
		t.Errorf("equal contents: %v", err)
	}
	for _, at := range []int{0, 1<<20 - 1, 1 << 20, size - 1} {
		other := bytes.Clone(whole)
		other[at]++
		if err := compare(read(whole), read(other)); !errors.Is(err, errDiffers) {
			t.Errorf("byte %d differs: %v", at, err)
		}
	}
	for _, n := range []int{0, 1 << 20, size - 1} {
		if err := compare(read(whole), read(whole[:n])); !errors.Is(err, errDiffers) {
			t.Errorf("only %d bytes: %v", n, err)
		}
	}
}

// TestReport: each figure is one JSON object in a line with the keys that were agreed on.
func TestReport(t *testing.T) {
	var table bytes.Buffer
	o := options{json: filepath.Join(t.TempDir(), "figures"), ramp: time.Second, runtime: time.Second}
	r, err := newReport(&table, o)
	if err != nil {
		t.Fatal(err)
	}
	pairs := make([]pair, 3)
	for i := range pairs {
		pairs[i] = pair{
			own: fio.Outcome{IOPS: 300, P99: 2}, peer: fio.Outcome{IOPS: 1000, P99: 1}, applied: 100, updates: 600, peerCPU: time.Second,
			used: usage{"primary": time.Second, "components": time.Second},
		}
	}
	r.row(allRows[len(allRows)-1], []string{"primary", "components"}, pairs)
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(o.json)
	if err != nil {
		t.Fatal(err)
	}
	ratios := map[string]float64{}
	for l := range strings.Lines(string(text)) {
		var object map[string]any
		if err := json.Unmarshal([]byte(l), &object); err != nil {
			t.Fatalf("%q: %v", l, err)
		}
		for _, key := range []string{"name", "value", "unit", "peer", "peer_value", "ratio"} {
			if _, ok := object[key]; !ok {
				t.Errorf("%q has no %s", l, key)
			}
		}
		if q, ok := object["ratio"].(float64); ok {
			ratios[object["name"].(string)] = q
		}
	}
	if name := allRows[len(allRows)-1].name(); ratios[name] != 0.3 || ratios[name+"/applied"] != 0.1 {
		t.Errorf("ratios %v; want 0.3 for %s and 0.1 with the applying", ratios, name)
	}
	for _, want := range []string{"0.300", "reached", "missed"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, &table)
		}
	}
}

func TestChoose(t *testing.T) {
	if rows, err := choose("replicated, randread"); err != nil || len(rows) != 2 {
		t.Errorf("choose = %v, %v; want 2 rows", rows, err)
	}
	if rows, err := choose(""); err != nil || len(rows) != len(allRows) {
		t.Errorf("choose all = %v, %v", rows, err)
	}
	if _, err := choose("none"); err == nil || !strings.Contains(err.Error(), rowNames()) {
		t.Errorf("choose none: %v; want an error with all names", err)
	}
}

// TestMissingTools: what is missing is named with its Debian package.
func TestMissingTools(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := checkTools(t.Context(), options{program: "/none", temp: "/proc", size: 1 << 20})
	for _, want := range []string{"apt-get install fio", "apt-get install nbdkit", "make build", "not on tmpfs"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q in it", err, want)
		}
	}
}

func TestParseFlags(t *testing.T) {
	t.Setenv("BENCH_JSON", "/x")
	var out bytes.Buffer
	o, err := parse([]string{"-pairs", "7", "-size", "64"}, &out)
	if err != nil || o.pairs != 7 || o.size != 64<<20 || o.json != "/x" {
		t.Errorf("parse = %+v, %v", o, err)
	}
	for _, bad := range [][]string{{"-pairs", "0"}, {"-size", "1"}, {"-runtime", "1ms"}, {"row"}, {"-unknown"}} {
		if _, err := parse(bad, &out); err == nil {
			t.Errorf("parse(%q) succeeds", bad)
		}
	}
}

// TestProcess: a child is stopped and reaped, one that ends by itself is noticed, and files have the size and are no zeroes.
func TestProcess(t *testing.T) {
	p, err := startProcess("sleeper", "sleep", "1000")
	if err != nil {
		t.Skipf("no sleep here: %v", err)
	}
	if err := errors.Join(p.alive(), p.stop()); err != nil {
		t.Error(err)
	}
	if err := p.alive(); err == nil {
		t.Error("a child that was stopped is said to be alive")
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := fill(image, 1<<20+100); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(image); err != nil || len(data) != 1<<20+100 || bytes.Contains(data, make([]byte, 64)) {
		t.Errorf("%d bytes, %v; want 1 MiB and 100 bytes without a run of zeroes", len(data), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := until(ctx, time.Hour, "it does not come", func() (bool, error) { return false, nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("until = %v after its context has ended", err)
	}
}
