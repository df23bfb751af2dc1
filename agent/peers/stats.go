package peers

import (
	"cmp"
	"slices"
	"sync/atomic"

	"flotilla/wire"
)

// counter counts one kind of traffic with one peer, for the life of Peers.
type counter struct {
	sent, received                           atomic.Uint64 // bytes
	messagesSent, messagesReceived           atomic.Uint64
	dropped, refused, dials, failures, moves atomic.Uint64
}

// messageOverhead is what a message has besides its payload; a frame has its route too.
const messageOverhead = 8

func messageBytes(m *wire.Message) uint64 {
	n := uint64(messageOverhead + len(m.Payload))
	if m.Type == wire.TypeFrame {
		n += wire.RouteLength
	}
	return n
}

func (c *counter) send(msgs []wire.Message) {
	n := uint64(0)
	for i := range msgs {
		n += messageBytes(&msgs[i])
	}
	c.sent.Add(n)
	c.messagesSent.Add(uint64(len(msgs)))
}

func (c *counter) receive(m *wire.Message) {
	c.received.Add(messageBytes(m))
	c.messagesReceived.Add(1)
}

// counter returns the counter of a lane. There is one for each agent that was ever sent to or has shown a certificate.
func (p *Peers) counter(peer wire.AgentID, kind Kind) *counter {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counterLocked(peer, kind)
}

func (p *Peers) counterLocked(peer wire.AgentID, kind Kind) *counter {
	c := p.counters[lane{peer, kind}]
	if c == nil {
		c = &counter{}
		p.counters[lane{peer, kind}] = c
	}
	return c
}

// Stats is what Peers have done since New.
type Stats struct {
	Lanes    []LaneStats // ascending by peer, then kind
	Incoming int         // connections that others have opened
	Refusals uint64      // of connections that were closed before or at their hello
}

// LaneStats is one kind of traffic with one peer. Bytes are counted above TLS, with the headers of messages.
type LaneStats struct {
	Peer             wire.AgentID
	Kind             Kind
	Sent             uint64 // bytes
	Received         uint64 // bytes
	MessagesSent     uint64 // beats are not counted
	MessagesReceived uint64
	Dropped          uint64 // messages that were queued, or refused by the queue, and never written
	Refused          uint64 // received messages that contradict the peer's identity or can not be read
	Dials            uint64
	Failures         uint64 // of dials and of outgoing connections
	Moves            uint64 // of the outgoing connection to another of the peer's addresses, without a failure of all
	Queued           int64  // bytes that wait to be written
	Connected        bool   // the outgoing connection is open
	Address          string // where, while it is
}

// Stats returns the counters as they are now.
func (p *Peers) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{Incoming: p.total, Refusals: p.refusals}
	for at, c := range p.counters {
		ls := LaneStats{
			Peer: at.peer, Kind: at.kind, Sent: c.sent.Load(), Received: c.received.Load(),
			MessagesSent: c.messagesSent.Load(), MessagesReceived: c.messagesReceived.Load(), Dropped: c.dropped.Load(),
			Refused: c.refused.Load(), Dials: c.dials.Load(), Failures: c.failures.Load(), Moves: c.moves.Load(),
		}
		if l := p.links[at]; l != nil {
			l.mu.Lock()
			ls.Queued, ls.Connected, ls.Address = l.bytes, l.connected, l.address
			l.mu.Unlock()
		}
		s.Lanes = append(s.Lanes, ls)
	}
	slices.SortFunc(s.Lanes, func(a, b LaneStats) int {
		return cmp.Or(cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Kind, b.Kind))
	})
	return s
}
