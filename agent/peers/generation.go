package peers

import (
	"errors"
	"fmt"

	"flotilla/wire"
)

// ErrBehind is returned for a peer without which this generation of the cluster began.
var ErrBehind = errors.New("the cluster has gone on without it")

// hello is what this agent says of itself now.
func (p *Peers) hello(role wire.ConnRole) wire.Hello {
	h := wire.NewHello(p.cluster, p.self, role, 0)
	h.Generation, h.Promised = p.opts.Generation()
	if len(p.opts.Address) <= wire.MaxAddress {
		h.Address = p.opts.Address
	}
	return h
}

// agreed looks at what the hellos came to: the peer must be the one that is expected, of the same generation, and in it.
func (p *Peers) agreed(peer wire.AgentID, err error) error {
	if other, ok := errors.AsType[*wire.GenerationError](err); ok && other.Peer.Agent == peer {
		p.opts.OnGeneration(other)
	}
	if err == nil && p.opts.Behind(peer) {
		err = fmt.Errorf("agent %d: %w", peer, ErrBehind)
	}
	return err
}
