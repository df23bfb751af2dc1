package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/control"
	"flotilla/agent/core"
	"flotilla/agent/loop"
	"flotilla/wire"
	"flotilla/wire/identity"
)

// closeTime bounds what is waited for API requests under way when the agent ends.
const closeTime = 3 * time.Second

// Options are what an agent needs besides its file.
type Options struct {
	Logger  *slog.Logger // default: none
	Version string       // of the program, for the API
	// Ready is called once, when everything runs. Default: nobody.
	Ready func()
	// Stopping is called once after that, when the agent begins to end, for whatever reason. Default: nobody.
	Stopping func()
	// Beat is called some hundred times a second while the agent's loop gets on, by one goroutine, and must not block.
	// Default: nobody.
	Beat func()
	// Now is the clock that certificates are compared with. Default: time.Now.
	Now func() time.Time
	// RenewEvery is how often the agent looks whether its certificate is to be renewed. Default: an hour.
	RenewEvery time.Duration
}

// Agent is one agent. Make it with New; Run is all there is to do with it.
type Agent struct {
	cfg Config
	opt Options
	log *slog.Logger

	// Set by Run, in the order of its steps.
	dir      *stateDir
	creds    atomic.Pointer[identity.Credentials] // replaced by a renewal
	ca       *identity.CA                         // nil on agents that cannot admit others
	promised uint64                               // generation below which this agent talks to nobody
	behind   sync.Once                            // it was told that it was left behind
	seeds    map[wire.AgentID]string
	contacts contacts
	parts    parts
	loop     *loop.Loop
	watch    watch

	running sync.WaitGroup  // everything that serve started
	failed  chan error      // capacity 1: the first failure that ends the agent
	closers []func() error  // what is undone at the end, in the order in which it was done
	ctx     context.Context // of Run; the parts that end early watch it
}

// New checks the configuration.
func New(c Config, o Options) (*Agent, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Ready == nil {
		o.Ready = func() {}
	}
	if o.Stopping == nil {
		o.Stopping = func() {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.RenewEvery <= 0 {
		o.RenewEvery = renewEvery
	}
	return &Agent{cfg: c, opt: o, log: o.Logger, failed: make(chan error, 1)}, nil
}

// Run runs the agent until ctx ends, and then returns nil, or until something fails without which it cannot go on. It is
// called once. Everything that it started has ended when it returns.
func (a *Agent) Run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	a.ctx = ctx
	defer func() {
		a.running.Wait()
		if err == nil {
			a.log.Info("agent stopped", "agent", a.cfg.Name)
		}
	}()
	defer func() {
		cancel() // also what nobody closes ends, when a failure is the reason
		err = errors.Join(err, a.close())
	}()
	if err := a.start(); err != nil {
		return err
	}
	a.log.Info("agent runs", "agent", a.cfg.Name, "id", a.credentials().Agent, "cluster", a.credentials().Cluster, "listen", a.cfg.Listen, "version", a.opt.Version)
	a.opt.Ready()
	defer a.opt.Stopping()
	select {
	case <-ctx.Done():
		return nil
	case err := <-a.failed:
		return err
	}
}

// onClose remembers how to undo a step of start.
func (a *Agent) onClose(undo func() error) { a.closers = append(a.closers, undo) }

// close undoes what start has done, last things first.
func (a *Agent) close() error {
	var errs []error
	for _, undo := range slices.Backward(a.closers) {
		errs = append(errs, undo())
	}
	a.closers = nil
	return errors.Join(errs...)
}

// fail ends the agent. Only the first failure counts.
func (a *Agent) fail(err error) {
	select {
	case a.failed <- err:
	default:
	}
}

// start takes what others could have first (the directory, ports, sockets), then reads what is on disk, and at last
// talks to others:
//
//	state directory → identity → ports → control log → node → journal → loop → roles → peers → NBD → API
func (a *Agent) start() error {
	var err error
	if a.dir, err = openStateDir(a.cfg.StateDir); err != nil {
		return err
	}
	a.onClose(a.dir.release)
	creds, ca, err := loadIdentity(a.cfg, a.dir, a.opt.Now())
	if err != nil {
		return err
	}
	a.creds.Store(creds)
	a.ca = ca
	if a.seeds, err = loadPeers(a.dir); err != nil {
		return err
	}
	l, err := a.listen()
	if err != nil {
		return err
	}
	node, base, err := a.openNode()
	if err != nil {
		return err
	}
	if err := a.startParts(node, base, l); err != nil {
		return err
	}
	return a.serveAPI(l)
}

// listeners are the agent's doors.
type listeners struct {
	ports []*identity.Mux // listen, and component_listen if there is one
	api   net.Listener
	join  net.Listener
	admin net.Listener
	nbd   []net.Listener
}

func (a *Agent) policy() identity.Policy { return identity.Policy{Revoked: a.revoked, Now: a.opt.Now} }

// revoked reports whether an agent was taken out of the cluster. A number that this agent's state has not got to yet is
// that of an agent that has just joined.
func (a *Agent) revoked(id wire.AgentID, _ string) (gone bool) {
	if a.loop == nil {
		return false // nobody was let in yet
	}
	a.loop.View(func(n *core.Node) {
		st := n.State()
		gone = st.Agents[id] == nil && id < st.NextAgent
	})
	return gone
}

// listen opens all doors, so that one that is taken shows before anything has happened.
func (a *Agent) listen() (*listeners, error) {
	l := &listeners{}
	port, err := a.openPort(l, "listen", a.cfg.Listen, append(peerProtocols(), identity.ProtocolAPI, identity.ProtocolJoin))
	if err != nil {
		return nil, err
	}
	if l.api, err = port.Listen(identity.ProtocolAPI); err != nil {
		return nil, err
	}
	if l.join, err = port.Listen(identity.ProtocolJoin); err != nil {
		return nil, err
	}
	if a.cfg.ComponentListen != "" { // for components alone, who neither join nor ask there
		if _, err := a.openPort(l, "component_listen", a.cfg.ComponentListen, peerProtocols()); err != nil {
			return nil, err
		}
	}
	if l.admin, err = listenUnix("state_dir", a.cfg.AdminSocket()); err != nil {
		return nil, err
	}
	a.onClose(ignoreClosed(l.admin.Close))
	if a.cfg.NBD.Unix != "" {
		x, err := listenUnix("nbd.unix", a.cfg.NBD.Unix)
		if err != nil {
			return nil, err
		}
		l.nbd = append(l.nbd, x)
		a.onClose(ignoreClosed(x.Close))
	}
	if a.cfg.NBD.Listen != "" {
		x, err := listenTCP("nbd.listen", a.cfg.NBD.Listen)
		if err != nil {
			return nil, err
		}
		l.nbd = append(l.nbd, x)
		a.onClose(ignoreClosed(x.Close))
	}
	return l, nil
}

func peerProtocols() []string {
	return []string{identity.ProtocolData, identity.ProtocolControl, identity.ProtocolRaft}
}

// openPort opens one of the agent's own ports; the same checks stand at each.
func (a *Agent) openPort(l *listeners, key, address string, protocols []string) (*identity.Mux, error) {
	port, err := listenTCP(key, address)
	if err != nil {
		return nil, err
	}
	mux := identity.NewMux(port, identity.ServerConfig(a.credentials, protocols, a.policy()), identity.MuxOptions{
		Refused: func(remote net.Addr, err error) { a.log.Warn("connection refused", "remote", remote, "err", err) },
	})
	a.onClose(mux.Close)
	l.ports = append(l.ports, mux)
	return mux, nil
}

// ignoreClosed is for listeners that whoever serves them closes as well.
func ignoreClosed(closer func() error) func() error {
	return func() error {
		if err := closer(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}

// openNode makes the node of what the control log holds. base is the wall clock at its time 0.
func (a *Agent) openNode() (node *core.Node, base time.Time, err error) {
	log, err := control.Open(a.dir.control())
	if err != nil {
		return nil, base, err
	}
	a.parts.control = log
	a.onClose(log.Close)
	if err := a.readGenerations(log); err != nil {
		return nil, base, err
	}
	boot, err := log.Boot()
	if err != nil {
		return nil, base, err
	}
	seed, err := randomUint64()
	if err != nil {
		return nil, base, err
	}
	base = time.Now()
	node, err = core.New(a.cfg.core(a.credentials().Agent, seed, base.UnixNano()), boot, 0)
	if err != nil {
		return nil, base, err
	}
	return node, base, a.checkState(node)
}

// checkState compares the file with what the cluster knows of this agent.
func (a *Agent) checkState(n *core.Node) error {
	st, own := n.State(), a.credentials()
	if st.Cluster != "" && st.Cluster != own.Cluster.String() {
		return fmt.Errorf("the control log in %s is of cluster %s, the certificate of %v: one of them was put there by hand",
			a.dir.path, st.Cluster, own.Cluster)
	}
	known := st.Agents[own.Agent]
	if known == nil {
		return nil // it has just joined
	}
	if known.Address != a.cfg.Advertise {
		return fmt.Errorf("%w: advertise: %q: the cluster knows this agent at %s: use that address, or remove the agent and join it anew",
			ErrConfig, a.cfg.Advertise, known.Address)
	}
	if have := a.cfg.ComponentAdvertise; known.ComponentAddress != have {
		at := "at " + known.ComponentAddress
		if known.ComponentAddress == "" {
			at = "without an address for components"
		}
		return fmt.Errorf("%w: component_advertise: %q: the cluster knows this agent %s: say the same, or remove the agent and join it anew",
			ErrConfig, have, at)
	}
	if known.Primary != a.cfg.Has(Primary) || known.Backup != a.cfg.Has(Backup) || known.Secondary != a.cfg.Has(Secondary) {
		return fmt.Errorf("%w: roles: %q: the cluster knows this agent with the roles %q: use those, or remove the agent and join it anew",
			ErrConfig, fmt.Sprint(a.cfg.Roles), fmt.Sprint(rolesOf(known)))
	}
	return nil
}

// serveAPI serves the API on the socket and on the port, and joiners.
func (a *Agent) serveAPI(l *listeners) error {
	s := &apiServer{
		proposer: proposer{loop: a.loop, watch: &a.watch},
		log:      a.log, id: a.credentials().Agent, events: a.parts.events, ca: a.ca, creds: a.credentials, policy: a.policy(),
		address: a.cfg.Advertise, socket: a.cfg.AdminSocket(), local: a.local, clients: map[wire.AgentID]peerClient{},
		known: newValidities(), behind: a.isBehind,
	}
	s.metrics = newMetricsHandler(newCollector(s.statusNow, a.parts.events, a.parts.holds, a.parts.peers.Stats, a.parts.exports.Stats,
		func() time.Time { return a.credentials().Cert.NotAfter }, a.parts.copies()))
	h := s.handler()
	var servers []*http.Server
	for _, d := range []struct {
		l net.Listener
		h http.Handler
		n int
	}{{l.admin, a.cfg.Debug.withProfiles(h), maxAPIConns}, {l.api, h, maxAPIConns}, {l.join, s.joinHandler(), maxJoinConns}} {
		server := &http.Server{
			Handler: d.h, ReadHeaderTimeout: apiReadTime, ReadTimeout: apiReadTime, IdleTimeout: 2 * apiReadTime,
			WriteTimeout: maxEventWait + apiReadTime, MaxHeaderBytes: 64 << 10,
			ErrorLog:    slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
			BaseContext: func(net.Listener) context.Context { return a.ctx },
		}
		servers = append(servers, server)
		a.running.Go(func() {
			if err := server.Serve(newLimited(d.l, d.n)); !errors.Is(err, http.ErrServerClosed) {
				a.fail(fmt.Errorf("serve the API on %v: %w", d.l.Addr(), err))
			}
		})
	}
	a.onClose(func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), closeTime)
		defer cancel()
		var errs []error
		for _, server := range servers {
			if err := server.Shutdown(ctx); err != nil {
				errs = append(errs, server.Close()) // who still waits for an answer gets none
			}
		}
		s.closeClients()
		return errors.Join(errs...)
	})
	a.keepRenewed(s)
	return nil
}

// local is what only this agent knows.
func (a *Agent) local() api.Local {
	own := a.credentials()
	l := api.Local{
		ID: uint64(own.Agent), Name: a.cfg.Name, Version: a.opt.Version, HasCA: a.ca != nil,
		Certificate: api.Validity{From: own.Cert.NotBefore, Until: own.Cert.NotAfter},
		NBD:         a.parts.exports.bases, Exports: a.parts.exports.list(),
	}
	a.loop.View(func(n *core.Node) {
		if c := n.State().Agents[n.Captain()]; c != nil {
			l.Captain = c.Name
		}
	})
	return l
}
