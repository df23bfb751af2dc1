package peers_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"flotilla/agent/apply"
	"flotilla/agent/core"
	"flotilla/agent/peers"
	"flotilla/wire"
	"flotilla/wire/identity"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test.
const patience = 30 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func within[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing came within %v", what, patience)
		panic("unreachable")
	}
}

// eventually waits for a condition that nothing announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func newCA(t testing.TB, id byte) *identity.CA {
	t.Helper()
	ca, err := identity.NewCA(wire.ClusterID{id}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newCredentials(t testing.TB, ca *identity.CA, id wire.AgentID) *identity.Credentials {
	t.Helper()
	name := fmt.Sprintf("host-%d", id)
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	request, err := identity.NewRequest(key, name)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(request, id, name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := identity.NewCredentials(key, cert, ca.Certificate().Raw, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// cluster is some agents on this machine and where they listen.
type cluster struct {
	t  testing.TB
	ca *identity.CA

	mu        sync.Mutex
	addresses map[wire.AgentID]string
	better    map[wire.AgentID]string // second addresses, preferred for control and data where they are known
}

func newCluster(t testing.TB) *cluster {
	return &cluster{t: t, ca: newCA(t, 1), addresses: map[wire.AgentID]string{}, better: map[wire.AgentID]string{}}
}

func (c *cluster) resolve(id wire.AgentID) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.addresses[id]
	return a, ok
}

func (c *cluster) addressesOf(id wire.AgentID, kind peers.Kind) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	first, ok := c.addresses[id]
	second, two := c.better[id]
	switch {
	case !ok:
		return nil
	case !two:
		return []string{first}
	case kind == peers.Control || kind == peers.Data:
		return []string{second, first}
	}
	return []string{first, second}
}

func (c *cluster) listen(id wire.AgentID) net.Listener {
	c.t.Helper()
	address, ok := c.resolve(id)
	if !ok {
		address = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.addresses[id] = ln.Addr().String()
	c.mu.Unlock()
	return ln
}

// got is something that a callback was called with.
type got struct {
	from    wire.AgentID
	message core.Message
	route   wire.Route
	body    []byte
	release func()
	raft    *raftpb.Message
}

// node is one agent. Its callbacks put what they get into the channels.
type node struct {
	*peers.Peers
	id           wire.AgentID
	cluster      *cluster
	creds        *identity.Credentials
	messages     chan got
	frames       chan got
	rafts        chan got
	disconnected chan wire.AgentID
	unreachable  chan wire.AgentID
	snapshots    chan bool
	ports        []*identity.Mux
	served       chan error
	stop         sync.Once
}

// quick are limits with which tests need not wait long, and a busy machine is not taken for a dead one.
func quick() peers.Limits {
	return peers.Limits{Beat: 50 * time.Millisecond, Silence: 5 * time.Second, BackoffMin: 5 * time.Millisecond, BackoffMax: 50 * time.Millisecond}
}

// start starts an agent. change may change its options, nil leaves them.
func (c *cluster) start(id wire.AgentID, change func(*peers.Options)) *node {
	c.t.Helper()
	return c.startAt(id, nil, change)
}

// startAt is start for an agent that listens at a second address, too, if second is not nil.
func (c *cluster) startAt(id wire.AgentID, second net.Listener, change func(*peers.Options)) *node {
	c.t.Helper()
	n := &node{
		id: id, cluster: c, creds: newCredentials(c.t, c.ca, id),
		messages: make(chan got, 10_000), frames: make(chan got, 10_000), rafts: make(chan got, 10_000),
		disconnected: make(chan wire.AgentID, 10_000), unreachable: make(chan wire.AgentID, 10_000), snapshots: make(chan bool, 1000),
		served: make(chan error, 2),
	}
	o := peers.Options{
		Credentials: func() *identity.Credentials { return n.creds },
		Resolve:     c.addressesOf,
		OnMessage:   func(from wire.AgentID, m core.Message) { n.messages <- got{from: from, message: m} },
		OnFrame: func(from wire.AgentID, r wire.Route, body []byte, release func()) {
			n.frames <- got{from: from, route: r, body: body, release: release}
		},
		OnRaft:             func(from wire.AgentID, m *raftpb.Message) { n.rafts <- got{from: from, raft: m} },
		OnApply:            func(context.Context, wire.AgentID, *apply.Request) error { return errors.New("no target here") },
		OnDisconnect:       func(peer wire.AgentID) { n.disconnected <- peer },
		OnRaftUnreachable:  func(peer wire.AgentID) { n.unreachable <- peer },
		OnRaftSnapshotSent: func(_ wire.AgentID, ok bool) { n.snapshots <- ok },
		Limits:             quick(),
	}
	if change != nil {
		change(&o)
	}
	var err error
	if n.Peers, err = peers.New(o); err != nil {
		c.t.Fatal(err)
	}
	protocols := []string{identity.ProtocolControl, identity.ProtocolData, identity.ProtocolRaft}
	listeners := []net.Listener{c.listen(id)}
	if second != nil {
		listeners = append(listeners, second)
	}
	for _, ln := range listeners {
		n.ports = append(n.ports, identity.NewMux(ln, identity.ServerConfig(o.Credentials, protocols, o.Policy), identity.MuxOptions{}))
	}
	if err := n.Start(n.ports...); err != nil {
		c.t.Fatal(err)
	}
	for _, mux := range n.ports {
		go func() { n.served <- mux.Serve() }()
	}
	c.t.Cleanup(n.kill)
	return n
}

// kill ends the agent.
func (n *node) kill() {
	n.stop.Do(func() {
		if err := n.Close(); err != nil {
			n.cluster.t.Error(err)
		}
		for _, mux := range n.ports {
			if err := mux.Close(); err != nil {
				n.cluster.t.Error(err)
			}
		}
		for range n.ports {
			if err := <-n.served; err != nil && !errors.Is(err, net.ErrClosed) {
				n.cluster.t.Error(err)
			}
		}
	})
}

// lane returns the statistics of one kind of traffic with a peer.
func (n *node) lane(peer wire.AgentID, kind peers.Kind) peers.LaneStats {
	for _, l := range n.Stats().Lanes {
		if l.Peer == peer && l.Kind == kind {
			return l
		}
	}
	return peers.LaneStats{}
}

// raw opens a connection by hand, with any credentials and any hello.
func (n *node) raw(creds *identity.Credentials, protocol string, hello wire.Hello) (*identity.Conn, error) {
	n.cluster.t.Helper()
	address, _ := n.cluster.resolve(n.id)
	conn, err := identity.Dial(testContext(n.cluster.t), address, creds, protocol, n.id, identity.Policy{})
	if err != nil {
		n.cluster.t.Fatal(err)
	}
	n.cluster.t.Cleanup(func() { conn.NetConn().Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err = wire.Initiate(conn, hello)
	return conn, err
}

// mustRaw is raw for a hello that is taken.
func (n *node) mustRaw(creds *identity.Credentials, protocol string, role wire.ConnRole) *identity.Conn {
	n.cluster.t.Helper()
	conn, err := n.raw(creds, protocol, wire.NewHello(creds.Cluster, creds.Agent, role, 0))
	if err != nil {
		n.cluster.t.Fatal(err)
	}
	return conn
}

// ends waits until the other side has closed a connection.
func ends(t testing.TB, what string, conn *identity.Conn) {
	t.Helper()
	buf := make([]byte, 4096)
	for {
		if _, err := conn.Read(buf); err != nil {
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				t.Errorf("%s: the connection is still open", what)
			}
			return
		}
	}
}
