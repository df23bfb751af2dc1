package core

import (
	"slices"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// reach knows which agents this one reaches, there and back: each pings each, and what goes to one that has not answered
// for too long takes the way over another that reaches both. So an agent is cut off only when nobody reaches it;
// two that merely do not reach each other work on. Messages may be lost and overtaken on any way, so another way is
// nothing new to whoever receives them.
type reach struct {
	n      *Node
	pingAt time.Duration
	peers  map[wire.AgentID]*peer
	back   map[wire.AgentID]wayBack
}

// wayBack is the agent that has brought a message of one that is not reached. Answers go back the same way where no other is known:
// this agent's state may not have heard of it yet, and only hears once it answers.
type wayBack struct {
	over wire.AgentID
	at   time.Duration
}

// peer is another agent, as far as this one reaches it.
type peer struct {
	at        time.Duration // when the newest ping that it has answered was sent
	answered  bool          // it ever did
	down      bool          // it has not answered for too long
	via       wire.AgentID  // the agent over which messages reach it, 0 for the straight way
	frameVia  wire.AgentID  // and the component over which frames do
	unreached []wire.AgentID
}

// maxUnreached bounds the list of a Pong: as many agents as a cluster may have.
const maxUnreached = 4096

func newReach(n *Node) *reach {
	return &reach{n: n, peers: map[wire.AgentID]*peer{}, back: map[wire.AgentID]wayBack{}}
}

// tick pings everybody and looks who has not answered.
func (r *reach) tick() {
	n := r.n
	if n.now < r.pingAt {
		return
	}
	r.pingAt = n.now + n.cfg.pingEvery()
	for id := range r.peers {
		if n.state.Agents[id] == nil {
			delete(r.peers, id)
		}
	}
	for id, b := range r.back {
		if n.now-b.at >= n.cfg.unreachedAfter() {
			delete(r.back, id)
		}
	}
	for _, id := range cluster.SortedKeys(n.state.Agents) {
		if id == n.cfg.ID {
			continue
		}
		p := r.peers[id]
		if p == nil {
			p = &peer{at: n.now}
			r.peers[id] = p
		}
		n.sendStraight(id, &Ping{Run: n.run, At: n.now})
		if !p.down && n.now-p.at >= n.cfg.unreachedAfter() {
			p.down = true
			n.event(0, "peer.unreached", "agent", id)
			n.unreached(id)
		}
	}
	r.findWays()
}

// findWays chooses for each peer that is not reached the agents over which it is: the first that reach both.
func (r *reach) findWays() {
	var ids []wire.AgentID
	for to, p := range r.peers {
		if !p.down || r.n.mutant("no-relay") {
			continue
		}
		if ids == nil {
			ids = cluster.SortedKeys(r.peers)
		}
		p.via, p.frameVia = 0, 0
		for _, id := range ids {
			q := r.peers[id]
			if id == to || q.down || !q.answered || slices.Contains(q.unreached, to) {
				continue
			}
			if p.via == 0 {
				p.via = id
			}
			if p.frameVia == 0 && r.n.state.IsMember(id) {
				p.frameVia = id
			}
		}
	}
}

// pong takes the answer to a ping.
func (r *reach) pong(from wire.AgentID, m *Pong) {
	p := r.peers[from]
	if p == nil || m.Run != r.n.run || m.At > r.n.now || m.At < p.at || len(m.Unreached) > maxUnreached {
		return
	}
	news := !p.answered || !slices.Equal(p.unreached, m.Unreached)
	p.at, p.unreached, p.answered = m.At, m.Unreached, true
	if p.down && r.n.now-p.at < r.n.cfg.unreachedAfter() {
		p.down, p.via, p.frameVia, news = false, 0, 0, true
		r.n.event(0, "peer.reached", "agent", from)
	}
	if news {
		r.findWays()
	}
}

// answer answers a ping, by the straight way only: that is what it is to find out about.
func (r *reach) answer(from wire.AgentID, m *Ping) {
	r.n.sendStraight(from, &Pong{Run: m.Run, At: m.At, Unreached: r.unreached(from)})
}

// unreached returns the agents but one that do not answer.
func (r *reach) unreached(but wire.AgentID) (ids []wire.AgentID) {
	for id, p := range r.peers {
		if p.down && id != but {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// reaches reports whether an agent answers pings.
func (r *reach) reaches(id wire.AgentID) bool {
	p := r.peers[id]
	return p == nil || !p.down
}

// hop returns the agent over which messages reach another, 0 for the straight way.
func (r *reach) hop(to wire.AgentID) wire.AgentID {
	p := r.peers[to]
	switch {
	case p != nil && p.via != 0:
		return p.via
	case p == nil || p.down:
		return r.back[to].over
	}
	return 0
}

// ApplyHop returns the agent to which a request to a secondary is to be sent: another one where it is not reached.
func (n *Node) ApplyHop(to wire.AgentID) wire.AgentID {
	if over := n.reach.hop(to); over != 0 {
		return over
	}
	return to
}

// frameHop returns the agent to which a frame for another is to be sent, and the route's Via.
func (r *reach) frameHop(to wire.AgentID) (hop, via wire.AgentID) {
	if p := r.peers[to]; p != nil && p.frameVia != 0 {
		return p.frameVia, p.frameVia
	}
	return to, 0
}

// stranded returns the members that frames find no way to.
func (r *reach) stranded() (ids []wire.AgentID) {
	for _, id := range r.n.state.Members {
		if p := r.peers[id]; p != nil && p.down && p.frameVia == 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// mayJoin reports whether this agent, as a component, would not be declared lost again at once: it reaches the
// captain, straight or over another, and frames find a way to every member that somebody reaches.
func (r *reach) mayJoin() bool {
	if lead := r.peers[r.n.control.lead()]; lead != nil && (!lead.answered || lead.down) && lead.via == 0 {
		return false
	}
	for _, id := range r.n.state.Members {
		p := r.peers[id]
		if id != r.n.cfg.ID && (p == nil || (!p.answered && !p.down) || (p.down && p.via != 0 && p.frameVia == 0)) {
			return false
		}
	}
	return true
}

// unreached sends again by another way what was on its way to a peer.
func (n *Node) unreached(peer wire.AgentID) {
	n.comp.landAll(peer)
	for _, s := range n.ordered {
		s.disconnected(peer)
	}
	n.eff.Wake = true // senders look at their ways anew
}

// send queues a message, by way of another agent if this one does not reach its receiver.
func (n *Node) send(to wire.AgentID, m Message) {
	if over := n.reach.hop(to); over != 0 {
		n.sendStraight(over, &Relay{From: n.cfg.ID, To: to, Data: EncodeMessage(m)})
		return
	}
	n.sendStraight(to, m)
}

func (n *Node) sendStraight(to wire.AgentID, m Message) {
	if to != 0 {
		n.eff.Send = append(n.eff.Send, Envelope{To: to, Msg: m})
	}
}

// maxRelayed bounds what a Relay carries, in bytes. What is larger takes the straight way, and waits for it.
const maxRelayed = 3 << 20

// relayRaft takes out of ms the messages to agents that are reached over others. They are sent when the Ready that they
// belong to is durable.
func (n *Node) relayRaft(ms []*raftpb.Message) (straight []*raftpb.Message) {
	for _, m := range ms {
		over := n.reach.hop(wire.AgentID(m.GetTo()))
		if over == 0 {
			straight = append(straight, m)
			continue
		}
		data, err := proto.Marshal(m)
		if err != nil || len(data) > maxRelayed {
			straight = append(straight, m)
			continue
		}
		n.control.relays = append(n.control.relays, Envelope{To: over, Msg: &Relay{From: n.cfg.ID, To: wire.AgentID(m.GetTo()), Raft: true, Data: data}})
		if m.GetType() == raftpb.MsgSnap {
			n.control.relayedSnaps = append(n.control.relayedSnaps, wire.AgentID(m.GetTo()))
		}
	}
	return straight
}

// relay passes on what one agent has for another, or takes what is for this one. It goes over one agent at most.
func (n *Node) relay(from wire.AgentID, m *Relay) {
	// Raft tells who was away of agents that joined meanwhile, one of which may be the captain. Their numbers are above all that
	// it knows; others that it does not know were removed.
	joined := m.Raft && m.To == n.cfg.ID && m.From >= n.state.NextAgent
	if (n.state.Agents[m.From] == nil && !joined) || len(m.Data) > maxRelayed {
		return
	}
	if m.To != n.cfg.ID {
		if from == m.From && n.state.Agents[m.To] != nil {
			n.sendStraight(m.To, m)
		}
		return
	}
	if from != m.From && len(n.reach.back) < maxUnreached {
		n.reach.back[m.From] = wayBack{from, n.now}
	}
	if m.Raft {
		rm := &raftpb.Message{}
		if err := proto.Unmarshal(m.Data, rm); err == nil && wire.AgentID(rm.GetFrom()) == m.From {
			n.RaftStep(n.now, rm)
		}
		return
	}
	msg, err := DecodeMessage(m.Data)
	if err != nil {
		n.event(0, "message.refused", "from", m.From, "via", from, "error", err.Error())
		return
	}
	switch msg.(type) {
	case *Relay, *Ping, *Pong:
		return
	}
	n.Receive(n.now, m.From, msg)
}
