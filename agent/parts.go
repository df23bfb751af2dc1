package agent

import (
	"context"
	"errors"
	"maps"
	"net"
	"time"

	"flotilla/agent/backup"
	"flotilla/agent/control"
	"flotilla/agent/core"
	"flotilla/agent/journal"
	"flotilla/agent/loop"
	"flotilla/agent/peers"
	"flotilla/agent/primary"
	"flotilla/agent/secondary"
	"flotilla/agent/vfs"
	"flotilla/nbd"
	"flotilla/wire"
	"flotilla/wire/identity"

	"go.etcd.io/raft/v3/raftpb"
)

// reserveShare is the part of a journal that is kept for re-mirroring after a loss, as a divisor: of three components
// that are full, two must take in what the third held.
const reserveShare = 3

// parts are what performs the node's effects. Those of roles that the agent does not play are nil.
type parts struct {
	control   *control.Store
	events    *eventLog
	holds     *holdLog
	exports   *exports
	peers     *peers.Peers
	transport *transport
	primary   *primary.Primary
	backup    *backup.Backup
	secondary *secondary.Secondary
}

// startParts makes the parts, puts the loop between them and the node, and starts all of them. A part is stopped before
// those that it uses.
func (a *Agent) startParts(node *core.Node, base time.Time, l *listeners) error {
	p := &a.parts
	p.events, p.holds = newEventLog(a.log, base), newHoldLog(a.log)
	server, err := nbd.New(nbd.Options{Logger: a.log})
	if err != nil {
		return err
	}
	p.exports = newExports(server, a.cfg.NBD, a.cfg.Advertise)
	if p.exports.devices, err = a.newDevices(server); err != nil {
		return err
	}
	if err := a.newPeers(); err != nil {
		return err
	}
	p.transport = &transport{peers: p.peers, self: node.ID(), hop: func(to wire.AgentID) (hop wire.AgentID) {
		a.loop.View(func(n *core.Node) { hop = n.ApplyHop(to) })
		return hop
	}}
	if err := a.newRoles(); err != nil {
		return err
	}
	if p.backup != nil {
		err = p.backup.Open(node)
	} else {
		node.Restored()
	}
	if err != nil {
		return err
	}
	a.loop = loop.New(node, p.sinks(&a.watch, a.opt.Beat))
	a.runLoop()

	if err := p.peers.Start(l.ports...); err != nil {
		return errors.Join(err, p.closeBackup())
	}
	a.onClose(p.peers.Close)
	a.running.Go(func() { a.dropRemoved(a.ctx) })
	for _, port := range l.ports {
		a.running.Go(func() {
			if err := port.Serve(); err != nil && !errors.Is(err, net.ErrClosed) {
				a.fail(err)
			}
		})
	}
	a.serveNBD(l)
	if err := a.startRoles(); err != nil {
		return err
	}
	return a.startDevices()
}

// newPeers makes the transport. Its callbacks come only after Start, when there is a loop.
func (a *Agent) newPeers() error {
	p := &a.parts
	do := func(f func(n *core.Node, now time.Duration)) { a.loop.Do(f) }
	var err error
	p.peers, err = peers.New(peers.Options{
		Credentials: a.credentials, Policy: a.policy(), Resolve: a.resolve, Logger: a.log,
		Generation: a.generation, OnGeneration: a.otherGeneration, Behind: a.isBehind,
		Address: a.cfg.Advertise, OnAddress: a.contacts.heard,
		OnMessage: func(from wire.AgentID, m core.Message) {
			do(func(n *core.Node, now time.Duration) { n.Receive(now, from, m) })
		},
		OnRaft: func(_ wire.AgentID, m *raftpb.Message) {
			do(func(n *core.Node, now time.Duration) { n.RaftStep(now, m) })
		},
		OnFrame: p.onFrame,
		OnApply: p.onApply,
		OnDisconnect: func(peer wire.AgentID) {
			do(func(n *core.Node, now time.Duration) { n.Disconnected(now, peer) })
		},
		OnRaftUnreachable: func(peer wire.AgentID) {
			do(func(n *core.Node, _ time.Duration) { n.RaftUnreachable(peer) })
		},
		OnRaftSnapshotSent: func(peer wire.AgentID, ok bool) {
			do(func(n *core.Node, _ time.Duration) { n.RaftSnapshotSent(peer, ok) })
		},
	})
	return err
}

// resolve finds an agent's addresses, the best first: in the replicated state or, before that has arrived, among those that
// the join named, or by the agent's own word. Between two components, frames and the protocol's messages go by the address for components; Raft, which
// all agents are in, and everything with others by the main one. Each is the other's reserve.
func (a *Agent) resolve(id wire.AgentID, kind peers.Kind) []string {
	var address, component string
	a.loop.View(func(n *core.Node) {
		if x := n.State().Agents[id]; x != nil {
			address = x.Address
			if x.Backup && a.cfg.Has(Backup) {
				component = x.ComponentAddress
			}
		}
	})
	if address == "" {
		address = a.seeds[id]
	}
	if address == "" {
		address = a.contacts.of(id)
	}
	switch {
	case address == "":
		return nil
	case component == "":
		return []string{address}
	case kind == peers.Control || kind == peers.Data:
		return []string{component, address}
	}
	return []string{address, component}
}

// newRoles makes the shells of the roles that the agent plays.
func (a *Agent) newRoles() error {
	p := &a.parts
	var err error
	if a.cfg.Has(Backup) {
		limit := int64(a.cfg.Journal.Limit)
		p.backup, err = backup.New(backup.Options{
			FS: vfs.OS(), Dir: a.cfg.Journal.Dir, Cluster: a.credentials().Cluster.String(), Net: p.transport, Events: p.events.one, Logger: a.log,
			Journal: journal.Options{Limit: limit, Reserve: limit / reserveShare},
		})
		if err != nil {
			return err
		}
	}
	if a.cfg.Has(Secondary) {
		p.secondary, err = secondary.New(secondary.Options{
			FS: vfs.OS(), Dir: a.dir.secondary(), Exports: p.exports, Events: p.events.one, Logger: a.log,
		})
		if err != nil {
			return err
		}
	}
	if a.cfg.Has(Primary) {
		// Its events reach the log by way of OnEvent, as everybody's do.
		p.primary, err = primary.New(primary.Options{
			Dir: a.dir.primary(), Sender: p.transport, Exporter: p.exports, OnEvent: p.events.one, Codec: wire.CodecAuto,
			SpoolDir: a.cfg.Spool.Dir, Limits: primary.Limits{NoActivityLog: a.cfg.ActivityLog.Off, SpoolTotal: a.cfg.Spool.total()},
		})
	}
	return err
}

// sinks connects the node's effects to the parts.
func (p *parts) sinks(w *watch, beat func()) loop.Sinks {
	s := loop.Sinks{
		Send: func(out []core.Envelope) {
			for _, e := range out {
				p.peers.SendMessage(e.To, e.Msg)
			}
		},
		Events:   p.events.take,
		Holds:    p.holds.take,
		Beat:     beat,
		SaveRaft: p.control.Save,
		SendRaft: p.peers.SendRaft,
		Wake: func() {
			w.wake()
			if p.primary != nil {
				p.primary.Wake()
			}
			if p.secondary != nil {
				p.secondary.Wake()
			}
		},
	}
	if p.backup != nil {
		s.Frames, s.Remirror, s.Store, s.Free = p.backup.Frames, p.backup.Remirror, p.backup.Store, p.backup.Free
		s.Wipe, s.Apply = p.backup.Wipe, p.backup.Apply
	}
	if p.primary != nil {
		s.Release = p.primary.Release
	}
	return s
}

// onFrame takes a frame of a primary or a component. It is checked, and refused if need be, by who takes it.
func (p *parts) onFrame(from wire.AgentID, r wire.Route, body []byte, release func()) {
	if p.backup == nil {
		release() // by the cluster's state nobody sends one here
		return
	}
	// What is no frame was logged and counted there. Its sender has a bug: it sends it again, and is refused again.
	_ = p.backup.OnFrame(from, r, body, release)
}

// runLoop runs the loop. It ends after everything that calls it.
func (a *Agent) runLoop() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(a.ctx))
	ended := make(chan struct{})
	a.running.Go(func() {
		defer close(ended)
		if err := a.loop.Run(ctx); err != nil {
			a.fail(err)
		}
	})
	a.onClose(func() error {
		cancel()
		<-ended
		return nil
	})
}

// copies returns who says how the copies of this agent's volumes stand, nil without the role of a primary.
func (p *parts) copies() func() primary.Status {
	if p.primary == nil {
		return nil
	}
	return p.primary.Status
}

// startRoles starts the shells. They are closed in an order in which each can finish what it has begun: the primary
// needs components and loop, the others the loop.
func (a *Agent) startRoles() error {
	p := &a.parts
	if p.backup != nil {
		p.backup.Start(a.loop)
		a.onClose(p.closeBackup)
	}
	if p.secondary != nil {
		if err := p.secondary.Start(a.loop); err != nil {
			return err
		}
		a.onClose(p.secondary.Close)
	}
	if p.primary != nil {
		p.primary.Start(a.loop)
		a.onClose(p.primary.Close)
	}
	a.running.Go(func() { a.tellFaults(a.ctx) })
	return nil
}

func (p *parts) closeBackup() error {
	if p.backup == nil {
		return nil
	}
	return p.backup.Close()
}

// serveNBD serves the NBD listeners until the agent ends; then what is in flight is answered.
func (a *Agent) serveNBD(l *listeners) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(a.ctx))
	ended := make(chan struct{}, len(l.nbd))
	for _, x := range l.nbd {
		a.running.Go(func() {
			if err := a.parts.exports.Serve(ctx, x); err != nil {
				a.fail(err)
			}
			ended <- struct{}{}
		})
	}
	a.onClose(func() error {
		cancel()
		for range l.nbd {
			<-ended
		}
		return nil
	})
}

// dropEvery is the least time between two looks for agents that were taken out: the node wakes whoever waits for it with
// each write.
const dropEvery = 50 * time.Millisecond

// dropRemoved closes the connections of agents that are taken out of the cluster.
func (a *Agent) dropRemoved(ctx context.Context) {
	known := map[wire.AgentID]bool{}
	var index uint64
	rest := time.NewTicker(dropEvery)
	defer rest.Stop()
	for {
		select {
		case <-rest.C:
		case <-ctx.Done():
			return
		}
		changed := a.watch.next()
		var gone []wire.AgentID
		a.loop.View(func(n *core.Node) {
			st := n.State()
			if st.Index == index {
				return
			}
			index = st.Index
			for id := range maps.Keys(known) {
				if st.Agents[id] == nil {
					gone = append(gone, id)
					delete(known, id)
				}
			}
			for id := range st.Agents {
				known[id] = true
			}
		})
		for _, id := range gone {
			a.log.Info("agent was removed", "agent", id)
			a.parts.peers.Drop(id)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (a *Agent) credentials() *identity.Credentials { return a.creds.Load() }
