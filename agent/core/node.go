// Package core is the replication protocol: what a primary, a component, a captain and a secondary do on a message, a
// completed I/O or a tick.
//
// A [Node] is everything of one agent that decides. It is single-threaded (the caller serializes the calls), takes the
// time as an argument, does no I/O and draws no randomness but what Raft's elections draw; what it wants done it returns
// as [Effects]. So a whole cluster of real nodes runs in one loop, and a seed replays the run.
//
//	raft.go       the control plane: cluster.State under go.etcd.io/raft/v3
//	reach.go      who is reached, and over whom the others are
//	recover.go    the control plane after a majority is gone: a new generation
//	source.go     primary: numbering, attaching and leaving
//	superseded.go primary: writes that need not be sent
//	flights.go    primary: frames on their way, held up to
//	queue.go      primary: what waits to be sent, the oldest first
//	pipe.go       primary: how much is on its way, and what seems lost
//	traffic.go    primary: how much may be sent, and how much was
//	room.go       primary and captain: whether the journals have room for a resync
//	degrade.go    primary and captain: sync groups whose writes can not be held
//	sets.go       primary: opening and closing sets
//	cut.go        primary: standing still for a cut
//	check.go      what secondaries found when they compared, on its way to the primary; overlay.go what a share lays over it
//	extents.go    primary: which extents a crash would make us copy again
//	component.go  component: its part as a whole
//	receive.go    component: taking frames
//	acks.go       component: acknowledging them
//	holding.go    component: the index of what is held, and who is responsible
//	mirror.go     component: the second copy
//	forward.go    component: the first copy, brought to an owner that the primary does not reach
//	complete.go   component: manifests, complete and written
//	report.go     component: what is held of an ended incarnation
//	load.go       component: how much work it has
//	captain.go    captain: what it is told, and grants
//	balance.go    captain: the components' load, and weights by it
//	members.go    captain: losses and voters
//	commit.go     captain: commits, applying, giving up
//	handover.go   captain: another takes its place
//	cutter.go     captain: cuts over several primaries
//	sealer.go     captain: seals and the point of a promote
//	secondary.go  secondary: whose writes a target takes
//
// The order of persistence is Raft's: the shell makes [Node.RaftReady] durable before it calls [Node.RaftAdvance], and
// only then does the node act on what was committed. So after a restart an agent knows every view, seal and end that
// it ever acted upon, and what it refused stays refused (P4).
package core

import (
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// Node is one agent's part of the protocol.
type Node struct {
	cfg Config
	now time.Duration

	control   *control
	state     *cluster.State // control's; replaced by a snapshot
	comp      *component
	captain   *captain // nil unless this agent leads
	sources   map[wire.GroupID]*source
	ordered   []*source // sources, ascending by group
	secondary *secondary
	reach     *reach

	run      uint64
	round    uint64
	statusAt time.Duration
	seenAt   time.Duration // when the captain last said that it hears this agent
	seen     uint64        // round of the newest Status that a captain has answered
	faults   []Fault

	eff Effects
}

// New returns the node of an agent whose Raft storage holds boot. Restore follows for what the journal holds.
func New(cfg Config, boot Boot, now time.Duration) (*Node, error) {
	n := &Node{cfg: cfg, now: now, run: cfg.Seed, sources: map[wire.GroupID]*source{}}
	n.reach = newReach(n)
	n.comp = newComponent(n)
	n.secondary = newSecondary(n)
	c, err := newControl(n, boot)
	if err != nil {
		return nil, err
	}
	n.control = c
	n.stateChanged()
	n.comp.booted = true
	return n, nil
}

// ID returns the agent's ID.
func (n *Node) ID() wire.AgentID { return n.cfg.ID }

// State returns the replicated state as this agent knows it. It is read-only and valid until the next call.
func (n *Node) State() *cluster.State { return n.state }

// Take returns the effects since the last Take.
func (n *Node) Take() Effects {
	n.comp.settle()
	e := n.eff
	n.eff = Effects{}
	return e
}

// Tick lets time pass. The shell calls it at least every 10 ms.
func (n *Node) Tick(now time.Duration) {
	n.now = max(n.now, now)
	n.control.tick()
	n.reach.tick()
	n.sendStatus()
	for _, s := range n.ordered {
		s.tick()
	}
	n.comp.tick()
	if n.captain != nil {
		n.captain.tick()
	}
	n.control.propose()
}

// Receive takes a message of an authenticated agent.
func (n *Node) Receive(now time.Duration, from wire.AgentID, msg Message) {
	n.now = max(n.now, now)
	switch m := msg.(type) {
	case *Pause:
		if s := n.sources[m.Group]; s != nil {
			s.pause(from, m)
		}
	case *Resume:
		if s := n.sources[m.Group]; s != nil {
			s.resume(from, m)
		}
	case *Checked:
		if s := n.sources[m.Group]; s != nil {
			s.checkAnswered(from, m)
		}
	case *FrameAck:
		n.frameAck(from, m)
	case *FrameNack:
		n.frameNack(from, m)
	case *MirrorAsk:
		n.comp.mirrorAsk(from, m)
	case *MirrorHave:
		n.comp.mirrorHave(from, m)
	case *MirrorWant:
		n.comp.mirrorWant(from, m)
	case *Lines:
		n.comp.lines(from, m)
	case *LinesDone:
		n.comp.linesDone(from, m)
	case *SealMark:
		n.comp.sealMark(from, m)
	case *CaptainSees:
		if from == n.control.lead() && m.Run == n.run {
			n.seenAt, n.seen = n.now, max(n.seen, m.Round)
			for _, r := range m.Rooms {
				if s := n.sources[r.Group]; s != nil {
					s.room, s.roomAt = r.Bytes, n.now
				}
			}
		}
	case *Ping:
		n.reach.answer(from, m)
	case *Pong:
		n.reach.pong(from, m)
	case *Relay:
		n.relay(from, m)
	default:
		if n.captain != nil {
			n.captain.receive(from, msg)
			n.control.propose()
		}
	}
}

// frameAck goes to whoever sent the frame: this agent as a primary or as an owner.
func (n *Node) frameAck(from wire.AgentID, m *FrameAck) {
	for _, no := range m.Nos {
		if n.comp.mirrorAcked(from, no) {
			continue
		}
		for _, s := range n.ordered {
			if s.acked(from, no) {
				break
			}
		}
	}
}

func (n *Node) frameNack(from wire.AgentID, m *FrameNack) {
	if n.comp.mirrorFailed(from, m.No) {
		return
	}
	for _, s := range n.ordered {
		if s.nacked(from, m) {
			return
		}
	}
}

// Disconnected tells the node that frames and messages on their way to a peer are gone.
func (n *Node) Disconnected(now time.Duration, peer wire.AgentID) {
	n.now = max(n.now, now)
	n.comp.disconnected(peer)
	for _, s := range n.ordered {
		s.disconnected(peer)
	}
}

func (n *Node) event(g wire.GroupID, name string, attrs ...any) {
	n.eff.Events = append(n.eff.Events, Event{At: n.now, Name: name, Group: g, Attrs: attrs})
}

func (n *Node) mutant(name string) bool { return n.cfg.Mutants[name] }

// stateChanged lets the roles look at the state after commands were applied.
func (n *Node) stateChanged() {
	n.comp.stateChanged()
	for _, s := range n.ordered {
		s.stateChanged()
	}
	if n.captain != nil {
		n.captain.stateChanged()
	}
	n.eff.Wake = true
}

// sendStatus reports to the captain.
func (n *Node) sendStatus() {
	if n.now < n.statusAt {
		return
	}
	n.statusAt = n.now + n.cfg.StatusEvery
	n.round++
	st := &Status{Run: n.run, Round: n.round, Seen: n.seen, View: n.state.View, Applied: n.state.Index, Unreached: n.reach.unreached(0), Faults: n.faults}
	for _, s := range n.ordered {
		st.Groups = append(st.Groups, s.status())
	}
	if a := n.state.Agents[n.cfg.ID]; a != nil && a.Backup {
		st.Component = n.comp.status()
	}
	n.send(n.control.lead(), st)
}

// CaptainSeen returns how long ago the captain last said that it hears this agent: an agent that is cut off from the
// majority knows it by this.
func (n *Node) CaptainSeen() time.Duration { return n.now - n.seenAt }

// Now returns the node's time.
func (n *Node) Now() time.Duration { return n.now }

// Label returns the node's time as a label.
func (n *Node) Label() int64 { return n.cfg.LabelBase + int64(n.now) }

// Heard is the newest word of an agent to the captain.
type Heard struct {
	Ago    time.Duration
	Status Status
	Load   Load
}

// Load is what a component takes, on average over a second or two.
type Load struct {
	Owned, Mirrored float64 // bytes per second
	Busy            float64 // part of the time in which something waited for its journal
	Waiting         float64 // bytes that waited for it on average
}

// Heard returns what the captain has heard, on the captain; nil elsewhere.
func (n *Node) Heard() map[wire.AgentID]Heard {
	if n.captain == nil {
		return nil
	}
	out := map[wire.AgentID]Heard{}
	for id, h := range n.captain.heard {
		out[id] = Heard{Ago: n.now - h.at, Status: *h.st, Load: n.captain.balance.load(id, n.now)}
	}
	return out
}

// Leads reports whether this agent is the captain as far as it knows.
func (n *Node) Leads() bool { return n.captain != nil }

// Captain returns the captain as far as this agent knows, or 0.
func (n *Node) Captain() wire.AgentID { return n.control.lead() }
