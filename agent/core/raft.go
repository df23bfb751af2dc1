package core

import (
	"fmt"
	"io"
	"log"
	"slices"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Limits of the control plane.
const (
	maxProposals   = 256     // commands that wait for the next tick
	maxResults     = 256     // results that somebody may still ask for
	maxRaftMessage = 1 << 20 // bytes of entries in one message
	maxRaftFlight  = 64      // messages in flight to one peer
	compactKeep    = 200     // entries kept behind a snapshot for followers that are a little late
)

// Boot is what an agent's Raft storage holds at its start. A new agent that joins starts empty; the first agent of a
// cluster starts from [Bootstrap].
type Boot struct {
	HardState *raftpb.HardState
	Snapshot  *raftpb.Snapshot
	Entries   []*raftpb.Entry // ascending, above the snapshot
}

// Bootstrap returns the first state of a cluster: the agents in s are there from the start and voters vote.
func Bootstrap(s *cluster.State, voters []wire.AgentID) Boot {
	cs := &raftpb.ConfState{}
	for _, v := range voters {
		cs.Voters = append(cs.Voters, uint64(v))
	}
	for _, id := range cluster.SortedKeys(s.Agents) {
		if !slices.Contains(voters, id) {
			cs.Learners = append(cs.Learners, uint64(id))
		}
	}
	s.Index = 1
	return Boot{
		HardState: &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(1))},
		Snapshot: &raftpb.Snapshot{
			Data:     s.Encode(),
			Metadata: &raftpb.SnapshotMetadata{ConfState: cs, Index: new(uint64(1)), Term: new(uint64(1))},
		},
	}
}

// Ready is what must be durable before Messages go out and before RaftAdvance is called.
type Ready struct {
	HardState *raftpb.HardState // nil when unchanged
	Snapshot  *raftpb.Snapshot  // nil when none; it replaces all entries
	Entries   []*raftpb.Entry   // to append; an entry replaces all from its index on
	Compact   uint64            // entries below this index may be dropped, 0 for none: Snapshot covers them
	Messages  []*raftpb.Message
}

type control struct {
	n       *Node
	raft    *raft.RawNode
	storage *raft.MemoryStorage

	ready        *raft.Ready // handed out and not yet advanced
	applied      uint64      // Raft index
	snapAt       uint64      // index of the newest snapshot
	confNew      bool        // the members of Raft have changed since: a new one takes no snapshot in which it is not
	compact      *raftpb.Snapshot
	relayedSnaps []wire.AgentID // who is sent a snapshot so
	relays       []Envelope     // Raft messages that go over another agent once the Ready is durable

	tickAt   time.Duration
	queue    []cluster.Command // to propose at the next tick
	results  map[uint64]cluster.Result
	resultsQ []uint64
	conf     *raftpb.ConfState
	isLeader bool
	leader   wire.AgentID
	term     uint64
}

func newControl(n *Node, boot Boot) (*control, error) {
	c := &control{n: n, storage: raft.NewMemoryStorage(), results: map[uint64]cluster.Result{}, conf: &raftpb.ConfState{}}
	n.state = cluster.New("")
	if boot.Snapshot != nil && boot.Snapshot.GetMetadata().GetIndex() > 0 {
		if err := c.storage.ApplySnapshot(boot.Snapshot); err != nil {
			return nil, fmt.Errorf("restore raft snapshot: %w", err)
		}
		st, err := cluster.Decode(boot.Snapshot.GetData())
		if err != nil {
			return nil, err
		}
		n.state = st
		c.applied = boot.Snapshot.GetMetadata().GetIndex()
		c.snapAt = c.applied
		c.conf = boot.Snapshot.GetMetadata().GetConfState()
	}
	if boot.HardState != nil {
		if err := c.storage.SetHardState(boot.HardState); err != nil {
			return nil, fmt.Errorf("restore raft hard state: %w", err)
		}
	}
	if err := c.storage.Append(boot.Entries); err != nil {
		return nil, fmt.Errorf("restore raft entries: %w", err)
	}
	rn, err := raft.NewRawNode(&raft.Config{
		ID:                        uint64(n.cfg.ID),
		ElectionTick:              n.cfg.ElectionTicks,
		HeartbeatTick:             1,
		Storage:                   c.storage,
		Applied:                   c.applied,
		MaxSizePerMsg:             maxRaftMessage,
		MaxUncommittedEntriesSize: 64 << 20,
		MaxInflightMsgs:           maxRaftFlight,
		CheckQuorum:               true,
		PreVote:                   true,
		Logger:                    &raft.DefaultLogger{Logger: log.New(io.Discard, "", 0)},
	})
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	c.raft = rn
	c.term = boot.HardState.GetTerm()
	// What was known to be committed before the restart is acted upon before anything else.
	for c.raft.HasReady() {
		rd := c.raft.Ready()
		if len(rd.Entries) > 0 || rd.Snapshot.GetMetadata().GetIndex() > 0 {
			return nil, fmt.Errorf("start raft: unexpected new entries before the first tick")
		}
		c.applyEntries(rd.CommittedEntries)
		c.raft.Advance(rd)
	}
	return c, nil
}

func (c *control) lead() wire.AgentID { return c.leader }

func (c *control) tick() {
	for c.n.now >= c.tickAt {
		c.raft.Tick()
		c.tickAt += c.n.cfg.RaftTick
		if c.tickAt < c.n.now-4*c.n.cfg.RaftTick {
			c.tickAt = c.n.now // a starved agent does not make up for lost time: it would only start elections
		}
	}
	c.softState()
}

// softState follows changes of the leader.
func (c *control) softState() {
	st := c.raft.BasicStatus()
	c.term = st.HardState.GetTerm()
	if lead := wire.AgentID(st.Lead); lead != c.leader {
		c.leader = lead
		c.n.eff.Wake = true
	}
	isLeader := st.RaftState == raft.StateLeader
	if isLeader == c.isLeader && (!isLeader || c.n.captain.term == c.term) {
		return
	}
	c.isLeader = isLeader
	c.n.captain = nil
	if isLeader {
		c.n.captain = newCaptain(c.n, c.term)
		c.n.event(0, "captain.elected", "agent", c.n.cfg.ID, "term", c.term)
	}
}

// RaftStep takes a Raft message of the agent that its From names.
func (n *Node) RaftStep(now time.Duration, m *raftpb.Message) {
	n.now = max(n.now, now)
	if m.GetType() == raftpb.MsgProp {
		// What is committed must be understood by all: an agent forwards commands, and nothing else.
		for _, e := range m.GetEntries() {
			if _, err := cluster.DecodeBatch(e.GetData()); err != nil || e.GetType() != raftpb.EntryNormal {
				n.event(0, "proposal.refused", "from", m.GetFrom())
				return
			}
		}
	}
	// An error means that the message is of a removed or unknown peer, or that a forwarded proposal met no leader: its
	// maker asks again.
	_ = n.control.raft.Step(m)
	n.control.softState()
}

// RaftUnreachable tells Raft that messages to a peer do not arrive.
func (n *Node) RaftUnreachable(peer wire.AgentID) { n.control.raft.ReportUnreachable(uint64(peer)) }

// RaftSnapshotSent tells Raft what came of a snapshot that it sent to a peer.
func (n *Node) RaftSnapshotSent(peer wire.AgentID, ok bool) {
	st := raft.SnapshotFinish
	if !ok {
		st = raft.SnapshotFailure
	}
	n.control.raft.ReportSnapshot(uint64(peer), st)
}

// RaftReady returns what is to be made durable and sent, if anything is. After it, RaftAdvance must be called before
// RaftReady is called again.
func (n *Node) RaftReady() (Ready, bool) {
	c := n.control
	if c.ready != nil || (!c.raft.HasReady() && c.compact == nil) {
		return Ready{}, false
	}
	var out Ready
	if c.compact != nil {
		out.Snapshot, out.Compact = c.compact, c.compact.GetMetadata().GetIndex()
		if out.Compact > compactKeep {
			out.Compact -= compactKeep
		}
		c.compact = nil
	}
	if c.raft.HasReady() {
		rd := c.raft.Ready()
		c.ready = &rd
		if !raft.IsEmptySnap(rd.Snapshot) {
			out.Snapshot, out.Compact = rd.Snapshot, 0
		}
		out.HardState, out.Entries, out.Messages = rd.HardState, rd.Entries, n.relayRaft(rd.Messages)
	}
	return out, true
}

// RaftAdvance says that the last Ready is durable. Now the node acts on what it committed.
func (n *Node) RaftAdvance(now time.Duration) error {
	n.now = max(n.now, now)
	c := n.control
	if c.ready == nil {
		return nil
	}
	rd := *c.ready
	c.ready = nil
	n.eff.Send = append(n.eff.Send, c.relays...)
	c.relays = nil
	for _, to := range c.relayedSnaps {
		n.RaftSnapshotSent(to, true) // if it is lost, what follows it is refused and another one is sent
	}
	c.relayedSnaps = nil
	if rd.HardState != nil {
		if err := c.storage.SetHardState(rd.HardState); err != nil {
			return fmt.Errorf("set raft hard state: %w", err)
		}
	}
	if !raft.IsEmptySnap(rd.Snapshot) {
		if err := c.storage.ApplySnapshot(rd.Snapshot); err != nil {
			return fmt.Errorf("apply raft snapshot: %w", err)
		}
		st, err := cluster.Decode(rd.Snapshot.GetData())
		if err != nil {
			return err
		}
		n.state = st
		c.applied = rd.Snapshot.GetMetadata().GetIndex()
		c.snapAt = c.applied
		c.conf = rd.Snapshot.GetMetadata().GetConfState()
	}
	if err := c.storage.Append(rd.Entries); err != nil {
		return fmt.Errorf("append raft entries: %w", err)
	}
	c.applyEntries(rd.CommittedEntries)
	c.raft.Advance(rd)
	c.softState()
	if len(rd.CommittedEntries) > 0 || !raft.IsEmptySnap(rd.Snapshot) {
		n.stateChanged()
	}
	return c.maybeCompact()
}

func (c *control) applyEntries(entries []*raftpb.Entry) {
	s := c.n.state
	for _, e := range entries {
		c.applied = e.GetIndex()
		switch e.GetType() {
		case raftpb.EntryConfChange, raftpb.EntryConfChangeV2:
			c.applyConfChange(e)
		default:
			if len(e.GetData()) == 0 {
				break
			}
			b, err := cluster.DecodeBatch(e.GetData())
			if err != nil {
				// Only an agent of a newer version can have proposed it; going on would let the states differ.
				panic(fmt.Sprintf("raft entry %d: %v", e.GetIndex(), err))
			}
			for i := range b.Commands {
				// A batch may attach two primaries: each command needs an index of its own to name an incarnation.
				v, err := s.Apply(e.GetIndex()<<8|uint64(i), &b.Commands[i])
				c.result(b.Commands[i].ID, v, err)
			}
		}
		s.Index = e.GetIndex()
	}
}

func (c *control) applyConfChange(e *raftpb.Entry) {
	var cc raftpb.ConfChangeI
	if e.GetType() == raftpb.EntryConfChange {
		v1 := &raftpb.ConfChange{}
		if err := proto.Unmarshal(e.GetData(), v1); err != nil {
			panic(fmt.Sprintf("raft entry %d: %v", e.GetIndex(), err))
		}
		cc = v1
	} else {
		v2 := &raftpb.ConfChangeV2{}
		if err := proto.Unmarshal(e.GetData(), v2); err != nil {
			panic(fmt.Sprintf("raft entry %d: %v", e.GetIndex(), err))
		}
		cc = v2
	}
	c.conf = c.raft.ApplyConfChange(cc)
	c.confNew = true
}

func (c *control) result(id, value uint64, err error) {
	if id == 0 {
		return
	}
	r := cluster.Result{ID: id, Value: value}
	if err != nil {
		r.Err = err.Error()
	}
	if _, ok := c.results[id]; !ok {
		c.resultsQ = append(c.resultsQ, id)
	}
	c.results[id] = r
	if len(c.resultsQ) > maxResults {
		delete(c.results, c.resultsQ[0])
		c.resultsQ = c.resultsQ[1:]
	}
	c.n.eff.Wake = true
}

// maybeCompact makes a snapshot when enough entries have come since the last.
func (c *control) maybeCompact() error {
	if c.compact != nil || (!c.confNew && c.applied < c.snapAt+c.n.cfg.CompactEvery) {
		return nil
	}
	snap, err := c.storage.CreateSnapshot(c.applied, c.conf, c.n.state.Encode())
	if err != nil {
		return fmt.Errorf("make raft snapshot: %w", err)
	}
	c.snapAt, c.confNew = c.applied, false
	c.compact = snap
	if c.applied > compactKeep {
		if err := c.storage.Compact(c.applied - compactKeep); err != nil && err != raft.ErrCompacted {
			return fmt.Errorf("compact raft log: %w", err)
		}
	}
	return nil
}

// Voters returns the agents that vote, as this agent knows them.
func (n *Node) Voters() []wire.AgentID {
	var ids []wire.AgentID
	for _, v := range n.control.conf.GetVoters() {
		ids = append(ids, wire.AgentID(v))
	}
	return ids
}

// Propose queues a command. It may get lost; whoever needs its effect looks at the state, or at Result, and repeats it.
// It returns false when too many are queued.
func (n *Node) Propose(cmd cluster.Command) bool {
	c := n.control
	if len(c.queue) >= maxProposals {
		return false
	}
	c.queue = append(c.queue, cmd)
	return true
}

// Result returns what a command with this ID came to, once it is applied here.
func (n *Node) Result(id uint64) (cluster.Result, bool) {
	r, ok := n.control.results[id]
	return r, ok
}

// propose hands the queued commands to Raft as one entry. On an agent that does not lead, Raft forwards them.
func (c *control) propose() {
	if len(c.queue) == 0 {
		return
	}
	if c.leader != 0 && c.raft.Propose(cluster.Batch{Commands: c.queue}.Encode()) == nil {
		c.queue = nil
		return
	}
	// Nobody took it. What the protocol wants it asks for again; what a user asked for waits here.
	c.queue = slices.DeleteFunc(c.queue, func(cmd cluster.Command) bool { return cmd.ID == 0 })
}
