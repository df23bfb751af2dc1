package identity_test

import (
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"flotilla/wire"
	"flotilla/wire/identity"
)

func TestProtocolsReachTheirListeners(t *testing.T) {
	ca := newCA(t, 1)
	protocols := []string{identity.ProtocolData, identity.ProtocolControl, identity.ProtocolRaft, identity.ProtocolAPI}
	p := openPort(t, newAgent(t, ca, 1), at(start), identity.MuxOptions{}, protocols...)
	client := newAgent(t, ca, 2)
	for _, protocol := range protocols {
		for _, want := range []wire.AgentID{0, 1} {
			c, err := identity.Dial(testContext(t), p.address, client, protocol, want, at(start))
			if err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(c)
			c.Close()
			if string(answer) != protocol+" agent 2" || err != nil {
				t.Errorf("%s: answer %q, %v", protocol, answer, err)
			}
			if id, err := identity.PeerID(c.ConnectionState()); id != 1 || err != nil {
				t.Errorf("%s: server is agent %d, %v", protocol, id, err)
			}
		}
	}
}

// Each way not to belong is refused, by whichever side sees it, and no listener hears of it.
func TestRefused(t *testing.T) {
	ca, other := newCA(t, 1), newCA(t, 2)
	twin := newCA(t, 1) // says that it is the same cluster, but has another key
	server, client := newAgent(t, ca, 1), newAgent(t, ca, 2)
	revoked := func(bad wire.AgentID) identity.Policy {
		p := at(start)
		p.Revoked = func(id wire.AgentID, _ string) bool { return id == bad }
		return p
	}
	serial := at(start)
	serial.Revoked = func(_ wire.AgentID, s string) bool { return s == client.Serial }
	trusting := func(c *tls.Config) *tls.Config { // a client that does not care who answers, nor whom that trusts
		c.VerifyConnection = nil
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(c.Certificates) == 0 {
				return &tls.Certificate{}, nil
			}
			return &c.Certificates[0], nil
		}
		return c
	}
	config := func(own *identity.Credentials) *tls.Config {
		return identity.ClientConfig(own, identity.ProtocolData, 1, at(start))
	}
	change := func(f func(*tls.Config)) *tls.Config {
		c := trusting(config(client))
		f(c)
		return c
	}
	late := start.Add(identity.CertificateLifetime + time.Hour)
	for name, c := range map[string]struct {
		server identity.Policy
		client *tls.Config
		want   string // in the server's error; "" where the client is the one who refuses
		is     error  // the client's, where it refuses
	}{
		"good": {at(start), config(client), "-", nil},

		"client of another cluster":    {at(start), trusting(config(newAgent(t, other, 2))), "unknown authority", nil},
		"client of a forged CA":        {at(start), trusting(config(newAgent(t, twin, 2))), "unknown authority", nil},
		"client without certificate":   {at(start), change(func(c *tls.Config) { c.Certificates = nil }), "didn't provide a certificate", nil},
		"client expired":               {at(late), trusting(config(client)), "expired", nil},
		"client not valid yet":         {at(start.Add(-2 * identity.ClockSkew)), trusting(config(client)), "expired or is not yet valid", nil},
		"client revoked":               {revoked(2), trusting(config(client)), "revoked", nil},
		"client's certificate revoked": {serial, trusting(config(client)), "revoked", nil},
		"TLS 1.2":                      {at(start), change(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }), "version", nil},
		"unknown protocol":             {at(start), change(func(c *tls.Config) { c.NextProtos = []string{"h2"} }), "unsupported application protocols", nil},
		"no protocol":                  {at(start), change(func(c *tls.Config) { c.NextProtos = nil }), `protocol ""`, nil},
		"join without being a joiner": {at(start), change(func(c *tls.Config) {
			c.NextProtos, c.Certificates = []string{identity.ProtocolJoin, identity.ProtocolData}, nil
		}), "didn't provide", nil},
		"server of another cluster":     {at(start), config(newAgent(t, other, 2)), "", identity.ErrPeer},
		"server of a forged CA":         {at(start), config(newAgent(t, twin, 2)), "", identity.ErrPeer},
		"server is another agent":       {at(start), identity.ClientConfig(client, identity.ProtocolData, 3, at(start)), "", identity.ErrPeer},
		"server expired":                {at(start), identity.ClientConfig(client, identity.ProtocolData, 1, at(late)), "", identity.ErrPeer},
		"server revoked":                {at(start), identity.ClientConfig(client, identity.ProtocolData, 1, revoked(1)), "", identity.ErrRevoked},
		"server without the protocol":   {at(start), identity.ClientConfig(client, identity.ProtocolRaft, 1, at(start)), "unsupported application protocols", nil},
		"client's clock a bit too slow": {at(start), identity.ClientConfig(client, identity.ProtocolData, 1, at(start.Add(-time.Hour))), "-", nil},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			p := openPort(t, server, c.server, identity.MuxOptions{}, identity.ProtocolData, identity.ProtocolJoin)
			answer, err := ask(t, p.address, c.client)
			if c.want == "-" {
				if answer != "flotilla-data/1 agent 2" || err != nil {
					t.Fatalf("answer %q, %v", answer, err)
				}
				return
			}
			if err == nil || answer != "" {
				t.Fatalf("answer %q, %v", answer, err)
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("client's error: %v, want %v", err, c.is)
			}
			if refusal := <-p.refused; !strings.Contains(refusal.Error(), c.want) {
				t.Errorf("server's error: %v, want %q", refusal, c.want)
			}
		})
	}
}

func TestServerTakesRenewedCredentials(t *testing.T) {
	ca := newCA(t, 1)
	var current *identity.Credentials
	config := identity.ServerConfig(func() *identity.Credentials { return current }, []string{identity.ProtocolData}, at(start))
	hello := &tls.ClientHelloInfo{SupportedProtos: []string{identity.ProtocolData}}
	if _, err := config.GetConfigForClient(hello); err == nil {
		t.Error("an agent without certificate serves")
	}
	for range 2 {
		current = newAgent(t, ca, 1)
		c, err := config.GetConfigForClient(hello)
		if err != nil || c.Certificates[0].Leaf != current.Cert {
			t.Errorf("config does not show the current certificate: %v", err)
		}
	}
}
