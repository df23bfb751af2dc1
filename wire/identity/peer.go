package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"flotilla/wire"
)

// Errors about peers.
var (
	ErrPeer    = errors.New("peer is not who it should be")
	ErrRevoked = errors.New("peer's certificate is revoked")
)

const uriScheme = "flotilla"

// Peer is whom a certificate names.
type Peer struct {
	Cluster wire.ClusterID
	Agent   wire.AgentID
	Name    string
	Serial  string // of the certificate, in hexadecimal; what revocations name
}

func clusterURI(cluster wire.ClusterID) *url.URL {
	return &url.URL{Scheme: uriScheme, Host: cluster.String()}
}

func agentURI(cluster wire.ClusterID, id wire.AgentID) *url.URL {
	return &url.URL{Scheme: uriScheme, Host: cluster.String(), Path: "/agent/" + strconv.FormatUint(uint64(id), 10)}
}

// PeerOf returns whom an agent's certificate names. It does not check who signed it.
func PeerOf(cert *x509.Certificate) (Peer, error) {
	if cert.IsCA || len(cert.URIs) != 1 {
		return Peer{}, fmt.Errorf("certificate of %q is not an agent's: %w", cert.Subject.CommonName, ErrPeer)
	}
	uri := cert.URIs[0]
	cluster, err := wire.ParseClusterID(uri.Host)
	if err != nil {
		return Peer{}, fmt.Errorf("certificate names %q: %w: %w", uri, err, ErrPeer)
	}
	digits, ok := strings.CutPrefix(uri.Path, "/agent/")
	id, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || id == 0 || uri.String() != agentURI(cluster, wire.AgentID(id)).String() {
		return Peer{}, fmt.Errorf("certificate names %q, want flotilla://<cluster>/agent/<id>: %w", uri, ErrPeer)
	}
	return Peer{Cluster: cluster, Agent: wire.AgentID(id), Name: cert.Subject.CommonName, Serial: cert.SerialNumber.Text(16)}, nil
}

// PeerID returns the agent at the other end of a connection made with a config of this package.
func PeerID(state tls.ConnectionState) (wire.AgentID, error) {
	if len(state.PeerCertificates) == 0 {
		return 0, fmt.Errorf("peer has shown no certificate: %w", ErrPeer)
	}
	p, err := PeerOf(state.PeerCertificates[0])
	return p.Agent, err
}

// verifyPeer checks that the first certificate was issued by root, is valid now, and names an agent of the cluster. The
// host name plays no part.
func verifyPeer(certs []*x509.Certificate, root *x509.Certificate, cluster wire.ClusterID, now time.Time) (Peer, error) {
	if len(certs) == 0 {
		return Peer{}, fmt.Errorf("peer has shown no certificate: %w", ErrPeer)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	if _, err := certs[0].Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return Peer{}, fmt.Errorf("verify certificate of %q: %w: %w", certs[0].Subject.CommonName, err, ErrPeer)
	}
	p, err := PeerOf(certs[0])
	if err != nil {
		return Peer{}, err
	}
	if p.Cluster != cluster {
		return Peer{}, fmt.Errorf("agent %d (%s) is of cluster %v, want %v: %w", p.Agent, p.Name, p.Cluster, cluster, ErrPeer)
	}
	return p, nil
}
