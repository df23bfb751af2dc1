package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// fault is one thing that goes wrong, or one that an operator does. The plan of a run is drawn from the seed by itself
// before the run begins, and each fault draws what it needs later from a stream of its own: when one is left out, all
// others stay what they are, and the course is the same up to there.
type fault struct {
	at   time.Duration
	kind kind
	seed uint64 // of its own stream
}

// kind says what a fault does.
type kind int

// Those before kill hold from the beginning to the end of the faults, the others happen at their time.
const (
	lossyLinks     kind = iota // messages are lost
	repeatedSends              // messages come twice
	survivorAway               // when a component was lost, another may be cut off
	applyStalls                // a component stands still when it is about to write to a target
	lastingCut                 // a link stays cut when the faults end
	clocksDrift                // every host's clock has its own rate
	kill                       // a process ends, perhaps with its host's power, and comes back
	slowHost                   // a host's process is late
	stallHost                  // a component stands still, as a paused virtual machine does
	drainHost                  // a component is asked to leave, or to stay after all
	relabelHost                // a component gets another weight or failure domain
	fullJournal                // a journal has no room for a while
	cutLink                    // nothing goes from one host to another, one way or both
	isolateHost                // nobody reaches a host
	clockJumps                 // a host's clock is suddenly ahead
	slowDisk                   // a host's disks are slow for a while
	journalRots                // a frame in a journal is damaged, which is found when it is read
	journalFails               // a write to a journal fails
	sourceFails                // a primary's devices refuse writes, reads and flushes for a while
	targetFails                // so do a secondary's
	joinCluster                // a new component joins
	removeLost                 // a component that was lost is removed from the cluster
	takeOutPrimary             // a primary's volumes are taken out of the group
	allowInPlace               // an operator allows the targets to be inconsistent until a resync is whole
	promoteGroup               // an operator promotes
	growVolume                 // an operator enlarges a volume
	loseMajority               // a majority of the voters is gone for good, and an operator begins a generation with the others
	flipBits                   // bits of a target change behind everybody's back
	checkGroup                 // an operator has targets compared with their sources
	recopyVolume               // an operator has a volume copied to another, empty target
	siteOutage                 // nothing goes between a primary and all others for long
	targetOutage               // nor between a secondary and all others
	kinds
)

var kindNames = [kinds]string{
	"lossy-links", "repeated-sends", "survivor-away", "apply-stalls", "lasting-cut", "clocks-drift", "kill", "slow-host", "stall-host", "drain", "relabel", "full-journal",
	"cut-link", "isolate-host", "clock-jumps", "slow-disk", "journal-rots", "journal-fails", "source-fails", "target-fails", "join", "remove-lost", "take-out", "allow-inconsistent", "promote", "grow", "recover", "flip", "check", "recopy", "site-outage", "target-outage",
}

func (k kind) String() string { return kindNames[k] }

// weights say how often each of the faults that happen at a time is drawn.
var weights = [kinds]int{
	kill: 80, slowHost: 12, stallHost: 8, drainHost: 6, relabelHost: 6, fullJournal: 6, cutLink: 6, isolateHost: 5,
	clockJumps: 12, slowDisk: 5, journalRots: 8, journalFails: 6, sourceFails: 5, targetFails: 6, joinCluster: 4, removeLost: 8, takeOutPrimary: 3, allowInPlace: 2,
}

// plan draws the faults of a run that lasts for a time. Those of some kinds are drawn from streams of their own: the others
// are what they are without them.
func plan(seed uint64, length time.Duration, rare bool) []fault {
	fs := planOften(seed, length)
	replaces := true
	if r := rand.New(rand.NewPCG(seed, 0x7265636f766572)); r.Float64() < 0.1 {
		replaces = false // a new generation may not know which target is another
		fs = append(fs, fault{at: length/5 + time.Duration(r.Int64N(int64(length*3/5)+1)), kind: loseMajority, seed: r.Uint64()})
	}
	for range growths(seed) {
		r := rand.New(rand.NewPCG(seed, 0x67726f77+uint64(len(fs))))
		fs = append(fs, fault{at: length/20 + time.Duration(r.Int64N(int64(length*4/5)+1)), kind: growVolume, seed: r.Uint64()})
	}
	fs = append(fs, planChecks(seed, length, replaces, rare)...)
	return append(fs, planOutage(seed, length, rare)...)
}

// planChecks draws checks, each in the neighbourhood of damage that it may find, and copies to other targets.
func planChecks(seed uint64, length time.Duration, replaces, rare bool) (fs []fault) {
	r := rand.New(rand.NewPCG(seed, 0x636865636b73))
	at := func() time.Duration { return 1 + time.Duration(r.Int64N(int64(length))) }
	add := func(at time.Duration, k kind) { fs = append(fs, fault{at: at, kind: k, seed: r.Uint64()}) }
	if r.Float64() < 0.4 || rare {
		for range 1 + r.IntN(3) {
			for range r.IntN(3) {
				add(at(), flipBits)
			}
			add(at(), checkGroup)
		}
	}
	if (r.Float64() < 0.12 || rare) && replaces {
		add(at(), recopyVolume)
	}
	return fs
}

// growths is how often an operator enlarges a volume in a run.
func growths(seed uint64) int {
	if r := rand.New(rand.NewPCG(seed, 0x6c6172676572)); r.IntN(3) == 0 {
		return 1 + r.IntN(3)
	}
	return 0
}

// outageLength is how long writes and faults go on at least where there is an outage.
const outageLength = 9 * time.Second

// planOutage draws an outage that is longer than the others, early enough for a resync to follow.
func planOutage(seed uint64, length time.Duration, rare bool) []fault {
	r := rand.New(rand.NewPCG(seed, 0x6f7574616765))
	if r.Float64() >= 0.1 && !rare {
		return nil
	}
	return []fault{{at: length/8 + time.Duration(r.Int64N(int64(length/4)+1)), kind: siteOutage + kind(r.IntN(2)), seed: r.Uint64()}}
}

func planOften(seed uint64, length time.Duration) []fault {
	r := rand.New(rand.NewPCG(seed, 0x6661756c7473))
	var fs []fault
	add := func(at time.Duration, k kind) { fs = append(fs, fault{at: at, kind: k, seed: r.Uint64()}) }
	often := func(k kind, p float64) {
		if r.Float64() < p {
			add(0, k)
		}
	}
	often(lossyLinks, 0.5)
	often(repeatedSends, 0.5)
	often(survivorAway, 0.9)
	often(applyStalls, 0.9)
	often(lastingCut, 0.4)
	often(clocksDrift, 0.5)
	total := 0
	for _, n := range weights {
		total += n
	}
	promoteAt := time.Duration(-1)
	if r.Float64() < 0.4 {
		promoteAt = length/4 + time.Duration(r.Int64N(int64(length*3/4)+1))
	}
	for at := time.Duration(0); ; {
		at += 50*time.Millisecond + time.Duration(r.Int64N(int64(1150*time.Millisecond)))
		if promoteAt >= 0 && at >= promoteAt {
			add(promoteAt, promoteGroup)
			promoteAt = -1
		}
		if at >= length {
			return fs
		}
		n, k := r.IntN(total), kind(0)
		for ; n >= weights[k]; k++ {
			n -= weights[k]
		}
		add(at, k)
	}
}

// Faults counts how often each kind of fault took effect.
type Faults [kinds]int

// String lists the counts.
func (f Faults) String() string {
	var out []string
	for k, n := range f {
		out = append(out, fmt.Sprintf("%d %s", n, kind(k)))
	}
	return strings.Join(out, ", ")
}

// Reduction leaves things out of a seed's run, so that what is left can be read. Its zero leaves nothing out.
type Reduction struct {
	Length     time.Duration // of writes and faults; 0 is the seed's
	Chosen     bool          // only Faults happen
	Faults     []int         // by their numbers in the plan, ascending
	Components int           // at most that many, 0 for as many as the seed has
	Primaries  int
	Volumes    int
	Clients    int // of each group
	Groups     int
}
