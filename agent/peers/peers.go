package peers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"flotilla/wire"
	"flotilla/wire/identity"
)

// Peers are an agent's connections. All methods are safe for concurrent use.
type Peers struct {
	opts    Options
	limits  Limits
	self    wire.AgentID
	cluster wire.ClusterID
	log     *slog.Logger
	pool    pool

	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	running   sync.WaitGroup // links, acceptors, incoming connections and calls to itself
	selfSlots chan struct{}  // one taken for each call to itself

	mu        sync.Mutex // guards what follows
	started   bool
	closed    bool
	listeners []net.Listener
	links     map[lane]*link
	incoming  map[lane]*incoming     // that have said hello, the newest of each lane
	greeting  map[*incoming]struct{} // that have not
	accepted  map[wire.AgentID]int   // incoming connections with a goroutine, by peer
	total     int                    // and of all peers
	counters  map[lane]*counter
	refusals  uint64 // connections that were closed before or at their hello
}

// lane is one kind of traffic with one peer.
type lane struct {
	peer wire.AgentID
	kind Kind
}

// New checks the options. Nothing can be sent before Start.
func New(o Options) (*Peers, error) {
	limits, err := o.Limits.withDefaults()
	if err == nil {
		err = o.check()
	}
	if err != nil {
		return nil, fmt.Errorf("set up peers: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Generation == nil {
		o.Generation = func() (uint64, uint64) { return 0, 0 }
	}
	if o.OnAddress == nil {
		o.OnAddress = func(wire.AgentID, string) {}
	}
	if o.OnGeneration == nil {
		o.OnGeneration = func(*wire.GenerationError) {}
	}
	if o.Behind == nil {
		o.Behind = func(wire.AgentID) bool { return false }
	}
	own := o.Credentials()
	ctx, cancel := context.WithCancel(context.Background())
	return &Peers{
		opts: o, limits: limits, self: own.Agent, cluster: own.Cluster, log: o.Logger,
		ctx: ctx, cancel: cancel, selfSlots: make(chan struct{}, limits.ApplyCalls),
		links: map[lane]*link{}, incoming: map[lane]*incoming{}, greeting: map[*incoming]struct{}{},
		accepted: map[wire.AgentID]int{}, counters: map[lane]*counter{},
	}, nil
}

// Start takes connections from the agent's ports, whose configs have the control, data and raft protocols. The listeners of
// these protocols are Peers' from then on.
func (p *Peers) Start(ports ...*identity.Mux) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started || p.closed {
		return errors.New("start peers: they were started or closed before")
	}
	for _, mux := range ports {
		for _, protocol := range []string{identity.ProtocolControl, identity.ProtocolData, identity.ProtocolRaft} {
			ln, err := mux.Listen(protocol)
			if err != nil {
				for _, l := range p.listeners {
					err = errors.Join(err, l.Close())
				}
				p.listeners = nil
				return fmt.Errorf("start peers: %w", err)
			}
			p.listeners = append(p.listeners, ln)
		}
	}
	p.started = true
	for _, ln := range p.listeners {
		p.running.Go(func() { p.accept(ln) })
	}
	return nil
}

// Close ends all connections and calls, drops what is queued and waits for every goroutine, so for callbacks under way. A
// second Close waits too. Nothing is told to the core by it.
func (p *Peers) Close() error {
	p.mu.Lock()
	p.closed = true
	listeners := p.listeners
	p.listeners = nil
	p.mu.Unlock()
	p.cancel()
	var err error
	for _, ln := range listeners {
		err = errors.Join(err, ln.Close())
	}
	p.running.Wait()
	if err != nil {
		return fmt.Errorf("close peers: %w", err)
	}
	return nil
}

// Drop closes all connections with a peer, as after its certificate was revoked. It does not wait.
func (p *Peers) Drop(peer wire.AgentID) {
	var closers []func()
	p.mu.Lock()
	for lane, l := range p.links {
		l.mu.Lock()
		if lane.peer == peer && l.close != nil {
			closers = append(closers, l.close)
		}
		l.mu.Unlock()
	}
	for lane, in := range p.incoming {
		if lane.peer == peer {
			closers = append(closers, in.closeSocket)
		}
	}
	for in := range p.greeting {
		if in.peer == peer {
			closers = append(closers, in.closeSocket)
		}
	}
	p.mu.Unlock()
	for _, f := range closers {
		f()
	}
}

// withLink calls f with the link to a peer, made if there is none, and its lock held.
func (p *Peers) withLink(to wire.AgentID, kind Kind, f func(*link) error) error {
	if to == 0 {
		return fmt.Errorf("agent 0: %w", ErrUnreachable)
	}
	p.mu.Lock()
	if p.closed || !p.started {
		p.mu.Unlock()
		return ErrClosed
	}
	at := lane{to, kind}
	l := p.links[at]
	if l == nil {
		l = newLink(p, to, kind, p.counterLocked(to, kind))
		p.links[at] = l
		if to == p.self {
			p.running.Go(func() { l.runSelf(p.ctx) })
		} else {
			p.running.Go(func() { l.run(p.ctx) })
		}
	}
	l.mu.Lock()
	p.mu.Unlock()
	defer l.mu.Unlock()
	return f(l)
}

// retire takes a link out, unless something is to be done there. Forced, it always does.
func (p *Peers) retire(l *link, force bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !force && (len(l.queue) > 0 || l.waiters > 0 || len(l.slots) > 0 || l.dropped || l.snapLost) {
		return false
	}
	l.retired = true
	l.changedLocked()
	delete(p.links, lane{l.peer, l.kind})
	return true
}

// jitter returns a duration from d/2 to d, so that agents that lost a peer together do not come back together.
func (p *Peers) jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(rand.Int64N(int64(d/2)+1))
}
