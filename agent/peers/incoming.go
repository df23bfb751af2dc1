package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"flotilla/wire"
	"flotilla/wire/identity"
)

// incoming is a connection that a peer has opened.
type incoming struct {
	p       *Peers
	conn    *identity.Conn
	peer    wire.AgentID // by its certificate
	kind    Kind         // once it has said hello
	counter *counter     // likewise
	answers chan []byte  // of an apply connection
}

// closeSocket ends whatever is under way on the connection. It closes below TLS: nobody is owed a farewell that could
// block.
func (in *incoming) closeSocket() { _ = in.conn.NetConn().Close() }

// accept is the goroutine of one listener.
func (p *Peers) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return // closed, by Close or by the port's owner
		}
		in, err := p.admit(c)
		if err != nil {
			p.refuse(c.RemoteAddr(), err)
			continue
		}
		p.running.Go(func() {
			if err := in.serve(); err != nil {
				p.refuse(c.RemoteAddr(), err)
			}
		})
	}
}

func (p *Peers) refuse(remote net.Addr, err error) {
	p.mu.Lock()
	p.refusals++
	p.mu.Unlock()
	p.log.Warn("connection was refused", "remote", remote, "error", err)
}

// admit looks at who has connected and whether there is room. It closes the connection on an error.
func (p *Peers) admit(c net.Conn) (*incoming, error) {
	conn, ok := c.(*identity.Conn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("it is a %T and not of the agent's port", c), c.Close())
	}
	in := &incoming{p: p, conn: conn}
	peer, err := conn.Peer()
	if err == nil {
		in.peer = peer.Agent
		switch {
		case peer.Agent == p.self:
			err = fmt.Errorf("it shows a certificate of this agent, %d: %w", p.self, identity.ErrPeer)
		case peer.Cluster != p.cluster:
			err = fmt.Errorf("agent %d: %w", peer.Agent, wire.ErrCluster)
		case p.opts.Policy.Revoked != nil && p.opts.Policy.Revoked(peer.Agent, peer.Serial):
			err = fmt.Errorf("agent %d: %w", peer.Agent, identity.ErrRevoked)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
	case p.closed:
		err = ErrClosed
	case p.total >= p.limits.Connections:
		err = fmt.Errorf("agent %d: there are %d connections already: %w", in.peer, p.total, ErrFull)
	case p.accepted[in.peer] >= p.limits.PeerLimit:
		err = fmt.Errorf("agent %d has %d connections here already: %w", in.peer, p.accepted[in.peer], ErrFull)
	}
	if err != nil {
		in.closeSocket()
		return nil, err
	}
	p.total++
	p.accepted[in.peer]++
	p.greeting[in] = struct{}{}
	return in, nil
}

// serve says hello and hands on what comes until the connection ends. An error says why it was refused; the end of a
// connection that was taken is only logged.
func (in *incoming) serve() error {
	p := in.p
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	defer in.leave()
	defer in.closeSocket()
	defer context.AfterFunc(ctx, in.closeSocket)()

	stream := &paced{Conn: in.conn, silence: p.limits.Silence, stall: p.limits.Stall}
	if err := in.greet(ctx, stream); err != nil {
		return err
	}
	if old := p.enter(in); old != nil {
		old.closeSocket() // the peer has only one of a kind: it has given up the other, or it died with the peer
	}

	o := wire.ConnOptions{Limits: in.kind.limits()}
	var payload *buffer // of the message that is being read
	if in.kind == Data || in.kind == Apply {
		o.Alloc = func(n int) []byte {
			payload = p.pool.get(n)
			return payload.data
		}
	}
	conn := wire.NewConn(stream, o)
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := in.writeBack(ctx, conn); err != nil {
			in.closeSocket()
		}
	})
	var applying sync.WaitGroup
	err := in.read(ctx, conn, &payload, &applying)
	cancel()
	in.closeSocket()
	applying.Wait()
	writing.Wait()
	if p.ctx.Err() == nil && err != io.EOF {
		p.log.Info("connection of a peer has ended", "peer", in.peer, "kind", in.kind, "error", err)
	}
	return nil
}

// greet exchanges hellos.
func (in *incoming) greet(ctx context.Context, stream net.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, in.p.limits.DialTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, in.closeSocket)
	agreed, err := wire.Accept(stream, in.p.hello(0))
	if !stop() && err == nil {
		err = ctx.Err()
	}
	err = in.p.agreed(in.peer, err)
	if err != nil {
		return fmt.Errorf("greet agent %d: %w", in.peer, err)
	}
	if agreed.Peer.Agent != in.peer {
		return fmt.Errorf("agent %d says that it is agent %d: %w", in.peer, agreed.Peer.Agent, identity.ErrPeer)
	}
	protocol := in.conn.ConnectionState().NegotiatedProtocol
	kind, ok := kindOf(protocol, agreed.Role)
	if !ok {
		return fmt.Errorf("agent %d wants a %v connection on %s: %w", in.peer, agreed.Role, protocol, wire.ErrRole)
	}
	if agreed.Peer.Address != "" {
		in.p.opts.OnAddress(in.peer, agreed.Peer.Address)
	}
	in.kind, in.counter = kind, in.p.counter(in.peer, kind)
	if kind == Apply {
		in.answers = make(chan []byte, in.p.limits.ApplyCalls)
	}
	return nil
}

// enter makes a connection the one of its lane and returns the one before it.
func (p *Peers) enter(in *incoming) (old *incoming) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.greeting, in)
	at := lane{in.peer, in.kind}
	old = p.incoming[at]
	p.incoming[at] = in
	p.dialNowLocked(in.peer)
	return old
}

// dialNowLocked ends the pauses before the next dials to a peer: it has just been heard of, so it runs, and does not
// have to wait for what grew while it did not. p.mu is held.
func (p *Peers) dialNowLocked(peer wire.AgentID) {
	for at, l := range p.links {
		if at.peer == peer {
			l.mu.Lock()
			l.downUntil = time.Time{}
			l.mu.Unlock()
			l.signal()
		}
	}
}

// leave takes a connection off the books.
func (in *incoming) leave() {
	p := in.p
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.greeting, in)
	if at := (lane{in.peer, in.kind}); p.incoming[at] == in {
		delete(p.incoming, at)
	}
	p.total--
	if p.accepted[in.peer]--; p.accepted[in.peer] == 0 {
		delete(p.accepted, in.peer)
	}
}

// writeBack writes beats and the answers of calls.
func (in *incoming) writeBack(ctx context.Context, conn *wire.Conn) error {
	beat := time.NewTicker(in.p.limits.Beat)
	defer beat.Stop()
	for {
		m := wire.Message{Type: typeBeat}
		select {
		case <-ctx.Done():
			return nil
		case raw := <-in.answers:
			m = wire.Message{Type: typeAnswer, Payload: raw}
		case <-beat.C:
		}
		if err := conn.WriteMessages(m); err != nil {
			return err
		}
		if m.Type != typeBeat {
			in.counter.send([]wire.Message{m})
		}
	}
}
