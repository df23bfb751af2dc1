package agent

import (
	"context"
	"errors"

	"flotilla/agent/apply"
	"flotilla/agent/peers"
	"flotilla/wire"
)

// transport is package peers as the roles want it.
type transport struct{ peers *peers.Peers }

// SendFrame queues a frame. What peers refuse counts as lost on the way: the node sends it again.
func (t *transport) SendFrame(to wire.AgentID, r wire.Route, body []byte, release func()) {
	_ = t.peers.SendFrame(to, r, body, release) // counted there, and released
}

// WaitRoom waits until the peer is connected and its queue has room for frames that can wait.
func (t *transport) WaitRoom(ctx context.Context, to wire.AgentID) error {
	return t.peers.WaitRoom(ctx, to)
}

// CallApply has a secondary perform a request.
func (t *transport) CallApply(ctx context.Context, to wire.AgentID, r *apply.Request) error {
	return t.peers.CallApply(ctx, to, r)
}

// errNoSecondary answers who takes this agent for a secondary.
var errNoSecondary = errors.New("this agent has no secondary role")

// onApply performs a component's request.
func (p *parts) onApply(ctx context.Context, from wire.AgentID, r *apply.Request) error {
	if p.secondary == nil {
		return errNoSecondary
	}
	return p.secondary.OnApply(ctx, from, r)
}
