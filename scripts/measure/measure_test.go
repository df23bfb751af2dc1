package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAims(t *testing.T) {
	for _, tc := range []struct {
		aim    *aim
		values []float64
		want   bool
	}{
		{below(50), []float64{49.9}, true},
		{below(50), []float64{50}, false},
		{below(50), []float64{10, 49, 300}, true}, // the median counts
		{below(50), []float64{10, 51, 300}, false},
		{atLeast(0.85), []float64{0.85}, true},
		{atLeast(0.85), []float64{0.9, 0.84, 0.1}, false},
		{never(), []float64{0, 0, 0}, true},
		{never(), []float64{0, 0, 1}, false}, // the worst counts
	} {
		if got := tc.aim.reached(tc.values); got != tc.want {
			t.Errorf("%v of %v: %v", tc.aim, tc.values, got)
		}
	}
}

func TestReport(t *testing.T) {
	var text bytes.Buffer
	path := filepath.Join(t.TempDir(), "lines")
	r, err := newReport(&text, path)
	if err != nil {
		t.Fatal(err)
	}
	r.timeline("x/1", time.Unix(10, 0), []moment{{time.Unix(12, 5e8), "it happens"}})
	r.figures([][]figure{
		{{"x/a", 3, "ms", below(5)}, {"x/b", 0, "", nil}},
		{{"x/a", 9, "ms", below(5)}, {"x/b", 0, "", nil}},
		{{"x/a", 8, "ms", below(5)}, {"x/b", 0, "", nil}},
	})
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2.500 s  it happens", "(3 … 9)", "MISSED"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, &text)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	var l line
	if err := json.Unmarshal([]byte(lines[1]), &l); err != nil || len(lines) != 3 || l.Median != 8 || len(l.Runs) != 3 || l.Aim != "< 5" || l.Reached == nil || *l.Reached {
		t.Errorf("%v: %s", err, raw)
	}
	if r.missed != 1 {
		t.Errorf("%d aims missed", r.missed)
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"-quick", "-components", "2, 3", "-only", "kill,cut"}, io.Discard)
	if err != nil || o.cuts != 50 || len(o.counts) != 2 || o.counts[1] != 3 {
		t.Errorf("%+v, %v", o, err)
	}
	if m, err := choose(o.only); err != nil || len(m) != 3 || m[2].name != "cut" {
		t.Errorf("%v, %v", m, err)
	}
	for _, bad := range [][]string{{"x"}, {"-runs", "0"}, {"-rate", "0"}, {"-period", "1ms"}, {"-components", "2,x"}, {"-components", "1"}, {"-link", "0"}, {"-none"}, {"-copy", "9"}, {"-data", "0"}} {
		if _, err := parse(bad, io.Discard); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := choose("none"); err == nil {
		t.Error("a measurement that is none was taken")
	}
}

func TestReadHolds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	text := `{"time":"2026-01-01T00:00:01Z","level":"DEBUG","msg":"cut.hold","group":1,"set":7,"seconds":0.5,"stood":true}
{"time":"2026-01-01T00:00:02Z","level":"DEBUG","msg":"cut.hold","group":1,"set":8,"seconds":0.00025,"stood":true}
{"time":"2026-01-01T00:00:03Z","level":"INFO","msg":"incarnation.open","group":1,"set":"x"}
no JSON
{"time":"2026-01-01T00:00:04Z","level":"DEBUG","msg":"cut.hold","group":1,"set":0,"seconds":0.05,"stood":false}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	holds, err := readHolds(path, time.Date(2026, 1, 1, 0, 0, 1, 5e8, time.UTC))
	if err != nil || len(holds) != 2 || holds[0].Set != 8 || holds[0].Seconds != 0.00025 || !holds[0].Stood || holds[1].Stood {
		t.Errorf("%+v, %v", holds, err)
	}
}

func TestSameFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	content := randomBytes(3<<20 + 5)
	a, same := write("a", content), write("same", content)
	other := bytes.Clone(content)
	other[2<<20] ^= 1
	if err := sameFiles(a, same); err != nil {
		t.Error(err)
	}
	zeroes, hole := write("zeroes", make([]byte, 4<<20)), write("hole", nil)
	if err := errors.Join(os.Truncate(hole, 4<<20), sameFiles(zeroes, hole), sameFiles(hole, zeroes)); err != nil {
		t.Errorf("a hole reads as zeroes: %v", err)
	}
	if err := sameFiles(hole, a); !errors.Is(err, errDiffers) {
		t.Errorf("a hole and data: %v", err)
	}
	for _, path := range []string{write("other", other), write("short", content[:3<<20]), write("shorter", content[:5])} {
		if err := sameFiles(a, path); !errors.Is(err, errDiffers) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// smallRun are the options of a run that takes seconds, in a directory that must be empty at the end.
func smallRun(t *testing.T) options {
	t.Helper()
	if testing.Short() {
		t.Skip("it runs a cluster of processes")
	}
	program := filepath.Join(t.TempDir(), "flotilla")
	if out, err := exec.Command("go", "build", "-o", program, "flotilla/cmd/flotilla").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir, err := os.MkdirTemp("", "fm") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("left behind: %v, %v", entries, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return options{program: program, temp: dir, rate: 200, duration: time.Second, logs: true, pages: databasePages(64)}
}

// A component dies and returns: no write fails, and the copy is right. How long it takes is not judged here.
func TestKill(t *testing.T) {
	o := smallRun(t)
	var text bytes.Buffer
	rep, err := newReport(&text, "")
	if err != nil {
		t.Fatal(err)
	}
	figures, err := killAsync(t.Context(), o, rep, "test")
	t.Logf("%s", &text)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]float64{}
	for _, f := range figures {
		seen[f.name] = f.value
	}
	if seen["kill-async/failed writes"] != 0 || seen["kill-async/writes"] < 200 || seen["kill-async/deaths"] < 1 || seen["kill-async/longest"] <= 0 {
		t.Errorf("%+v", seen)
	}
}

// missed runs a measurement and returns the names of the figures that miss their aim.
func missed(t *testing.T, m func(*report) ([]figure, error)) (names []string) {
	t.Helper()
	var text bytes.Buffer
	rep, err := newReport(&text, "")
	if err != nil {
		t.Fatal(err)
	}
	figures, err := m(rep)
	rep.figures([][]figure{figures})
	t.Logf("%s", &text)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range figures {
		if f.aim != nil && !f.aim.reached([]float64{f.value}) {
			names = append(names, f.name)
		}
	}
	return names
}

// A volume of 1 TiB with little data is copied, and only what it has is read and sent. A trim reaches the target's disk.
func TestSparse(t *testing.T) {
	o := smallRun(t)
	o.data = 32
	if names := missed(t, func(rep *report) ([]figure, error) { return sparse(t.Context(), o, rep, "test") }); len(names) > 0 {
		t.Errorf("missed: %q", names)
	}
}

// The primary dies at each tenth of a first copy, and of a resync, which go on where they were.
func TestResume(t *testing.T) {
	for _, resync := range []bool{false, true} {
		o := smallRun(t)
		o.copy = 80
		if names := missed(t, func(rep *report) ([]figure, error) { return interrupt(t.Context(), o, rep, "test", "primary", resync) }); len(names) > 0 {
			t.Errorf("resync %v: missed: %q", resync, names)
		}
	}
}

// Whatever is under way when it is interrupted, nothing stays.
func TestInterrupted(t *testing.T) {
	o := smallRun(t)
	ctx, interrupt := context.WithTimeout(t.Context(), 4*time.Second)
	defer interrupt()
	rep, err := newReport(io.Discard, "")
	if err != nil {
		t.Fatal(err)
	}
	o.duration, o.logs = time.Hour, false
	if figures, err := killSync(ctx, o, rep, "test"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, %v", figures, err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte(o.temp+"/")) { // otherwise it has ended meanwhile
			t.Errorf("%s still runs: %q", path, line)
		}
	}
}
