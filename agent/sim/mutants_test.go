package sim

import (
	"os"
	"testing"
)

// mutants are deliberate breaks, each of which the oracle must see within the seeds given, from 1 on. Where a break hides
// well, the number is larger. The one of them that caught it last is tried first, and then the others: it saves time and
// decides nothing.
var mutants = []struct {
	name  string
	seeds int
	first int
	what  string
}{
	{"drop-mirror", 10, 1, "the owner says held without a mirror"},
	{"apply-half", 40, 1, "an owner applies half of its share of a set"},
	{"cut-without-pause", 60, 18, "primaries do not stand still for a cut"},
	{"reuse-seqs", 60, 2, "a primary takes its old incarnation up again after a restart"},
	{"two-sets-at-once", 60, 4, "sets are applied without waiting for those before"},
	{"target-takes-all", 400, 75, "the target takes writes of any set and view"},
	{"no-giving-back", 600, 30, "a mirror does not give back what its owner lost in a crash"},
	{"journal-not-synced", 20, 1, "held is said before the journal is flushed"},
	{"commit-before-complete", 40, 2, "a set is committed before its lines are complete"},
	{"revoked-accepted", 150, 4, "updates of an ended incarnation are taken"},
	{"no-remirror", 150, 4, "after a loss the survivor does not mirror anew"},
	{"seal-not-cut", 200, 4, "what lies above a seal stays"},
	{"seal-without-all", 150, 30, "a seal does not wait for every member"},
	{"broken-counts", 60, 4, "a set in a resync is taken as a recovery point"},
	{"target-not-flushed", 60, 1, "applied is said before the target is flushed"},
	{"clean-without-flush", 400, 67, "bits are cleared before the source is flushed"},
	{"forward-held-once", 100, 4, "a mirror says held of what it has not brought to the owner"},
	{"no-relay", 100, 30, "what does not go straight does not go over others"},
	{"shorter-truth", 300, 4, "a component goes on with what it can read of a damaged journal"},
	{"free-every-group", 20, 4, "what one group has applied is forgotten of the others, too"},
	{"generations-mix", 300, 2, "agents of two generations talk to each other"},
	{"fold-unbound", 150, 42, "a seal may separate a folded update from the one that absorbed it"},
	{"fold-across-sets", 60, 4, "an update is folded into one of the next set"},
	{"fold-sent", 150, 1, "an update that was sent is folded"},
	{"spill-mixes", 20, 4, "what was spilled comes back as another update's"},
	{"degrade-unrecorded", 60, 8, "a sync group acknowledges what is not held before it is recorded that it is degraded"},
	{"synchronous-unheld", 450, 146, "a degraded group is synchronous again before all that it acknowledged is held"},
	{"grow-unapplied", 100, 9, "a volume has grown before its target has the new range"},
	{"grow-not-zeroed", 60, 9, "a source shows what was behind the volume's end"},
	{"check-no-overlay", 40, 1, "a check is compared without what its set writes there before it"},
	{"mend-without-copy", 40, 4, "what differs is taken as repaired without a copy"},
	{"recopy-keeps-bits", 100, 31, "bits of another target count"},
	{"suspend-forgets", 60, 4, "bits of what was under way are forgotten when a group is suspended"},
	{"bits-after-write", 400, 53, "the source is written before its bit is durable"},
	{"kept-over-write", 60, 4, "what a resync has copied stays kept when it is written"},
	{"kept-unheld", 170, 56, "what a resync has copied is kept before it is held"},
	{"kept-without-flush", 660, 219, "what a resync has copied is kept before the source is flushed"},
	{"check-unlocked", 40, 1, "a check reads a range in which a write is under way"},
	{"check-later-answered", 120, 38, "a check is compared with a target that may have later writes of its set"},
}

// rareMutants break what few runs do: they are looked for in runs that all do it.
var rareMutants = map[string]bool{
	"check-no-overlay": true, "mend-without-copy": true, "suspend-forgets": true, "check-unlocked": true, "check-later-answered": true,
}

// TestMutants proves that the simulator sees: each break is caught, and the seeds it took are printed. It runs with `make
// sim`, not under the race detector, which has nothing to find in one goroutine and takes ten times as long.
func TestMutants(t *testing.T) {
	if os.Getenv("SEEDS") == "" {
		t.Skip("run by `make sim`, which sets SEEDS")
	}
	type unbroken struct {
		seed int
		rare bool
	}
	sound := map[unbroken]bool{} // several are caught by the same seeds, and some of those run long
	for i, m := range mutants {
		if !inPart(t, i) {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			if m.first < 1 || m.first > m.seeds {
				t.Fatalf("the first seed to try, %d, is none of its %d", m.first, m.seeds)
			}
			for i := range m.seeds + 1 {
				seed := i
				if i == 0 {
					seed = m.first
				} else if i == m.first {
					continue
				}
				opt := Options{Seed: uint64(seed), Rare: rareMutants[m.name]}
				broken := opt
				broken.Mutants = map[string]bool{m.name: true}
				if _, err := run(t, broken); err != nil {
					if same := (unbroken{seed, opt.Rare}); !sound[same] {
						if _, err := run(t, opt); err != nil {
							t.Fatalf("seed %d fails without a break too: %v", seed, err)
						}
						sound[same] = true
					}
					t.Logf("%s: caught by seed %d: %.200v", m.what, seed, err)
					if i > 0 {
						t.Logf("not by seed %d: make %d the first", m.first, seed)
					}
					return
				}
			}
			t.Errorf("%s: not caught in %d seeds", m.what, m.seeds)
		})
	}
}
