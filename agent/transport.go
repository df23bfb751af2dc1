package agent

import (
	"context"
	"errors"
	"fmt"

	"flotilla/agent/apply"
	"flotilla/agent/peers"
	"flotilla/wire"
)

// transport is package peers as the roles want it.
type transport struct {
	peers *peers.Peers
	self  wire.AgentID
	hop   func(to wire.AgentID) wire.AgentID // over whom a secondary is reached
}

// SendFrame queues a frame. One that is refused was released.
func (t *transport) SendFrame(to wire.AgentID, r wire.Route, body []byte, release func()) error {
	return t.peers.SendFrame(to, r, body, release)
}

// WaitRoom waits until the peer is connected and its queue has room for frames that can wait.
func (t *transport) WaitRoom(ctx context.Context, to wire.AgentID) error {
	return t.peers.WaitRoom(ctx, to)
}

// CallApply has a secondary perform a request, over another agent where this one does not reach it.
func (t *transport) CallApply(ctx context.Context, to wire.AgentID, r *apply.Request) error {
	hop := t.hop(to)
	if hop == to {
		return t.peers.CallApply(ctx, to, r)
	}
	relayed := *r
	relayed.From, relayed.To = t.self, to
	return t.peers.CallApply(ctx, hop, &relayed)
}

// errNoSecondary answers who takes this agent for a secondary.
var errNoSecondary = errors.New("this agent has no secondary role")

// onApply performs a component's request, or passes it on.
func (p *parts) onApply(ctx context.Context, from wire.AgentID, r *apply.Request) error {
	if r.To != 0 && r.To != p.transport.self {
		if from != r.From {
			return fmt.Errorf("a request of agent %d came over agent %d: it goes over one at most", r.From, from)
		}
		return p.peers.CallApply(ctx, r.To, r)
	}
	if r.From != 0 {
		from = r.From // the secondary takes writes of members only
	}
	if p.secondary == nil {
		return errNoSecondary
	}
	return p.secondary.OnApply(ctx, from, r)
}
