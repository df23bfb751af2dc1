package control_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"flotilla/agent/control"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// A real node that saves its Readys here, with a snapshot every few entries, comes back from a restart with the state
// that it had, whatever its last entry was.
func TestNodeRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.db")
	cfg := core.DefaultConfig(1, 1)
	cfg.CompactEvery = 7
	now := time.Duration(0)
	var before []byte
	for run := range 15 {
		s, err := control.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if run == 0 {
			st := cluster.New("test")
			st.Agents[1] = &cluster.Agent{ID: 1, Name: "one"}
			st.NextAgent = 2
			if err := s.Initialize(core.Bootstrap(st, []wire.AgentID{1})); err != nil {
				t.Fatal(err)
			}
		}
		boot, err := s.Boot()
		if err != nil {
			t.Fatal(err)
		}
		n, err := core.New(cfg, boot, now)
		if err != nil {
			t.Fatal(err)
		}
		if after := n.State().Encode(); run > 0 && !bytes.Equal(before, after) {
			t.Fatalf("run %d: state is not that of the run before", run)
		}
		for groups, step := len(n.State().Groups), 0; len(n.State().Groups) < groups+3; step++ {
			if step > 2000 {
				t.Fatalf("run %d: groups are not made", run)
			}
			if name := fmt.Sprintf("group-%d", len(n.State().Groups)); n.Captain() == 1 && n.State().GroupByName(name) == nil {
				n.Propose(cluster.Command{CreateGroup: &cluster.CreateGroup{Name: name}})
			}
			now += 20 * time.Millisecond
			n.Tick(now)
			for rd, ok := n.RaftReady(); ok; rd, ok = n.RaftReady() {
				if err := s.Save(rd); err != nil {
					t.Fatal(err)
				}
				if err := n.RaftAdvance(now); err != nil {
					t.Fatal(err)
				}
			}
		}
		before = n.State().Encode()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
