package peers_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"flotilla/agent/apply"
	"flotilla/agent/core"
	"flotilla/agent/peers"
	"flotilla/wire"
	"flotilla/wire/identity"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// The numbers of the message types, as the package's comment gives them.
const (
	typeBeat     wire.Type = 16
	typeMessage  wire.Type = 17
	typeRaft     wire.Type = 18
	typeSnapshot wire.Type = 19
	typeApply    wire.Type = 20
	typeAnswer   wire.Type = 21
)

// Who is not the one that its hello names, or not of this cluster, is refused, and nothing of it is handed on.
func TestImpostors(t *testing.T) {
	c := newCluster(t)
	var revoked atomic.Uint64
	n := c.start(1, func(o *peers.Options) {
		o.Policy.Revoked = func(id wire.AgentID, _ string) bool { return uint64(id) == revoked.Load() }
	})
	three := newCredentials(t, c.ca, 3)
	hello := func(change func(*wire.Hello)) wire.Hello {
		h := wire.NewHello(three.Cluster, 3, wire.RoleControl, 0)
		change(&h)
		return h
	}
	refusals := n.Stats().Refusals
	for _, bad := range []struct {
		name     string
		creds    *identity.Credentials
		protocol string
		hello    wire.Hello
	}{
		{"agent 3 says that it is 2", three, identity.ProtocolControl, hello(func(h *wire.Hello) { h.Agent = 2 })},
		{"another cluster in the hello", three, identity.ProtocolControl, hello(func(h *wire.Hello) { h.Cluster = wire.ClusterID{9} })},
		{"another version", three, identity.ProtocolControl, hello(func(h *wire.Hello) { h.Min, h.Max = 9, 9 })},
		{"data role on the control protocol", three, identity.ProtocolControl, hello(func(h *wire.Hello) { h.Role = wire.RoleData })},
		{"control role on the data protocol", three, identity.ProtocolData, hello(func(*wire.Hello) {})},
		{"apply role on the raft protocol", three, identity.ProtocolRaft, hello(func(h *wire.Hello) { h.Role = 3 })},
		{"this agent's own ID", newCredentials(t, c.ca, 1), identity.ProtocolControl, hello(func(h *wire.Hello) { h.Agent = 1 })},
	} {
		conn, _ := n.raw(bad.creds, bad.protocol, bad.hello) // some are refused before they are answered
		ends(t, bad.name, conn)
		refusals++
		eventually(t, bad.name+": refusal is counted", func() bool { return n.Stats().Refusals == refusals })
	}
	// Who is no member does not get through TLS.
	address, _ := c.resolve(1)
	stranger := newCredentials(t, newCA(t, 2), 2)
	if conn, err := identity.Dial(testContext(t), address, stranger, identity.ProtocolControl, 1, identity.Policy{}); !errors.Is(err, identity.ErrPeer) {
		t.Errorf("agent of another cluster: %v, %v", conn, err)
	}
	// One who was taken is out when it is revoked.
	conn := n.mustRaw(three, identity.ProtocolControl, wire.RoleControl)
	eventually(t, "agent 3 is taken", func() bool { return n.Stats().Incoming == 1 })
	revoked.Store(3)
	n.Drop(3)
	ends(t, "revoked agent", conn)
	if len(n.messages)+len(n.frames)+len(n.rafts) != 0 {
		t.Error("something of an impostor was handed on")
	}
}

// fake listens as an agent and says a hello of its own to whoever comes; then it never says anything.
func fake(t *testing.T, c *cluster, id wire.AgentID, hello func(wire.Hello) wire.Hello) {
	creds := newCredentials(t, c.ca, id)
	protocols := []string{identity.ProtocolControl, identity.ProtocolData, identity.ProtocolRaft}
	mux := identity.NewMux(c.listen(id), identity.ServerConfig(func() *identity.Credentials { return creds }, protocols, identity.Policy{}), identity.MuxOptions{})
	served := make(chan error, 1)
	ln, err := mux.Listen(identity.ProtocolData)
	if err != nil {
		t.Fatal(err)
	}
	accepting := make(chan struct{})
	go func() { served <- mux.Serve() }()
	go func() {
		defer close(accepting)
		var conns []net.Conn
		defer func() {
			for _, conn := range conns {
				conn.(*identity.Conn).NetConn().Close()
			}
		}()
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
			if peer, err := wire.ReadHello(conn); err == nil {
				own := wire.NewHello(creds.Cluster, id, peer.Role, 0)
				_, _ = conn.Write(hello(own).Append(nil))
			}
		}
	}()
	t.Cleanup(func() {
		_ = mux.Close()
		<-served
		<-accepting
	})
}

// An agent does not send to one who answers as somebody else.
func TestImpostorAnswers(t *testing.T) {
	c := newCluster(t)
	for id, change := range map[wire.AgentID]func(wire.Hello) wire.Hello{
		2: func(h wire.Hello) wire.Hello { h.Agent = 3; return h },
		3: func(h wire.Hello) wire.Hello { h.Cluster = wire.ClusterID{9}; return h },
		4: func(h wire.Hello) wire.Hello { h.Role = wire.RoleControl; return h },
	} {
		fake(t, c, id, change)
	}
	a := c.start(1, nil)
	c.mu.Lock()
	c.addresses[5] = c.addresses[1] // agent 5's address is now agent 1's: its certificate says so
	c.mu.Unlock()
	for id := wire.AgentID(2); id <= 5; id++ {
		if err := a.SendFrame(id, wire.Route{}, body(1, 100), nil); err != nil {
			t.Fatal(err)
		}
		if peer := within(t, "refusal", a.disconnected); peer != id {
			t.Errorf("agent %d was refused", peer)
		}
		if l := a.lane(id, peers.Data); l.Sent != 0 || l.Failures == 0 {
			t.Errorf("agent %d: %+v", id, l)
		}
	}
}

// A peer that is connected and silent is noticed, whoever has dialed, and so is one that never says hello.
func TestSilence(t *testing.T) {
	c := newCluster(t)
	fake(t, c, 2, func(h wire.Hello) wire.Hello { return h })
	a := c.start(1, func(o *peers.Options) {
		o.Limits.Beat, o.Limits.Silence, o.Limits.DialTimeout = 20*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
	})
	if err := a.WaitRoom(testContext(t), 2); err != nil {
		t.Fatal(err)
	}
	if peer := within(t, "dead peer is noticed", a.disconnected); peer != 2 {
		t.Errorf("agent %d is disconnected", peer)
	}
	three := newCredentials(t, c.ca, 3)
	ends(t, "silent caller", a.mustRaw(three, identity.ProtocolControl, wire.RoleControl))
	address, _ := c.resolve(1)
	conn, err := identity.Dial(testContext(t), address, three, identity.ProtocolControl, 1, identity.Policy{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.NetConn().Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	ends(t, "caller without a hello", conn)
	eventually(t, "all are off the books", func() bool { return a.Stats().Incoming == 0 })
}

// Two agents that have nothing to say to each other stay connected by their beats alone.
func TestBeats(t *testing.T) {
	c := newCluster(t)
	a := c.start(1, func(o *peers.Options) { o.Limits.Beat, o.Limits.Silence = 20*time.Millisecond, time.Second })
	b := c.start(2, func(o *peers.Options) { o.Limits.Beat, o.Limits.Silence = 20*time.Millisecond, time.Second })
	if err := a.WaitRoom(testContext(t), 2); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "time passes", func() bool { return time.Since(began) > 2200*time.Millisecond })
	if l := a.lane(2, peers.Data); l.Failures != 0 || l.Dials != 1 || !l.Connected || b.Stats().Incoming != 1 {
		t.Errorf("%+v", l)
	}
}

func header(kind wire.Type, length uint32) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, length), byte(kind), 0, 0, 0)
}

// Bytes that no agent sends end their connection, before they take memory, and no other.
func TestBadBytes(t *testing.T) {
	c := newCluster(t)
	n, good := c.start(1, nil), c.start(2, nil)
	three := newCredentials(t, c.ca, 3)
	damaged := append(header(wire.TypeFrame, wire.RouteLength+10), wire.Route{No: 1}.Append(nil)...)
	damaged[20] ^= 1
	for name, bad := range map[string]struct {
		protocol string
		role     wire.ConnRole
		raw      []byte
	}{
		"message too long":          {identity.ProtocolControl, wire.RoleControl, header(typeMessage, peers.MaxMessage+1)},
		"message of 4 GiB":          {identity.ProtocolControl, wire.RoleControl, header(typeMessage, 1<<32-1)},
		"frame too long":            {identity.ProtocolData, wire.RoleData, header(wire.TypeFrame, wire.RouteLength+wire.MaxBodyLength+1)},
		"frame without route":       {identity.ProtocolData, wire.RoleData, header(wire.TypeFrame, 5)},
		"damaged route":             {identity.ProtocolData, wire.RoleData, damaged},
		"raft message too long":     {identity.ProtocolRaft, wire.RoleControl, header(typeRaft, peers.MaxMessage+1)},
		"snapshot too long":         {identity.ProtocolRaft, wire.RoleControl, header(typeSnapshot, peers.MaxSnapshot+1)},
		"apply too long":            {identity.ProtocolData, 3, header(typeApply, 8+apply.MaxLength+1)},
		"apply without number":      {identity.ProtocolData, 3, append(header(typeApply, 5), 1, 2, 3, 4, 5)},
		"answer to nobody":          {identity.ProtocolData, 3, append(header(typeAnswer, 9), make([]byte, 9)...)},
		"frame for control":         {identity.ProtocolControl, wire.RoleControl, header(wire.TypeFrame, wire.RouteLength)},
		"message on a data lane":    {identity.ProtocolData, wire.RoleData, header(typeMessage, 10)},
		"apply on a data lane":      {identity.ProtocolData, wire.RoleData, header(typeApply, 100)},
		"frame on an apply lane":    {identity.ProtocolData, 3, header(wire.TypeFrame, wire.RouteLength)},
		"ack of package wire":       {identity.ProtocolData, wire.RoleData, header(wire.TypeAck, 10)},
		"beat with a load":          {identity.ProtocolControl, wire.RoleControl, header(typeBeat, 1000)},
		"unknown type":              {identity.ProtocolControl, wire.RoleControl, header(200, 10)},
		"reserved bytes in headers": {identity.ProtocolControl, wire.RoleControl, []byte{1, 0, 0, 0, 17, 0, 1, 0}},
	} {
		conn := n.mustRaw(three, bad.protocol, bad.role)
		if _, err := conn.Write(bad.raw); err != nil {
			t.Fatal(err)
		}
		ends(t, name, conn)
		good.SendMessage(1, status(1))
		if g := within(t, "message of another agent", n.messages); g.from != 2 {
			t.Errorf("%s: message of agent %d", name, g.from)
		}
	}
	if len(n.frames)+len(n.rafts) != 0 {
		t.Error("bad bytes were handed on")
	}
}

// Well-formed messages with wrong content are refused one by one.
func TestBadMessages(t *testing.T) {
	c := newCluster(t)
	n := c.start(1, nil)
	three := newCredentials(t, c.ca, 3)
	raw := func(m *raftpb.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const app = raftpb.MessageType_MsgApp
	withResponses := raftMessage(3, 1, app, 0)
	withResponses.Responses = []*raftpb.Message{raftMessage(3, 1, app, 0)}
	for _, lane := range []struct {
		kind     peers.Kind
		protocol string
		type_    wire.Type
		bad      [][]byte
		good     []byte
	}{
		{peers.Raft, identity.ProtocolRaft, typeRaft, [][]byte{
			raw(raftMessage(2, 1, app, 10)), raw(raftMessage(3, 2, app, 10)), raw(&raftpb.Message{}), raw(withResponses),
			raw(raftMessage(3, 1, raftpb.MessageType_MsgHup, 0)), raw(raftMessage(3, 1, raftpb.MessageType_MsgUnreachable, 0)),
			raw(raftMessage(3, 1, raftpb.MessageType_MsgSnapStatus, 0)), {1, 2, 3},
		}, raw(raftMessage(3, 1, app, 42))},
		{peers.Control, identity.ProtocolControl, typeMessage, [][]byte{
			{}, {99, 0}, core.EncodeMessage(status(1))[:3],
		}, core.EncodeMessage(status(42))},
	} {
		conn := wire.NewConn(n.mustRaw(three, lane.protocol, wire.RoleControl), wire.ConnOptions{})
		for _, b := range append(lane.bad, lane.good) {
			if err := conn.WriteMessages(wire.Message{Type: lane.type_, Payload: b}); err != nil {
				t.Fatal(err)
			}
		}
		if lane.kind == peers.Raft {
			if g := within(t, "good raft message", n.rafts); g.raft.GetIndex() != 42 || g.from != 3 {
				t.Errorf("from %d: %v", g.from, g.raft)
			}
		} else if g := within(t, "good message", n.messages); g.message.(*core.Status).Round != 42 || g.from != 3 {
			t.Errorf("from %d: %v", g.from, g.message)
		}
		if have, want := n.lane(3, lane.kind).Refused, uint64(len(lane.bad)); have != want {
			t.Errorf("%v: %d messages were refused, want %d", lane.kind, have, want)
		}
	}
}

// A peer has one connection of a kind, the newest, and a bounded number in all; so have all peers together.
func TestConnectionLimits(t *testing.T) {
	c := newCluster(t)
	n := c.start(1, func(o *peers.Options) {
		o.Limits.PeerLimit, o.Limits.Connections = 3, 5
		o.Limits.Silence, o.Limits.DialTimeout = 10*patience, 10*patience // nothing ends for these
	})
	three := newCredentials(t, c.ca, 3)
	first := n.mustRaw(three, identity.ProtocolControl, wire.RoleControl)
	say := func(conn *wire.Conn) {
		if err := conn.WriteMessages(wire.Message{Type: typeMessage, Payload: core.EncodeMessage(status(5))}); err != nil {
			t.Fatal(err)
		}
		within(t, "message", n.messages)
	}
	say(wire.NewConn(first, wire.ConnOptions{})) // now it is on the books
	second := wire.NewConn(n.mustRaw(three, identity.ProtocolControl, wire.RoleControl), wire.ConnOptions{})
	ends(t, "the older of two", first)
	say(second)
	eventually(t, "one is left", func() bool { return n.Stats().Incoming == 1 })

	greeting := func(creds *identity.Credentials) *identity.Conn {
		address, _ := c.resolve(1)
		conn, err := identity.Dial(testContext(t), address, creds, identity.ProtocolData, 1, identity.Policy{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.NetConn().Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		return conn
	}
	for _, step := range []struct {
		creds *identity.Credentials
		fits  int
	}{{three, 2}, {newCredentials(t, c.ca, 4), 2}} {
		for range step.fits {
			before := n.Stats().Incoming
			greeting(step.creds)
			eventually(t, "it is taken", func() bool { return n.Stats().Incoming == before+1 })
		}
		refusals := n.Stats().Refusals
		ends(t, "one too many", greeting(step.creds))
		eventually(t, "refusal is counted", func() bool { return n.Stats().Refusals >= refusals+1 })
	}
	if have := n.Stats().Incoming; have > 5 {
		t.Errorf("%d connections are open", have)
	}
}

// The options are checked where they are given.
func TestOptions(t *testing.T) {
	c := newCluster(t)
	creds := newCredentials(t, c.ca, 1)
	good := func() peers.Options {
		return peers.Options{
			Credentials: func() *identity.Credentials { return creds }, Resolve: c.addressesOf,
			OnMessage:          func(wire.AgentID, core.Message) {},
			OnFrame:            func(wire.AgentID, wire.Route, []byte, func()) {},
			OnRaft:             func(wire.AgentID, *raftpb.Message) {},
			OnApply:            func(context.Context, wire.AgentID, *apply.Request) error { return nil },
			OnDisconnect:       func(wire.AgentID) {},
			OnRaftUnreachable:  func(wire.AgentID) {},
			OnRaftSnapshotSent: func(wire.AgentID, bool) {},
		}
	}
	for name, change := range map[string]func(*peers.Options){
		"no credentials":     func(o *peers.Options) { o.Credentials = nil },
		"not joined":         func(o *peers.Options) { o.Credentials = func() *identity.Credentials { return nil } },
		"no callback":        func(o *peers.Options) { o.OnDisconnect = nil },
		"negative limit":     func(o *peers.Options) { o.Limits.FrameQueue = -1 },
		"back-off":           func(o *peers.Options) { o.Limits.BackoffMin = time.Minute },
		"silence under beat": func(o *peers.Options) { o.Limits.Silence = 400 * time.Millisecond },
		"path under beat":    func(o *peers.Options) { o.Limits.PathWait = 400 * time.Millisecond },
	} {
		o := good()
		change(&o)
		if p, err := peers.New(o); err == nil {
			t.Errorf("%s: %v", name, p)
		}
	}
	p, err := peers.New(good())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SendFrame(2, wire.Route{}, nil, nil); !errors.Is(err, peers.ErrClosed) {
		t.Errorf("before Start: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
