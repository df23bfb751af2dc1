package sim

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// String writes a reduction the way ParseReduction reads it.
func (r Reduction) String() string {
	var out []string
	if r.Length > 0 {
		out = append(out, "length="+r.Length.String())
	}
	if r.Chosen {
		var nos []string
		for _, i := range r.Faults {
			nos = append(nos, strconv.Itoa(i))
		}
		out = append(out, "faults="+strings.Join(nos, "+"))
	}
	for _, f := range r.counts() {
		if *f.n > 0 {
			out = append(out, fmt.Sprintf("%s=%d", f.name, *f.n))
		}
	}
	return strings.Join(out, ",")
}

type count struct {
	name string
	n    *int
}

func (r *Reduction) counts() []count {
	return []count{{"components", &r.Components}, {"primaries", &r.Primaries}, {"volumes", &r.Volumes}, {"clients", &r.Clients}, {"groups", &r.Groups}}
}

// ParseReduction reads what String writes: length=1.5s,faults=0+3+7,components=2,primaries=1,volumes=1,clients=1. What is not
// named stays whole.
func ParseReduction(text string) (Reduction, error) {
	var r Reduction
	for part := range strings.SplitSeq(text, ",") {
		if part == "" {
			continue
		}
		key, value, _ := strings.Cut(part, "=")
		var err error
		switch key {
		case "length":
			r.Length, err = time.ParseDuration(value)
		case "faults":
			r.Chosen = true
			for no := range strings.SplitSeq(value, "+") {
				if no == "" {
					continue
				}
				var i int
				if i, err = strconv.Atoi(no); err != nil {
					break
				}
				r.Faults = append(r.Faults, i)
			}
			slices.Sort(r.Faults)
		default:
			k := slices.IndexFunc(r.counts(), func(c count) bool { return c.name == key })
			if k < 0 {
				return r, fmt.Errorf("read reduction: %q is not length, faults, components, primaries, volumes, clients or groups", key)
			}
			*r.counts()[k].n, err = strconv.Atoi(value)
		}
		if err != nil {
			return r, fmt.Errorf("read reduction %q: %w", part, err)
		}
	}
	return r, nil
}

// Shrunk is the smallest run found that fails as the first one did.
type Shrunk struct {
	Options Options
	Err     error
	Stats   Stats
	Runs    int // that were tried
}

// describe says what is left, and how to replay it.
func (s Shrunk) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "after %d runs: %d components, %d primaries, %d volumes, %d clients, %d groups, %v of writes, %d events; %d faults:\n",
		s.Runs, s.Stats.Components, s.Stats.Primaries, s.Stats.Volumes, s.Stats.Clients, s.Stats.Groups, s.Stats.Length, s.Stats.Events, len(s.Stats.Happened))
	planned := plan(s.Options.Seed, s.Stats.Planned, s.Options.Rare)
	for _, i := range s.Stats.Happened {
		fmt.Fprintf(&b, "  %d: %s at %v\n", i, planned[i].kind, planned[i].at)
	}
	for name := range s.Options.Mutants {
		fmt.Fprintf(&b, "  with the break %s\n", name)
	}
	fmt.Fprintf(&b, "%v\nreplay: go test ./agent/sim -run TestSeeds -seed %d -keep %q", s.Err, s.Options.Seed, s.Options.Reduce.String())
	if s.Options.Length > 0 {
		fmt.Fprintf(&b, " -length %v", s.Options.Length)
	}
	for name := range s.Options.Mutants {
		fmt.Fprintf(&b, " -break %s", name)
	}
	return b.String()
}

// outcome is a run and how it ended.
type outcome struct {
	stats Stats
	err   error
}

// shrinker leaves out of a failing run whatever it fails without.
type shrinker struct {
	run   func(Options) (Stats, error)
	limit int // on runs
	runs  int
	kind  string
	best  Options
	last  outcome // of best
}

// Shrink looks for a shorter run that fails in the same way, in at most limit runs: it ends the run at the failure, leaves
// faults out, halves of them first, and makes the cluster smaller, until nothing more can be left out. A run that does not
// fail is returned as it is.
func Shrink(opt Options, limit int, run func(Options) (Stats, error)) Shrunk {
	s := &shrinker{run: run, limit: limit, best: opt}
	s.runs++
	s.last.stats, s.last.err = run(opt)
	if s.last.err != nil {
		s.kind = failureKind(s.last.err)
		for s.pass() {
		}
	}
	return Shrunk{Options: s.best, Err: s.last.err, Stats: s.last.stats, Runs: s.runs}
}

var numbers = regexp.MustCompile(`\b[0-9]+`)

// failureKind is what two failures have in common that are taken for one: the promise or check that failed.
func failureKind(err error) string {
	_, text, _ := strings.Cut(err.Error(), ": ") // it begins with the time
	line, _, _ := strings.Cut(text, "\n")
	if kind, rest, ok := strings.Cut(line, ": "); ok && kind != "panic" {
		line = kind
	} else if ok {
		line = kind + ": " + rest
	}
	return numbers.ReplaceAllString(line, "#")
}

// try runs a smaller run, and takes it if it fails in the same way.
func (s *shrinker) try(r Reduction) bool {
	if s.runs >= s.limit {
		return false
	}
	s.runs++
	opt := s.best
	opt.Reduce = r
	stats, err := s.run(opt)
	if err == nil || failureKind(err) != s.kind {
		return false
	}
	s.best, s.last = opt, outcome{stats, err}
	return true
}

// pass tries everything once, and reports whether anything could be left out.
func (s *shrinker) pass() bool {
	return s.shorter() || s.fewerFaults() || s.smaller()
}

// shorter ends writes and faults at the failure, or in the middle of what is left.
func (s *shrinker) shorter() bool {
	r := s.best.Reduce
	for _, most := range []time.Duration{s.last.stats.Length / 2, s.last.stats.Length * 3 / 4, s.last.stats.Virtual} {
		if most = most.Round(time.Millisecond); most > 0 && most < s.last.stats.Length*19/20 {
			if r.Length = most; s.try(r) {
				return true
			}
		}
	}
	return false
}

// fewerFaults leaves faults out: all of them, halves, quarters, … single ones.
func (s *shrinker) fewerFaults() bool {
	all := s.last.stats.Happened
	for size := len(all); size > 0; size /= 2 {
		for from := 0; from < len(all); from += size {
			r := s.best.Reduce
			r.Chosen = true
			r.Faults = slices.Concat(all[:from], all[min(from+size, len(all)):])
			if s.try(r) {
				return true
			}
		}
	}
	if r := s.best.Reduce; !r.Chosen || !slices.Equal(r.Faults, all) {
		r.Chosen, r.Faults = true, all // those that never came, because the run ended before
		s.try(r)
	}
	return false
}

// smaller makes the cluster smaller, by half or by one of each.
func (s *shrinker) smaller() bool {
	st := s.last.stats
	for i, now := range []int{st.Components, st.Primaries, st.Volumes, st.Clients, st.Groups} {
		for _, n := range []int{1, now / 2, now - 1} {
			r := s.best.Reduce
			if *r.counts()[i].n = n; n > 0 && n < now && s.try(r) {
				return true
			}
		}
	}
	return false
}
