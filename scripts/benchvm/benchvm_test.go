package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Every pair of every row is in one boot of its scene, and boots keep the budget unless one pair is longer.
func TestPlan(t *testing.T) {
	rows, err := choose("")
	if err != nil || len(rows) != len(allRows) {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	o := options{pairs: 5, runtime: 5 * time.Second, ramp: time.Second, linked: 30 * time.Second, budget: 100 * time.Second}
	seen := map[task]int{}
	for _, b := range plan(o, rows) {
		if b.estimate > o.budget && len(b.tasks) > 1 {
			t.Errorf("a boot of %d pairs takes %v", len(b.tasks), b.estimate)
		}
		for _, x := range b.tasks {
			seen[x]++
			if x.row.scene != b.scene {
				t.Errorf("%s in a boot of %s", x.row.name, b.scene)
			}
		}
	}
	for x, n := range seen {
		if n != 1 {
			t.Errorf("pair %d of %s is measured %d times", x.pair, x.row.name, n)
		}
	}
	if len(seen) != o.pairs*len(allRows) {
		t.Errorf("%d pairs of %d rows", len(seen), len(allRows))
	}
}

func TestRows(t *testing.T) {
	for _, r := range allRows {
		if (r.job == nil) == (r.pages == "") || rowNamed(r.name) == nil {
			t.Errorf("row %s has no load, or two", r.name)
		}
	}
	if _, err := choose("none"); err == nil || !strings.Contains(err.Error(), allRows[0].name) {
		t.Errorf("choose none: %v; want all names", err)
	}
}

// What was measured before a boot failed counts, and the failure is told.
func TestResults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results")
	const one = `{"costs":{"call":7,"clock":5,"trip":9}}` + "\n" + `{"row":"a","pair":{"own":{"value":3,"unit":"IOPS"},"peer":{"value":2,"unit":"IOPS"}}}` + "\n"
	for text, want := range map[string]string{
		one + `{"done":true}`:     "",
		one + `{"error":"it is"}`: "it is",
		one:                       "before it was done",
		"":                        "before it was done",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		found, there, err := readResults(path)
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if text != "" && (len(found["a"]) != 1 || found["a"][0].Own.Value != 3 || there == nil || *there != costs{7, 5, 9}) {
			t.Errorf("%q: %+v, %v", text, found, there)
		}
		if text == "" && there != nil {
			t.Errorf("costs out of nothing: %v", there)
		}
	}
}

func TestReport(t *testing.T) {
	var out bytes.Buffer
	r, err := newReport(&out, options{json: filepath.Join(t.TempDir(), "lines")})
	if err != nil {
		t.Fatal(err)
	}
	pairs := func(ratios ...float64) (all []pair) {
		for _, q := range ratios {
			all = append(all, pair{Own: measured{Value: q, Unit: "IOPS"}, Peer: measured{Value: 1, Unit: "IOPS"}})
		}
		return all
	}
	x := rowNamed("nbdkit/write-4k-qd1")
	r.row(x, pairs(0.9, 1.5, 0.96))
	r.row(x, pairs(0.9, 1.5, 0.94))
	r.row(x, nil)
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0.960 (0.900 … 1.500, 3 pairs) >= 0.95 reached", "0.940 (0.900 … 1.500, 3 pairs) >= 0.95 MISSED", "was not measured"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	if r.missed != 1 {
		t.Errorf("%d missed", r.missed)
	}
}

func TestParse(t *testing.T) {
	var out bytes.Buffer
	for _, bad := range [][]string{{"-pairs", "0"}, {"-size", "1"}, {"-runtime", "1ms"}, {"row"}, {"-unknown"}, {"-boot", "1s"}, {"-temp", "/dev/shm"}} {
		if _, err := parse(bad, &out); err == nil {
			t.Errorf("parse(%q) succeeds", bad)
		}
	}
	if o, err := parse([]string{"-pairs", "7", "-quick"}, &out); err != nil || o.pairs != 1 {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestParseDRBD(t *testing.T) {
	const text = `version: 8.4.11 (api:1/proto:86-101)
 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----
    ns:8192 nr:0 dw:8192 dr:0 al:10 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0
 1: cs:Connected ro:Secondary/Primary ds:UpToDate/UpToDate C r-----
    ns:0 nr:8192 dw:8192 dr:0 al:8 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0
`
	for old, c := range map[string]struct {
		new             string
		idle, connected bool
	}{
		"version": {"version", true, true}, " pe:0 ": {" pe:3 ", false, true}, " ap:0 ": {" ap:01 ", false, true},
		"cs:Connected ro:S": {"cs:Timeout ro:S", true, false},
	} {
		if idle, connected := parseDRBD(strings.Replace(text, old, c.new, 1)); idle != c.idle || connected != c.connected {
			t.Errorf("%q for %q: idle %v, connected %v", c.new, old, idle, connected)
		}
	}
}
