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
	baseFlag  = flag.Uint64("seed-base", 1, "the first seed")
)

// run runs one seed with Raft's elections under it too.
func run(t *testing.T, opt Options) (Stats, error) {
	cryptotest.SetGlobalRandom(t, opt.Seed)
	return Run(opt)
}

// TestSeeds runs whole clusters under random faults. A failing seed replays with -seed.
func TestSeeds(t *testing.T) {
	if *seedFlag != 0 {
		st, err := run(t, Options{Seed: *seedFlag, Messages: *msgsFlag, Trace: func(s string) { fmt.Fprintln(os.Stderr, s) }})
		t.Logf("seed %d: %v", *seedFlag, st)
		if err != nil {
			t.Fatalf("seed %d: %v", *seedFlag, err)
		}
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
	for i := range n {
		seed := base + uint64(i)
		st, err := run(t, Options{Seed: seed})
		total.add(st)
		if (i+1)%500 == 0 {
			t.Logf("%d seeds from %d: %v", i+1, base, total)
		}
		if err != nil {
			t.Errorf("seed %d: %v\nreplay: go test ./agent/sim -run TestSeeds -seed %s", seed, err, strconv.FormatUint(seed, 10))
			if failed++; failed >= 5 {
				break
			}
		}
	}
	t.Logf("%d seeds from %d: %v", n, base, total)
}

func (s *Stats) add(o Stats) {
	s.Digest ^= o.Digest
	s.Events += o.Events
	s.Writes += o.Writes
	s.Sets += o.Sets
	s.Checks += o.Checks
	s.Points += o.Points
	s.Kills += o.Kills
	s.Losses += o.Losses
	s.Left += o.Left
	s.GiveUps += o.GiveUps
	s.Seals += o.Seals
	s.Voids += o.Voids
	s.Promotes += o.Promotes
	s.Resyncs += o.Resyncs
	s.LastingCuts += o.LastingCuts
	s.Copies += o.Copies
	s.PowerCuts += o.PowerCuts
	s.SyncRuns += o.SyncRuns
	s.Virtual += o.Virtual
	s.MaxHold = max(s.MaxHold, o.MaxHold)
	s.MaxBlocked = max(s.MaxBlocked, o.MaxBlocked)
}
