package shelltest

import (
	"context"
	"fmt"
	"sync"

	"flotilla/agent/apply"
	"flotilla/agent/core"
	"flotilla/wire"

	"go.etcd.io/raft/v3/raftpb"
)

// inbox delivers to one agent in order, on one goroutine.
type inbox struct {
	mu     sync.Mutex
	cond   sync.Cond
	queue  []delivery // guarded by mu; bounded by the test
	closed bool       // guarded by mu
	done   sync.WaitGroup
}

// delivery is f, which is left out once the inbox is closed, and done, which is called in any case.
type delivery struct{ f, done func() }

func newInbox() *inbox {
	b := &inbox{}
	b.cond.L = &b.mu
	b.done.Go(b.run)
	return b
}

func (b *inbox) put(f, done func()) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		done()
		return
	}
	b.queue = append(b.queue, delivery{f, done})
	b.cond.Signal()
	b.mu.Unlock()
}

func (b *inbox) run() {
	for {
		b.mu.Lock()
		for len(b.queue) == 0 && !b.closed {
			b.cond.Wait()
		}
		q, closed := b.queue, b.closed
		b.queue = nil
		b.mu.Unlock()
		for _, d := range q {
			if !closed {
				d.f()
			}
			d.done()
		}
		if closed {
			return
		}
	}
}

func (b *inbox) close() {
	b.mu.Lock()
	b.closed = true
	b.cond.Signal()
	b.mu.Unlock()
	b.done.Wait()
}

// port is an agent's side of the network.
type port struct {
	c    *Cluster
	self wire.AgentID
}

// SendFrame implements backup.Net.
func (p port) SendFrame(to wire.AgentID, r wire.Route, body []byte, release func()) error {
	if hook := p.c.OnSend; hook != nil {
		if err := hook(p.self, to); err != nil {
			release()
			return err
		}
	}
	p.c.deliver(to, func(a *Agent) { p.c.frame(a, p.self, r, body) }, release)
	return nil
}

// CallApply implements backup.Net.
func (p port) CallApply(ctx context.Context, to wire.AgentID, req *apply.Request) error {
	if hook := p.c.OnCall; hook != nil {
		if err := hook(p.self, req); err != nil {
			return err
		}
	}
	a := p.c.running(to)
	if a == nil {
		return fmt.Errorf("agent %d is not running", to)
	}
	return a.Secondary.OnApply(ctx, p.self, req)
}

// deliver runs f at an agent that runs, and done in any case.
func (c *Cluster) deliver(to wire.AgentID, f func(*Agent), done func()) {
	a := c.running(to)
	if a == nil {
		done()
		return
	}
	a.data.put(func() { f(a) }, done)
}

// frame hands a copy of a frame to an agent's component, as a connection would.
func (c *Cluster) frame(a *Agent, from wire.AgentID, r wire.Route, body []byte) {
	raw := append([]byte(nil), body...)
	if c.Damage != nil {
		c.Damage(r, raw)
	}
	c.out.Add(1)
	if err := a.Backup.OnFrame(from, r, raw, func() {
		for i := range raw {
			raw[i] = 0xdb // whoever still reads it will see
		}
		c.out.Add(-1)
	}); err != nil {
		c.refused.Add(1)
	}
}

func (c *Cluster) messages(from wire.AgentID, list []core.Envelope) {
	for _, e := range list {
		raw := core.EncodeMessage(e.Msg)
		if a := c.running(e.To); a != nil {
			a.control.put(func() {
				m, err := core.DecodeMessage(raw)
				if err != nil {
					panic(err)
				}
				a.Do(func(n *core.Node) { n.Receive(n.Now(), from, m) })
			}, func() {})
		}
	}
}

func (c *Cluster) raft(list []*raftpb.Message) {
	for _, m := range list {
		if a := c.running(wire.AgentID(m.GetTo())); a != nil {
			a.control.put(func() { a.Do(func(n *core.Node) { n.RaftStep(n.Now(), m) }) }, func() {})
		}
	}
}
