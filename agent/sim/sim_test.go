package sim

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"testing"
	"testing/cryptotest"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "replay this seed, with a trace")
	msgsFlag  = flag.Bool("messages", false, "with -seed: trace every message")
	seedsFlag = flag.Int("seeds", 0, "how many seeds to run (0: a few)")
	keepFlag  = flag.String("keep", "", "with -seed: what is left of the run, as -shrink prints it")
	shrinkMax = flag.Int("shrink", 0, "with -seed: look for a smaller run that fails in the same way, in at most this many runs")
	lenFlag   = flag.Duration("length", 0, "how long writes and faults last, instead of what the seed says")
	breakFlag = flag.String("break", "", "with -seed: a break of the core, see TestMutants")
	rareFlag  = flag.Bool("rare", false, "with -seed: as TestMutants runs what few runs do, see rareMutants")
	baseFlag  = flag.Uint64("seed-base", 1, "the first seed")
	partFlag  = flag.String("part", "1/1", "which part of the seeds, mutants and courses is run, such as 3/10: `make sim` divides the work so")
)

// inPart says whether the i-th of many, from 0 on, is in the part that is to be run.
func inPart(t *testing.T, i int) bool {
	t.Helper()
	var part, parts int
	if n, err := fmt.Sscanf(*partFlag, "%d/%d", &part, &parts); n != 2 || err != nil || part < 1 || part > parts {
		t.Fatalf("-part %s is not like 3/10", *partFlag)
	}
	return i%parts == part-1
}

// run runs one seed with Raft's elections under it too.
func run(t *testing.T, opt Options) (Stats, error) {
	cryptotest.SetGlobalRandom(t, opt.Seed)
	return Run(opt)
}

// runOne runs the seed of the command line, shrunk first if that is wanted, with a trace.
func runOne(t *testing.T) {
	red, err := ParseReduction(*keepFlag)
	if err != nil {
		t.Fatal(err)
	}
	opt := Options{Seed: *seedFlag, Messages: *msgsFlag, Reduce: red, Length: *lenFlag, Rare: *rareFlag}
	if *breakFlag != "" {
		opt.Mutants = map[string]bool{*breakFlag: true}
	}
	if *shrinkMax > 0 {
		quiet := opt
		quiet.Messages = false
		s := Shrink(quiet, *shrinkMax, func(o Options) (Stats, error) { return run(t, o) })
		defer func() { t.Log(s.describe()) }()
		opt.Reduce = s.Options.Reduce
	}
	opt.Trace = func(s string) { fmt.Fprintln(os.Stderr, s) }
	st, err := run(t, opt)
	t.Logf("seed %d: %v", opt.Seed, st)
	if err != nil {
		t.Errorf("seed %d: %v", opt.Seed, err)
	}
}

// TestSeeds runs whole clusters under random faults. A failing seed replays with -seed.
func TestSeeds(t *testing.T) {
	if *seedFlag != 0 {
		runOne(t)
		return
	}
	n, base := *seedsFlag, *baseFlag
	if v, err := strconv.Atoi(os.Getenv("SEEDS")); err == nil && n == 0 {
		n = v
	}
	if v, err := strconv.ParseUint(os.Getenv("SEED_BASE"), 10, 64); err == nil && base == 1 {
		base = v
	}
	if n == 0 {
		n = 10
	}
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	var total Stats
	failed := 0
	ran := 0
	for i := range n {
		if !inPart(t, i) {
			continue
		}
		seed := base + uint64(i)
		st, err := run(t, Options{Seed: seed, Length: *lenFlag})
		total.add(st)
		if ran++; ran%500 == 0 {
			t.Logf("%d seeds from %d: %v", ran, base, total)
		}
		if err != nil {
			t.Errorf("seed %d: %v\nreplay: go test ./agent/sim -run TestSeeds -seed %[1]d -length %[3]v; a shorter run like it: add -shrink 300", seed, err, *lenFlag)
			if failed++; failed >= 5 {
				break
			}
		}
	}
	t.Logf("%d seeds, part %s of %d from %d: %v", ran, *partFlag, n, base, total)
}
