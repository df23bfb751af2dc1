package identity_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"flotilla/wire"
	"flotilla/wire/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start is when the clusters of the tests were made.
var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func at(t time.Time) identity.Policy { return identity.Policy{Now: func() time.Time { return t }} }

func newCA(t *testing.T, id byte) *identity.CA {
	t.Helper()
	ca, err := identity.NewCA(wire.ClusterID{id}, start)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newAgent(t *testing.T, ca *identity.CA, id wire.AgentID) *identity.Credentials {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	request, err := identity.NewRequest(key, "host-1")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(request, id, "host-1", start)
	if err != nil {
		t.Fatal(err)
	}
	c, err := identity.NewCredentials(key, cert, ca.Certificate().Raw, start)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// port is an agent's port that answers every connection with the protocol and whom it believes to talk to.
type port struct {
	mux     *identity.Mux
	address string
	refused chan error
	served  chan error
	serving sync.WaitGroup
}

func openPort(t *testing.T, own *identity.Credentials, policy identity.Policy, o identity.MuxOptions, protocols ...string) *port {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &port{address: ln.Addr().String(), refused: make(chan error, 100), served: make(chan error, 1)}
	o.Refused = func(_ net.Addr, err error) { p.refused <- err }
	p.mux = identity.NewMux(ln, identity.ServerConfig(func() *identity.Credentials { return own }, protocols, policy), o)
	for _, protocol := range protocols {
		l, err := p.mux.Listen(protocol)
		if err != nil {
			t.Fatal(err)
		}
		p.serving.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				answer := protocol + " nobody"
				if peer, err := c.(*identity.Conn).Peer(); err == nil {
					answer = protocol + " agent " + string('0'+rune(peer.Agent))
				}
				_, _ = io.WriteString(c, answer)
				c.Close()
			}
		})
	}
	go func() { p.served <- p.mux.Serve() }()
	t.Cleanup(func() {
		if err := p.mux.Close(); err != nil {
			t.Error(err)
		}
		if err := <-p.served; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		p.serving.Wait()
	})
	return p
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// ask connects and returns the port's answer. With TLS 1.3 a server's refusal comes with the first read.
func ask(t *testing.T, address string, config *tls.Config) (string, error) {
	t.Helper()
	c, err := (&tls.Dialer{Config: config}).DialContext(testContext(t), "tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	answer, err := io.ReadAll(c)
	return string(answer), err
}
