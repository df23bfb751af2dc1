package core

import (
	"slices"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"

	"go.etcd.io/raft/v3/raftpb"
)

func runOf(term, first, last uint64) TermRun { return TermRun{Term: term, First: first, Last: last} }

// The survivor that goes on holds everything that anybody knows to be committed, and of such the newest log.
func TestNewest(t *testing.T) {
	snap := runOf(1, 0, 10)
	for name, test := range map[string]struct {
		positions []Position
		want      wire.AgentID // 0: nobody
	}{
		"alone":            {[]Position{{Agent: 3, Commit: 10, Snapshot: snap}}, 3},
		"equal: the lower": {[]Position{{Agent: 5, Commit: 10, Snapshot: snap}, {Agent: 2, Commit: 10, Snapshot: snap}}, 2},
		"longer": {[]Position{
			{Agent: 1, Commit: 12, Snapshot: snap, Runs: []TermRun{runOf(1, 11, 12)}},
			{Agent: 2, Commit: 11, Snapshot: snap, Runs: []TermRun{runOf(1, 11, 14)}},
		}, 2},
		"later term": {[]Position{
			{Agent: 1, Commit: 10, Snapshot: snap, Runs: []TermRun{runOf(1, 11, 20)}},
			{Agent: 2, Commit: 10, Snapshot: snap, Runs: []TermRun{runOf(2, 11, 11)}},
		}, 2},
		// Agent 1 has an entry of term 5 that was never committed; the leader of term 7 has committed others in its place,
		// of an older term, and agent 2 has acted on them.
		"newer log without what is committed": {[]Position{
			{Agent: 1, Commit: 11, Snapshot: snap, Runs: []TermRun{runOf(4, 11, 11), runOf(5, 12, 12)}},
			{Agent: 2, Commit: 14, Snapshot: snap, Runs: []TermRun{runOf(4, 11, 14)}},
		}, 2},
		"compacted": {[]Position{
			{Agent: 1, Commit: 30, Snapshot: runOf(2, 0, 30)},
			{Agent: 2, Commit: 20, Snapshot: snap, Runs: []TermRun{runOf(1, 11, 25)}},
		}, 1},
		"joined and never heard of it": {[]Position{{Agent: 4}}, 0},
	} {
		for range 2 {
			if have, err := Newest(test.positions); have != test.want || (err != nil) != (test.want == 0) {
				t.Errorf("%s: %d, %v, want %d", name, have, err, test.want)
			}
			slices.Reverse(test.positions)
		}
	}
}

// recovered is a log of three voters in which agent 3 knows more than is committed: a promote of the group.
func recovered(t *testing.T) Boot {
	t.Helper()
	s := cluster.New("test")
	do := func(index uint64, c cluster.Command) {
		t.Helper()
		if _, err := s.Apply(index, &c); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range []string{"a", "b", "c"} {
		do(uint64(i+1), cluster.Command{AddAgent: &cluster.AddAgent{Name: n, Address: n, Primary: n == "a", Backup: true, Secondary: n == "c"}})
		do(uint64(i+1), cluster.Command{Admit: &cluster.Admit{Agent: wire.AgentID(i + 1)}})
	}
	do(4, cluster.Command{CreateGroup: &cluster.CreateGroup{Name: "g", Mode: cluster.Sync}})
	do(5, cluster.Command{CreateVolume: &cluster.CreateVolume{Group: 1, Name: "v", Size: 1 << 20, Primary: 1, Source: "v", Secondary: 3, Target: "v"}})
	do(6, cluster.Command{Attach: &cluster.Attach{Group: 1, Primary: 1, Nonce: 1}})
	do(7, cluster.Command{Open: &cluster.Open{Group: 1, First: 1, Last: 4, View: 1}})
	do(8, cluster.Command{Settle: &cluster.Settle{View: 1, MembersAt: s.MembersAt}})
	boot := Bootstrap(s, []wire.AgentID{1, 2, 3})
	batch := cluster.Batch{Commands: []cluster.Command{{CreateGroup: &cluster.CreateGroup{Name: "late"}}}}
	boot.Entries = []*raftpb.Entry{{Term: new(uint64(1)), Index: new(uint64(2)), Type: raftpb.EntryNormal.Enum(), Data: batch.Encode()}}
	return boot
}

func TestRecover(t *testing.T) {
	boot := recovered(t)
	own := PositionOf(3, boot)
	if _, err := Recover(boot, 1, 1, []Position{own}); err == nil {
		t.Error("one that is not the newest began a generation")
	}
	next, err := Recover(boot, 3, 1, []Position{own})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Replay(next)
	if err != nil {
		t.Fatal(err)
	}
	g := s.Groups[1]
	switch {
	case s.Generation != 1 || !slices.Equal(s.Members, []wire.AgentID{3}) || s.View != 3 || s.Settled == s.View:
		t.Errorf("generation %d, members %v, view %d, settled %d", s.Generation, s.Members, s.View, s.Settled)
	case !s.Agents[1].Behind || !s.Agents[2].Behind || s.Agents[3].Behind:
		t.Error("the wrong ones are left behind")
	case s.GroupByName("late") == nil:
		t.Error("what may have been committed by those who are gone was dropped")
	case !g.Doubted():
		t.Error("what a sync group acknowledged is in no doubt")
	case s.NextAgent != 4+1000:
		t.Errorf("the next agent is %d", s.NextAgent)
	}
	if _, err := Recover(next, 3, 1, []Position{PositionOf(3, next)}); err == nil {
		t.Error("a generation began twice")
	}
	cfg := DefaultConfig(3, 1)
	for agents, want := range map[string]bool{"c": false, "bc": true} {
		ids := []wire.AgentID{3}
		if agents == "bc" {
			ids = append(ids, 2)
		}
		if have, err := Majority(cfg, boot, ids); err != nil || have != want {
			t.Errorf("%s are a majority: %v, %v", agents, have, err)
		}
	}
	// It is captain by its own vote, and what an old leader still has to say means nothing to it.
	n, err := New(cfg, next, 0)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Duration(0)
	for n.Captain() != 3 {
		if now += 20 * time.Millisecond; now > time.Minute {
			t.Fatal("no captain is elected")
		}
		n.Tick(now)
		for rd, ok := n.RaftReady(); ok; rd, ok = n.RaftReady() {
			if rd.HardState != nil && rd.HardState.GetTerm() <= next.HardState.GetTerm() {
				t.Errorf("captain in term %d", rd.HardState.GetTerm())
			}
			if err := n.RaftAdvance(now); err != nil {
				t.Fatal(err)
			}
		}
	}
	n.RaftStep(now, &raftpb.Message{Type: raftpb.MessageType_MsgHeartbeat.Enum(), From: new(uint64(1)), To: new(uint64(3)), Term: new(uint64(1))})
	if n.Captain() != 3 {
		t.Errorf("the captain is %d after a word of an old leader", n.Captain())
	}
}

// Without a component nothing can be sealed any more: what was not applied is given up, so that a promote ends.
func TestRecoverWithoutComponents(t *testing.T) {
	boot := recovered(t)
	s, err := Replay(boot)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(1<<10, &cluster.Command{Lose: &cluster.Lose{Agent: 3, View: 1}}); err != nil {
		t.Fatal(err)
	}
	s.Recover(1<<20, 1, []wire.AgentID{3})
	g := s.Groups[1]
	if len(s.Members) != 0 || g.Applied != g.Granted || g.Live(1) != nil || g.Torn {
		t.Errorf("members %v, applied %d of %d, torn %v", s.Members, g.Applied, g.Granted, g.Torn)
	}
	for _, inc := range g.Incs {
		if !inc.Sealed {
			t.Errorf("incarnation %d waits for a seal", inc.ID)
		}
	}
}
