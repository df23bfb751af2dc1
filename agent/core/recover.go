package core

import (
	"cmp"
	"fmt"
	"slices"

	"flotilla/agent/core/cluster"
	"flotilla/wire"

	"go.etcd.io/raft/v3/raftpb"
)

// A majority that is gone for good takes with it every way to agree on anything. What begins then is a new *generation*
// of the cluster, on the operator's word:
//
//  1. Each survivor is stopped, and promises the generation: from then on it talks to nobody of an older one, so its log
//     stands still. It says where its log stands, a Position.
//  2. Newest chooses the one survivor that may go on: it has everything that any of them ever acted upon.
//  3. Recover makes of its log the first state of the generation, in which it votes alone. The others get that by Raft.
//
// What an agent of the old generation decides later reaches nobody of the new one: their connections are refused by
// generation. Who went on in the old one while it could not be reached is a second cluster, until it meets the first.

// indexGap is how far above the newest log a generation begins: incarnations, lives and views of members are named by
// indices, and those that the lost majority may have used are not used again.
const indexGap = 1 << 20

// TermRun is a part of a log whose entries have the same term.
type TermRun struct{ Term, First, Last uint64 }

// Position is where an agent's log stands.
type Position struct {
	Agent    wire.AgentID
	Term     uint64 // of the agent's hard state
	Commit   uint64
	Snapshot TermRun   // what is compacted; all of it is committed
	Runs     []TermRun // the entries above it, ascending
}

// PositionOf returns where the log in boot stands.
func PositionOf(agent wire.AgentID, boot Boot) Position {
	p := Position{Agent: agent, Term: boot.HardState.GetTerm(), Commit: boot.HardState.GetCommit()}
	m := boot.Snapshot.GetMetadata()
	p.Snapshot = TermRun{Term: m.GetTerm(), Last: m.GetIndex()}
	for _, e := range boot.Entries {
		if n := len(p.Runs); n > 0 && p.Runs[n-1].Term == e.GetTerm() {
			p.Runs[n-1].Last = e.GetIndex()
		} else {
			p.Runs = append(p.Runs, TermRun{Term: e.GetTerm(), First: e.GetIndex(), Last: e.GetIndex()})
		}
	}
	return p
}

// last is the last run, or the snapshot.
func (p *Position) last() TermRun {
	if n := len(p.Runs); n > 0 {
		return p.Runs[n-1]
	}
	return p.Snapshot
}

// termAt returns the term of a committed index that p holds, 0 when it does not hold it. What is compacted is committed,
// so nobody has committed anything else there.
func (p *Position) termAt(index uint64) uint64 {
	if index == p.Snapshot.Last {
		return p.Snapshot.Term
	}
	for _, r := range p.Runs {
		if r.First <= index && index <= r.Last {
			return r.Term
		}
	}
	return 0
}

// holds reports whether p has the committed entry of that index and term, and so everything before it.
func (p *Position) holds(index, term uint64) bool {
	return index < p.Snapshot.Last || (p.termAt(index) == term && term != 0)
}

// Newest returns the survivor that may begin the next generation: of those whose log holds everything that is known to be
// committed, the one with the newest log; what stands in it above that may have been committed by those who are gone. The
// choice is the same wherever it is made.
func Newest(survivors []Position) (wire.AgentID, error) {
	if len(survivors) == 0 {
		return 0, fmt.Errorf("choose the newest survivor: there is none")
	}
	known := &survivors[0]
	for i := range survivors {
		if survivors[i].Commit > known.Commit {
			known = &survivors[i]
		}
	}
	term := known.termAt(known.Commit)
	var best *Position
	for i := range survivors {
		p := &survivors[i]
		if !p.holds(known.Commit, term) {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(p.last().Term, best.last().Term), cmp.Compare(p.last().Last, best.last().Last), -cmp.Compare(p.Agent, best.Agent)) > 0 {
			best = p
		}
	}
	if best == nil {
		return 0, fmt.Errorf("choose the newest survivor: agent %d knows entry %d to be committed, and no log holds it", known.Agent, known.Commit)
	}
	return best.Agent, nil
}

// Majority reports whether some agents are enough to elect a captain with the membership that boot's log ends with, so
// that nothing needs to be recovered.
func Majority(cfg Config, boot Boot, agents []wire.AgentID) (bool, error) {
	n, err := New(cfg, boot, 0)
	if err != nil {
		return false, err
	}
	of := func(voters []uint64) bool {
		have := 0
		for _, v := range voters {
			if slices.Contains(agents, wire.AgentID(v)) {
				have++
			}
		}
		return 2*have > len(voters)
	}
	conf := n.control.conf
	return len(conf.GetVoters()) > 0 && of(conf.GetVoters()) && (len(conf.GetVotersOutgoing()) == 0 || of(conf.GetVotersOutgoing())), nil
}

// Replay returns the state at the end of a log, what is not known to be committed included.
func Replay(boot Boot) (*cluster.State, error) {
	if boot.Snapshot.GetMetadata().GetIndex() == 0 {
		return nil, fmt.Errorf("replay the control log: it has no state yet: this agent has joined and never heard of the cluster")
	}
	s, err := cluster.Decode(boot.Snapshot.GetData())
	if err != nil {
		return nil, err
	}
	for _, e := range boot.Entries {
		if e.GetType() == raftpb.EntryNormal && len(e.GetData()) > 0 {
			b, err := cluster.DecodeBatch(e.GetData())
			if err != nil {
				return nil, fmt.Errorf("replay entry %d of the control log: %w", e.GetIndex(), err)
			}
			for i := range b.Commands {
				// What a command comes to concerns who asked for it.
				_, _ = s.Apply(e.GetIndex()<<8|uint64(i), &b.Commands[i])
			}
		}
		s.Index = e.GetIndex()
	}
	return s, nil
}

// Recover returns what self begins a generation from: the state at the end of its log, with the survivors only, and a log
// that holds nothing else. It must be the newest of them.
func Recover(boot Boot, self wire.AgentID, generation uint64, survivors []Position) (Boot, error) {
	newest, err := Newest(survivors)
	if err != nil {
		return Boot{}, err
	}
	if newest != self {
		return Boot{}, fmt.Errorf("recover on agent %d: agent %d has a newer control log", self, newest)
	}
	s, err := Replay(boot)
	if err != nil {
		return Boot{}, err
	}
	if generation <= s.Generation {
		return Boot{}, fmt.Errorf("recover as generation %d: this is generation %d already", generation, s.Generation)
	}
	var ids []wire.AgentID
	var term, last uint64
	for i := range survivors {
		p := &survivors[i]
		if s.Agents[p.Agent] == nil || s.Agents[p.Agent].Behind {
			return Boot{}, fmt.Errorf("recover: agent %d is not part of the cluster", p.Agent)
		}
		ids = append(ids, p.Agent)
		term, last = max(term, p.Term, p.last().Term), max(last, p.last().Last)
	}
	index := last + indexGap
	term++
	s.Recover(index<<8, generation, ids)
	s.Index = index
	conf := &raftpb.ConfState{Voters: []uint64{uint64(self)}}
	slices.Sort(ids)
	for _, id := range ids {
		if id != self {
			conf.Learners = append(conf.Learners, uint64(id))
		}
	}
	return Boot{
		HardState: &raftpb.HardState{Term: new(term), Vote: new(uint64(0)), Commit: new(index)},
		Snapshot: &raftpb.Snapshot{
			Data: s.Encode(), Metadata: &raftpb.SnapshotMetadata{ConfState: conf, Index: new(index), Term: new(term)},
		},
	}, nil
}
