package agent

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/peers"
)

// relay is a network: it carries connections to one address, and counts their bytes. While it is cut it carries nothing and
// says nothing, and what was cut stays so.
type relay struct {
	ln      net.Listener
	to      string
	running sync.WaitGroup

	mu     sync.Mutex
	cut    bool
	conns  []net.Conn
	closed bool
	bytes  int64
}

func newRelay(t *testing.T, host, to string) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{ln: ln, to: to}
	r.running.Go(r.accept)
	t.Cleanup(func() {
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		r.closed = true
		for _, c := range r.conns {
			_ = c.Close() // one side may have gone before
		}
		r.mu.Unlock()
		r.running.Wait()
	})
	return r
}

func (r *relay) accept() {
	for {
		in, err := r.ln.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", r.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, in, out)
		silent := r.cut
		if r.closed {
			_, _ = in.Close(), out.Close()
		}
		r.mu.Unlock()
		for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
			r.running.Go(func() { r.carry(way[0], way[1], silent) })
		}
	}
}

// carry copies one way of a connection until it ends. One that was silent once stays so.
func (r *relay) carry(from, to net.Conn, silent bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		r.mu.Lock()
		silent = silent || r.cut
		if !silent {
			r.bytes += int64(n)
		}
		r.mu.Unlock()
		if silent && err == nil {
			continue
		}
		if silent { // nobody hears that this side has ended
			return
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			_, _ = from.Close(), to.Close()
			return
		}
	}
}

func (r *relay) setCut(cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = cut
}

func (r *relay) carried() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// soon waits for a condition that nothing announces.
func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(testTime); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, testTime)
		}
	}
}

// wired is an agent of a test's cluster.
type wired struct {
	cfg    Config
	agent  *Agent
	client *api.Client
	relay  *relay // before its port for components
}

// newWired founds a cluster, or joins the one that a client speaks for.
func newWired(t *testing.T, name string, roles []Role, founder *api.Client) *wired {
	t.Helper()
	m := &wired{cfg: testConfig(t, name)}
	m.cfg.Roles = roles
	if m.cfg.Has(Backup) {
		l, err := net.Listen("tcp", "127.0.0.2:0")
		if err != nil {
			t.Fatal(err)
		}
		m.cfg.ComponentListen = l.Addr().String()
		m.relay = newRelay(t, "127.0.0.3", m.cfg.ComponentListen)
		m.cfg.ComponentAdvertise = m.relay.ln.Addr().String()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if founder == nil {
		_, err = Found(m.cfg, time.Now())
	} else {
		_, err = Join(testContext(t), m.cfg, newToken(t, founder).Text(), time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	m.agent, m.client, _ = start(t, m.cfg)
	return m
}

// lane is what goes from one member to another.
func (m *wired) lane(to *wired, kind peers.Kind) peers.LaneStats {
	for _, l := range m.agent.parts.peers.Stats().Lanes {
		if l.Peer == to.agent.credentials().Agent && l.Kind == kind {
			return l
		}
	}
	return peers.LaneStats{}
}

// Two components talk to each other on their own network and with everybody else on the main one. When their own is cut
// they go on over the main one, and nobody is lost; when it is mended they are back on it.
func TestTwoNetworks(t *testing.T) {
	one := newWired(t, "one", []Role{Backup}, nil)
	two := newWired(t, "two", []Role{Backup}, one.client)
	rest := newWired(t, "rest", []Role{Primary, Secondary}, one.client)
	dir := filepath.Dir(rest.cfg.StateDir)
	for _, name := range []string{"source", "target"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 4<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	q := api.GroupRequest{Name: "g", Mode: "sync", PeriodMS: 50, PortionSize: 1 << 20}
	if err := one.client.Call(testContext(t), http.MethodPost, "/v1/groups", q, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, one.agent, "two members", func(n *core.Node) bool { return len(n.State().Members) == 2 })
	if err := one.client.Call(testContext(t), http.MethodPost, api.GroupPath("g")+"/volumes", api.VolumeRequest{
		Name: "v", Size: 4 << 20, Primary: "rest", Source: filepath.Join(dir, "source"), Secondary: "rest", Target: filepath.Join(dir, "target"),
	}, nil); err != nil {
		t.Fatal(err)
	}
	// Each set has at least a manifest, which goes from its owner to its mirror; over twenty sets each component is both.
	replicates := func(when string) {
		t.Helper()
		began := time.Now()
		defer func() { t.Logf("%s: 20 sets in %v", when, time.Since(began)) }()
		from := uint64(0)
		eventually(t, one.agent, "sets are applied "+when, func(n *core.Node) bool {
			g := n.State().GroupByName("g")
			if from == 0 {
				from = max(1, uint64(g.Applied))
			}
			return uint64(g.Applied) >= from+20
		})
	}
	between := func(when, where string, address func(to *wired) string) {
		t.Helper()
		soon(t, "components talk "+where+" "+when, func() bool {
			for _, way := range [][2]*wired{{one, two}, {two, one}} {
				if way[0].lane(way[1], peers.Control).Address != address(way[1]) {
					return false
				}
				if l := way[0].lane(way[1], peers.Data); l.Address != address(way[1]) && l.Connected {
					return false
				}
			}
			return true
		})
	}
	component := func(to *wired) string { return to.cfg.ComponentAdvertise }
	main := func(to *wired) string { return to.cfg.Advertise }

	replicates("at first")
	between("at first", "on their own network", component)
	sent := func() int64 {
		return int64(one.lane(two, peers.Data).Sent + two.lane(one, peers.Data).Sent)
	}
	carried := func() int64 { return one.relay.carried() + two.relay.carried() }
	beforeSent, beforeCarried := sent(), carried()
	replicates("on two networks")
	if s, c := sent()-beforeSent, carried()-beforeCarried; s == 0 || c < s {
		t.Errorf("components sent each other %d bytes of frames and their network carried %d bytes", s, c)
	}
	for _, m := range []*wired{one, two} {
		for _, kind := range []peers.Kind{peers.Control, peers.Data, peers.Raft, peers.Apply} {
			if l := m.lane(rest, kind); l.Connected && l.Address != rest.cfg.Advertise {
				t.Errorf("%s to rest: %+v", m.cfg.Name, l)
			}
			if l := rest.lane(m, kind); (l.Connected && l.Address != m.cfg.Advertise) || l.Moves != 0 {
				t.Errorf("rest to %s: %+v", m.cfg.Name, l)
			}
		}
	}
	if a, b := one.lane(two, peers.Raft), two.lane(one, peers.Raft); a.Address != two.cfg.Advertise || b.Address != one.cfg.Advertise {
		t.Errorf("raft: %+v, %+v", a, b)
	}
	checkAddresses(t, one, two, rest)

	view := func() (view uint64) {
		one.agent.loop.View(func(n *core.Node) { view = uint64(n.State().View) })
		return view
	}
	before := view()
	for _, m := range []*wired{one, two} {
		m.relay.setCut(true)
	}
	between("after the cut", "on the main network", main)
	quiet := carried()
	replicates("on one network")
	if c := carried(); c != quiet {
		t.Errorf("%d bytes went over the network that was cut", c-quiet)
	}
	for _, m := range []*wired{one, two} {
		m.relay.setCut(false)
	}
	between("after it was mended", "on their own network", component)
	replicates("on two networks again")
	if after := view(); after != before {
		t.Errorf("the view rose from %d to %d: somebody was declared lost", before, after)
	}
}

// checkAddresses compares what the status says with the files.
func checkAddresses(t *testing.T, members ...*wired) {
	t.Helper()
	s, err := members[0].client.Status(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	say := func(what, name, address, component string) {
		for _, m := range members {
			if m.cfg.Name == name && (m.cfg.Advertise != address || m.cfg.ComponentAdvertise != component) {
				t.Errorf("%s %s: %q and %q, want %q and %q", what, name, address, component, m.cfg.Advertise, m.cfg.ComponentAdvertise)
			}
		}
	}
	for _, a := range s.Agents {
		say("agent", a.Name, a.Address, a.ComponentAddress)
	}
	for _, c := range s.Components {
		say("component", c.Agent, c.Address, c.ComponentAddress)
	}
	if len(s.Components) != len(members)-1 {
		t.Errorf("%d components", len(s.Components))
	}
}

// The address for components is checked at each start, as the other one is, and a port that is taken is named by its key.
func TestComponentPortIsChecked(t *testing.T) {
	c := testConfig(t, "first")
	c.ComponentListen = "127.0.0.2:7"
	c.ComponentAdvertise = c.ComponentListen
	if _, err := Found(c, time.Now()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	run := func(listen, advertise string) error {
		changed := c
		changed.ComponentListen, changed.ComponentAdvertise = listen, advertise
		a, err := New(changed, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return a.Run(testContext(t))
	}
	taken := l.Addr().String()
	if err := run(taken, c.ComponentAdvertise); !errors.Is(err, ErrAddressInUse) {
		t.Errorf("a port that is taken: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for listen, advertise := range map[string]string{"": "", taken: "127.0.0.2:8"} {
		if err := run(listen, advertise); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "at 127.0.0.2:7: say the same") {
			t.Errorf("advertised at %q: %v", advertise, err)
		}
	}
}
