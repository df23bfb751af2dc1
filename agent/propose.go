package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/loop"
	"flotilla/wire"
)

// Waits of requests that change something.
const (
	proposeWait = 5 * time.Second // for the outcome of a command
	captainWait = 4 * time.Second // for an election to end
)

// proposer puts commands through Raft for those who wait for their outcome.
type proposer struct {
	loop  *loop.Loop
	watch *watch
}

// propose has a command made with the node at hand, proposes it and returns the number that it gave. A command that the
// state refuses is an api.Refused; api.Unknown says that it may still take effect.
func (p *proposer) propose(ctx context.Context, command func(n *core.Node) (cluster.Command, error)) (uint64, error) {
	id, err := newRequestID()
	if err != nil {
		return 0, err
	}
	p.loop.Do(func(n *core.Node, _ time.Duration) {
		var c cluster.Command
		if c, err = command(n); err != nil {
			return
		}
		c.ID = id
		if !n.Propose(c) {
			err = &api.Error{Code: api.Unavailable, Text: "too many requests wait for the captain: try again"}
		}
	})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, proposeWait)
	defer cancel()
	for {
		changed := p.watch.next()
		var result cluster.Result
		var done bool
		p.loop.View(func(n *core.Node) { result, done = n.Result(id) })
		switch {
		case done && result.Err != "":
			return 0, &api.Error{Code: api.Refused, Text: result.Err}
		case done:
			return result.Value, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, &api.Error{Code: api.Unknown, Text: fmt.Sprintf(
				"the outcome is not known: the cluster did not decide within %v; the request may still be carried out: look at `flotilla status` before you repeat it", proposeWait)}
		}
	}
}

// captain returns the captain and its address, and waits a little while there is none.
func (p *proposer) captain(ctx context.Context) (id wire.AgentID, address string, err error) {
	ctx, cancel := context.WithTimeout(ctx, captainWait)
	defer cancel()
	for {
		changed := p.watch.next()
		p.loop.View(func(n *core.Node) {
			id = n.Captain()
			if a := n.State().Agents[id]; a != nil {
				address = a.Address
			}
		})
		if id != 0 && address != "" {
			return id, address, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, "", &api.Error{Code: api.Unavailable, Text: "there is no captain: a majority of the voting agents must run and reach each other; nothing was changed"}
		}
	}
}

// newRequestID draws the number of a request; it is not 0.
func newRequestID() (uint64, error) {
	n, err := randomUint64()
	return n | 1, err
}

func randomUint64() (uint64, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("draw a random number: %w", err)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}
