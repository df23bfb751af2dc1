package core

import (
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"

	"go.etcd.io/raft/v3/raftpb"
)

// alone returns the node of a cluster of one agent, elected.
func alone(t *testing.T) (*Node, func()) {
	t.Helper()
	st := cluster.New("test")
	if _, err := st.Apply(1, &cluster.Command{AddAgent: &cluster.AddAgent{Name: "one", Address: "one:1", Backup: true}}); err != nil {
		t.Fatal(err)
	}
	n, err := New(DefaultConfig(1, 1), Bootstrap(st, []wire.AgentID{1}), 0)
	if err != nil {
		t.Fatal(err)
	}
	n.Restored()
	now := time.Duration(0)
	run := func() { // a second
		for range 100 {
			now += 10 * time.Millisecond
			n.Tick(now)
			for {
				if _, ok := n.RaftReady(); !ok {
					break
				}
				if err := n.RaftAdvance(now); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for i := 0; n.Heard() == nil; i++ {
		if i == 60 {
			t.Fatal("nobody is captain after a minute")
		}
		run()
	}
	n.Take()
	return n, run
}

// TestForwardedProposals: what a peer forwards is in every log for good once it is committed, so what is no command does
// not get that far.
func TestForwardedProposals(t *testing.T) {
	good := cluster.Batch{Commands: []cluster.Command{{CreateGroup: &cluster.CreateGroup{
		Name: "g", PeriodMS: 1000, PortionSize: 1 << 20, SetBytes: cluster.MinSetBytes,
	}}}}
	for name, test := range map[string]struct {
		entry *raftpb.Entry
		taken bool
	}{
		"a command":             {&raftpb.Entry{Data: good.Encode()}, true},
		"bytes of no meaning":   {&raftpb.Entry{Data: []byte("poison")}, false},
		"a change of the peers": {&raftpb.Entry{Type: raftpb.EntryConfChangeV2.Enum(), Data: good.Encode()}, false},
	} {
		n, run := alone(t)
		index := n.State().Index
		n.RaftStep(0, &raftpb.Message{
			Type: raftpb.MsgProp.Enum(), From: new(uint64(2)), To: new(uint64(1)), Entries: []*raftpb.Entry{test.entry},
		})
		refused := false
		for _, e := range n.Take().Events {
			refused = refused || e.Name == "proposal.refused"
		}
		if refused == test.taken {
			t.Errorf("%s: refused %v", name, refused)
		}
		run()
		if taken := len(n.State().Groups) == 1; taken != test.taken {
			t.Errorf("%s: taken %v at index %d, before %d", name, taken, n.State().Index, index)
		}
	}
}
