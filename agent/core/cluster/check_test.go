package cluster_test

import (
	"strings"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"

	"github.com/google/go-cmp/cmp"
)

// checkedGroup is a state with one group of two primaries, agents 1 and 2, with volumes 1 and 2, whose targets agent 3 has.
func checkedGroup(t *testing.T) *cluster.State {
	t.Helper()
	s := cluster.New("c")
	for _, name := range []string{"a", "b", "c"} {
		must(t, s, cluster.Command{AddAgent: &cluster.AddAgent{Name: name, Address: name, Primary: name != "c", Secondary: name == "c"}})
	}
	must(t, s, cluster.Command{CreateGroup: &cluster.CreateGroup{Name: "g"}})
	for i, name := range []string{"v", "w"} {
		must(t, s, cluster.Command{CreateVolume: &cluster.CreateVolume{
			Group: 1, Name: name, Size: 1 << 20, Primary: wire.AgentID(i + 1), Source: name, Secondary: 3, Target: name,
		}})
	}
	return s
}

func must(t *testing.T, s *cluster.State, c cluster.Command) uint64 {
	t.Helper()
	v, err := s.Apply(1, &c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func refused(t *testing.T, s *cluster.State, c cluster.Command, want string) {
	t.Helper()
	if _, err := s.Apply(1, &c); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

func TestCheckRuns(t *testing.T) {
	s := checkedGroup(t)
	g := s.Groups[1]
	start := func(c cluster.StartCheck) cluster.Command { c.Group = 1; return cluster.Command{StartCheck: &c} }
	refused(t, s, cluster.Command{StopCheck: &cluster.StopCheck{Group: 1}}, "not being checked")
	refused(t, s, start(cluster.StartCheck{Volume: 9}), "no such volume")
	refused(t, s, start(cluster.StartCheck{Rate: 5}), "below 65536")
	if n := must(t, s, start(cluster.StartCheck{Volume: 2, Repair: true})); n != 1 || g.CheckFor(1) != nil || g.CheckFor(2) != g.Check || !g.Checking() {
		t.Errorf("check %d: %+v", n, g.Check)
	}
	if n := must(t, s, start(cluster.StartCheck{})); n != 2 || g.CheckFor(1) == nil || g.CheckFor(2) == nil {
		t.Errorf("check %d: %+v", n, g.Check)
	}
	tally := cluster.CheckTally{Total: 5, Done: 5, Found: []cluster.CheckFound{{Volume: 1, Offset: 3, Length: 2}}}
	must(t, s, cluster.Command{EndCheck: &cluster.EndCheck{Group: 1, Number: 1, Primary: 2, Tally: tally}}) // of the one before
	must(t, s, cluster.Command{EndCheck: &cluster.EndCheck{Group: 1, Number: 2, Primary: 1, Tally: tally}})
	must(t, s, cluster.Command{EndCheck: &cluster.EndCheck{Group: 1, Number: 2, Primary: 1}}) // the first word counts
	if g.CheckFor(1) != nil || g.CheckFor(2) == nil || !g.Checking() || !cmp.Equal(g.Check.Parts[0].Tally, tally) {
		t.Errorf("one has ended: %+v", g.Check)
	}
	back, err := cluster.Decode(s.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, back); diff != "" {
		t.Error(diff)
	}
	must(t, s, cluster.Command{DeleteVolume: &cluster.DeleteVolume{Volume: 2}}) // nobody is to end the other part any more
	if g.Checking() {
		t.Error("a check goes on without a primary")
	}
	must(t, s, start(cluster.StartCheck{}))
	must(t, s, cluster.Command{StopCheck: &cluster.StopCheck{Group: 1}})
	if g.Checking() || g.CheckFor(1) != nil {
		t.Error("a check goes on that was stopped")
	}
	must(t, s, start(cluster.StartCheck{}))
	must(t, s, cluster.Command{Promote: &cluster.Promote{Group: 1, Force: true}})
	if g.Checking() || g.CheckFor(1) != nil {
		t.Error("a check goes on in a group that is promoted")
	}
	refused(t, s, start(cluster.StartCheck{}), "only what is replicated")
}

func TestCheckSchedule(t *testing.T) {
	s := checkedGroup(t)
	g := s.Groups[1]
	const minute = int64(time.Minute)
	set := func(every, rate int64) cluster.Command {
		return cluster.Command{SetGroup: &cluster.SetGroup{Group: 1, Schedule: &cluster.CheckSchedule{CheckEvery: every, CheckRate: rate}}}
	}
	refused(t, s, set(59, 0), "every 59s")
	refused(t, s, set(60, 1), "below 65536")
	if g.CheckDue(1 << 60) {
		t.Error("a check is due that nobody wants")
	}
	must(t, s, set(120, 0))
	if !g.CheckDue(5 * minute) {
		t.Error("the first check is not due")
	}
	begin := func(label int64, after uint64) {
		must(t, s, cluster.Command{StartCheck: &cluster.StartCheck{Group: 1, Scheduled: true, Label: label, After: after}})
	}
	begin(5*minute, 0)
	begin(5*minute, 0) // twice
	if g.LastCheck() != 1 || g.CheckDue(100*minute) {
		t.Errorf("it is under way: %+v", g.Check)
	}
	must(t, s, cluster.Command{StopCheck: &cluster.StopCheck{Group: 1}})
	if g.CheckDue(7*minute-1) || !g.CheckDue(7*minute) {
		t.Error("the next one is due two minutes later")
	}
	begin(7*minute, 0) // of a captain that was behind
	if g.LastCheck() != 1 {
		t.Error("a check began twice")
	}
	must(t, s, set(0, 0))
	if g.CheckDue(100 * minute) {
		t.Error("a check is due that is wanted no more")
	}
}
