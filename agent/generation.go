package agent

import (
	"errors"
	"fmt"

	"flotilla/agent/control"
	"flotilla/agent/core"
	"flotilla/wire"
)

// ErrLeftBehind is returned by an agent without which the cluster has begun a new generation.
var ErrLeftBehind = errors.New("this agent was left behind")

func leftBehind(generation uint64) error {
	return fmt.Errorf("%w: a majority of the cluster was given up for lost and the rest has gone on as generation %d; nothing that is decided or written here counts any more: "+
		"save what you want from its source devices, remove it there (`flotilla component remove`), empty its state directory and join anew", ErrLeftBehind, generation)
}

// readGenerations learns what was promised, and refuses to start an agent that knows that it was left behind.
func (a *Agent) readGenerations(log *control.Store) error {
	g, err := log.Generations()
	if err != nil {
		return err
	}
	if g.Behind > 0 {
		return leftBehind(g.Behind)
	}
	a.promised = g.Promised
	return nil
}

// generation is for this agent's hellos.
func (a *Agent) generation() (generation, promised uint64) {
	a.loop.View(func(n *core.Node) { generation = n.State().Generation })
	return generation, a.promised
}

// isBehind reports whether the cluster's generation began without an agent.
func (a *Agent) isBehind(id wire.AgentID) (behind bool) {
	a.loop.View(func(n *core.Node) {
		x := n.State().Agents[id]
		behind = x != nil && x.Behind
	})
	return behind
}

// otherGeneration ends this agent when a peer is of a generation that began without it. It says so in the log first, so
// that it does not begin again as what it was. A peer that has only promised one is refused and no more: perhaps nothing
// comes of it.
func (a *Agent) otherGeneration(e *wire.GenerationError) {
	if e.Peer.Generation <= e.Own.Level() {
		return
	}
	a.behind.Do(func() {
		err := errors.Join(leftBehind(e.Peer.Generation), a.parts.control.MarkBehind(e.Peer.Generation))
		a.parts.events.one(core.Event{
			At: a.loop.Now(), Name: "agent.left-behind",
			Attrs: []any{"generation", e.Peer.Generation, "own", e.Own.Generation, "told_by", e.Peer.Agent},
		})
		a.fail(err)
	})
}
