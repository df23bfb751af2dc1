package sim

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestShrink: of a run that fails by one fault and one client that fault is left, and nothing else.
func TestShrink(t *testing.T) {
	runs := 0
	fake := func(opt Options) (Stats, error) {
		runs++
		r := opt.Reduce
		st := Stats{Components: 4, Primaries: 2, Volumes: 3, Clients: 4, Groups: 2, Length: 8 * time.Second, Planned: 8 * time.Second, Virtual: 5 * time.Second}
		for i, n := range []*int{&st.Components, &st.Primaries, &st.Volumes, &st.Clients, &st.Groups} {
			if most := *r.counts()[i].n; most > 0 {
				*n = min(*n, most)
			}
		}
		if r.Length > 0 {
			st.Length = min(st.Length, r.Length)
		}
		for i := range 12 {
			if !r.Chosen || slices.Contains(r.Faults, i) {
				st.Happened = append(st.Happened, i)
			}
		}
		switch {
		case st.Components == 1:
			return st, errors.New("at 2s: P3: another failure")
		case st.Components >= 2 && slices.Contains(st.Happened, 7) && st.Length >= 3*time.Second:
			return st, fmt.Errorf("at %v: P1: block %d", st.Length, runs)
		}
		return st, nil
	}
	s := Shrink(Options{Seed: 1}, 300, fake)
	r := s.Options.Reduce
	if !slices.Equal(r.Faults, []int{7}) || s.Stats.Components != 2 || s.Stats.Primaries != 1 || s.Stats.Clients != 1 || s.Stats.Groups != 1 || s.Stats.Length >= 5*time.Second {
		t.Errorf("%v is left: %+v", r, s.Stats)
	}
	if s.Runs != runs || runs > 65 {
		t.Errorf("%d runs, and %d are said", runs, s.Runs)
	}
	again, err := ParseReduction(r.String())
	if err != nil || again.String() != r.String() {
		t.Errorf("%q reads as %q: %v", r, again, err)
	}
	if _, err := ParseReduction("hosts=3"); err == nil {
		t.Error("an unknown word is taken")
	}
}

// TestFaultsStay: a fault that is left out changes nothing before its time, and the same seed takes the same course.
func TestFaultsStay(t *testing.T) {
	var lines [3][]string
	for i, red := range []Reduction{{}, {}, {Chosen: true, Faults: []int{0, 1, 2}}} {
		_, err := run(t, Options{Seed: 11, Reduce: red, Trace: func(s string) { lines[i] = append(lines[i], s) }})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(lines[0], lines[1]) {
		t.Error("the same seed took two courses")
	}
	last := slices.IndexFunc(lines[0], func(s string) bool { return !slices.Contains(lines[2], s) })
	if last < 0 || last < 8 {
		t.Errorf("line %d is the first that differs", last)
	}
}
