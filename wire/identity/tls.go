package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"flotilla/wire"
)

// The protocols of an agent's port, as ALPN names them.
const (
	ProtocolData    = "flotilla-data/1"
	ProtocolControl = "flotilla-control/1"
	ProtocolRaft    = "flotilla-raft/1"
	ProtocolAPI     = "flotilla-api/1"
	ProtocolJoin    = "flotilla-join/1" // the client has no certificate yet
)

// Policy is what decides about peers besides their certificates. The zero value uses the machine's clock and network and
// revokes nothing.
type Policy struct {
	// Revoked reports whether a certificate, or all of an agent, was revoked. It is asked once a connection; it must
	// not block. Whoever revokes also closes the connections that exist.
	Revoked func(id wire.AgentID, serial string) bool
	// Now is the clock that certificates are compared with; nil for time.Now.
	Now func() time.Time
	// Dial opens TCP connections; nil for a plain net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func (p Policy) now() time.Time {
	if p.Now == nil {
		return time.Now()
	}
	return p.Now()
}

// admit checks the peer of a finished handshake.
func (p Policy) admit(state tls.ConnectionState, own *Credentials, protocols []string) (Peer, error) {
	if !slices.Contains(protocols, state.NegotiatedProtocol) {
		return Peer{}, fmt.Errorf("peer chose protocol %q, want one of %q: %w", state.NegotiatedProtocol, protocols, ErrPeer)
	}
	peer, err := verifyPeer(state.PeerCertificates, own.Root, own.Cluster, p.now())
	if err != nil {
		return Peer{}, err
	}
	if p.Revoked != nil && p.Revoked(peer.Agent, peer.Serial) {
		return Peer{}, fmt.Errorf("agent %d (%s), serial %s: %w", peer.Agent, peer.Name, peer.Serial, ErrRevoked)
	}
	return peer, nil
}

// base is what all configs share. Sessions are not resumed: each connection passes the checks anew.
func (p Policy) base(protocols []string) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  protocols,
		Time:                        p.now,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
}

// ServerConfig returns the config of an agent's port for the given protocols. It asks for the agent's credentials at each
// handshake, so that a renewal needs no restart. Every client shows a certificate, but one that offers
// ProtocolJoin and nothing else, where that is among the protocols.
func ServerConfig(current func() *Credentials, protocols []string, policy Policy) *tls.Config {
	mutual := slices.DeleteFunc(slices.Clone(protocols), func(p string) bool { return p == ProtocolJoin })
	takesJoins := len(mutual) < len(protocols)
	config := policy.base(protocols)
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		own := current()
		if own == nil {
			return nil, errors.New("this agent has no certificate yet: join it to a cluster first")
		}
		if takesJoins && slices.Equal(hello.SupportedProtos, []string{ProtocolJoin}) {
			c := policy.base([]string{ProtocolJoin})
			c.Certificates = []tls.Certificate{own.tls()}
			return c, nil
		}
		if len(mutual) == 0 {
			return nil, fmt.Errorf("client offers protocols %q, want only %q", hello.SupportedProtos, ProtocolJoin)
		}
		c := policy.base(mutual)
		c.Certificates = []tls.Certificate{own.tls()}
		c.ClientAuth = tls.RequireAndVerifyClientCert
		c.ClientCAs = x509.NewCertPool()
		c.ClientCAs.AddCert(own.Root)
		c.VerifyConnection = func(state tls.ConnectionState) error {
			_, err := policy.admit(state, own, mutual)
			return err
		}
		return c, nil
	}
	return config
}

// ClientConfig returns the config for one connection in the given protocol to agent want, or to any agent of the cluster
// where want is 0.
func ClientConfig(own *Credentials, protocol string, want wire.AgentID, policy Policy) *tls.Config {
	c := policy.base([]string{protocol})
	c.Certificates = []tls.Certificate{own.tls()}
	// The stock verification is about host names. VerifyConnection replaces it and runs on every handshake.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(state tls.ConnectionState) error {
		peer, err := policy.admit(state, own, []string{protocol})
		if err != nil {
			return err
		}
		if want != 0 && peer.Agent != want {
			return fmt.Errorf("agent %d (%s) answers where agent %d was expected: %w", peer.Agent, peer.Name, want, ErrPeer)
		}
		return nil
	}
	return c
}

// Conn is a TLS connection whose handshake is done. It is not a bare *tls.Conn because net/http drops those whose ALPN
// protocol it does not know; so it serves HTTP/1.1 on them and fills in Request.TLS.
type Conn struct {
	*tls.Conn
}

// Peer returns the agent at the other end; it fails with ErrPeer for a joiner, who has no certificate.
func (c *Conn) Peer() (Peer, error) {
	certs := c.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return Peer{}, fmt.Errorf("peer has shown no certificate: %w", ErrPeer)
	}
	return PeerOf(certs[0])
}

// Dial opens a TLS connection to an agent and finishes the handshake within the context's time. The connection corks
// under a wire.Conn.
func Dial(ctx context.Context, address string, own *Credentials, protocol string, want wire.AgentID, policy Policy) (*Conn, error) {
	c, err := dial(ctx, address, ClientConfig(own, protocol, want, policy), policy)
	if err != nil {
		return nil, fmt.Errorf("dial agent %d at %s for %s: %w", want, address, protocol, err)
	}
	return c, nil
}

func dial(ctx context.Context, address string, config *tls.Config, policy Policy) (*Conn, error) {
	open := policy.Dial
	if open == nil {
		open = (&net.Dialer{}).DialContext
	}
	raw, err := open(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := tls.Client(wire.NewCorked(raw), config)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return &Conn{c}, nil
}
