package identity_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"flotilla/wire"
	"flotilla/wire/identity"
)

// Clients that open connections and say nothing are cut off, and hold up others no longer than that.
func TestSlowHandshakesAreBounded(t *testing.T) {
	ca := newCA(t, 1)
	p := openPort(t, newAgent(t, ca, 1), at(start), identity.MuxOptions{HandshakeTimeout: 100 * time.Millisecond, MaxHandshakes: 2}, identity.ProtocolData)
	for range 4 {
		c, err := net.Dial("tcp", p.address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if answer, err := ask(t, p.address, identity.ClientConfig(newAgent(t, ca, 2), identity.ProtocolData, 1, at(start))); err != nil {
		t.Errorf("%q, %v", answer, err)
	}
	for range 4 {
		if err := <-p.refused; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("refused with %v", err)
		}
	}
}

// countingListener counts accepted connections.
type countingListener struct {
	net.Listener
	accepted chan struct{}
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted <- struct{}{}
	}
	return c, err
}

// No more connections are accepted than handshakes may be under way; Close ends those.
func TestHandshakesInFlightAreBounded(t *testing.T) {
	ca := newCA(t, 1)
	own := newAgent(t, ca, 1)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	counting := countingListener{ln, make(chan struct{}, 10)}
	refused := make(chan error, 10)
	m := identity.NewMux(counting, identity.ServerConfig(func() *identity.Credentials { return own }, []string{identity.ProtocolData}, at(start)),
		identity.MuxOptions{MaxHandshakes: 3, HandshakeTimeout: time.Hour, Refused: func(_ net.Addr, err error) { refused <- err }})
	served := make(chan error, 1)
	go func() { served <- m.Serve() }()
	for range 6 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for range 3 {
		<-counting.accepted
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if n := len(counting.accepted); n != 0 {
		t.Errorf("%d more connections were accepted", n)
	}
	if n := len(refused); n != 3 {
		t.Errorf("%d handshakes ended by Close, want 3", n)
	}
	if _, err := m.Listen(identity.ProtocolData); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listen after close: %v", err)
	}
	if err := m.Serve(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serve after close: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestConnectionsNobodyAcceptsAreBounded(t *testing.T) {
	ca := newCA(t, 1)
	own, client := newAgent(t, ca, 1), newAgent(t, ca, 2)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 10)
	protocols := []string{identity.ProtocolData, identity.ProtocolRaft}
	m := identity.NewMux(ln, identity.ServerConfig(func() *identity.Credentials { return own }, protocols, at(start)),
		identity.MuxOptions{Backlog: 1, Refused: func(_ net.Addr, err error) { refused <- err }})
	l, err := m.Listen(identity.ProtocolData)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Listen(identity.ProtocolData); err == nil {
		t.Error("two listeners for one protocol")
	}
	if _, err := m.Listen("h2"); err == nil {
		t.Error("listener for a protocol that TLS refuses")
	}
	served := make(chan error, 1)
	go func() { served <- m.Serve() }()
	dial := func(protocol string) net.Conn {
		t.Helper()
		c, err := identity.Dial(testContext(t), ln.Addr().String(), client, protocol, 1, at(start))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	wantRefusal := func(text string) {
		t.Helper()
		if err := <-refused; !strings.Contains(err.Error(), text) {
			t.Errorf("refused with %v, want %q", err, text)
		}
	}
	dial(identity.ProtocolRaft)
	wantRefusal("nobody listens")
	first := dial(identity.ProtocolData)
	dial(identity.ProtocolData)
	wantRefusal("wait to be accepted")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := first.Read(make([]byte, 1)); err == nil {
		t.Error("a connection that nobody accepted stays open")
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
	dial(identity.ProtocolData)
	wantRefusal("listener is closed")
	if _, err := m.Listen(identity.ProtocolData); err != nil {
		t.Errorf("listen again: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestServesHTTP(t *testing.T) {
	ca := newCA(t, 1)
	own, client := newAgent(t, ca, 1), newAgent(t, ca, 2)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := identity.NewMux(ln, identity.ServerConfig(func() *identity.Credentials { return own }, []string{identity.ProtocolAPI}, at(start)), identity.MuxOptions{})
	l, err := m.Listen(identity.ProtocolAPI)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := identity.PeerID(*r.TLS)
		if err != nil || id != 2 {
			t.Errorf("request of agent %d, %v", id, err)
		}
		_, _ = io.WriteString(w, "status")
	})}
	ended := make(chan error, 2)
	go func() { ended <- server.Serve(l) }()
	go func() { ended <- m.Serve() }()
	transport := &http.Transport{DialTLSContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		return identity.Dial(ctx, address, client, identity.ProtocolAPI, 1, at(start))
	}}
	response, err := (&http.Client{Transport: transport}).Get("https://" + ln.Addr().String() + "/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if string(body) != "status" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
	transport.CloseIdleConnections()
	if err := errors.Join(server.Close(), m.Close()); err != nil {
		t.Error(err)
	}
	<-ended
	<-ended
}

// writeCounter counts the writes to a socket.
type writeCounter struct {
	net.Conn
	writes, bytes int
}

func (c *writeCounter) Write(p []byte) (int, error) {
	c.writes++
	c.bytes += len(p)
	return c.Conn.Write(p)
}

// A wire.Conn on a dialed connection corks: many TLS records leave in one system call.
func TestFramesLeaveInFewWrites(t *testing.T) {
	ca := newCA(t, 1)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	own := newAgent(t, ca, 1)
	m := identity.NewMux(ln, identity.ServerConfig(func() *identity.Credentials { return own }, []string{identity.ProtocolData}, at(start)), identity.MuxOptions{})
	l, err := m.Listen(identity.ProtocolData)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- m.Serve() }()
	counter := &writeCounter{}
	policy := at(start)
	policy.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		counter.Conn = c
		return counter, err
	}
	c, err := identity.Dial(testContext(t), ln.Addr().String(), newAgent(t, ca, 2), identity.ProtocolData, 1, policy)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	*counter = writeCounter{Conn: counter.Conn}
	msgs := make([]wire.Message, 40)
	for i := range msgs {
		msgs[i] = wire.Message{Type: wire.TypeFrame, Route: wire.Route{No: uint64(i)}, Payload: make([]byte, 5000)}
	}
	if err := wire.NewConn(c, wire.ConnOptions{}).WriteMessages(msgs...); err != nil {
		t.Fatal(err)
	}
	if counter.writes != 1 || counter.bytes < 40*5000 {
		t.Errorf("%d bytes left in %d writes, want 1", counter.bytes, counter.writes)
	}
	reader := wire.NewConn(accepted, wire.ConnOptions{})
	for i := range msgs {
		if got, err := reader.ReadMessage(); err != nil || got.Route.No != uint64(i) || len(got.Payload) != 5000 {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	if err := errors.Join(c.Close(), accepted.Close(), m.Close(), <-served); err != nil {
		t.Error(err)
	}
}
