package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"flotilla/wire"
)

const (
	// CALifetime and CertificateLifetime are how long certificates are valid from their issue.
	CALifetime          = 10 * 365 * 24 * time.Hour
	CertificateLifetime = 365 * 24 * time.Hour
	// ClockSkew is how far the clock of an agent may be behind the issuer's for a new certificate to be valid to it.
	ClockSkew = 24 * time.Hour

	maxNameLength    = 63
	maxRequestLength = 16 << 10
)

// CA is a cluster's certificate authority. It is immutable and safe for concurrent use.
type CA struct {
	cluster wire.ClusterID
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
}

// NewCA makes the authority of a new cluster, valid from now for CALifetime.
func NewCA(cluster wire.ClusterID, now time.Time) (*CA, error) {
	if cluster.IsZero() {
		return nil, errors.New("make CA: the cluster has no ID")
	}
	key, err := NewKey()
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Flotilla cluster " + cluster.String()},
		URIs:                  []*url.URL{clusterURI(cluster)},
		NotBefore:             now.Add(-ClockSkew),
		NotAfter:              now.Add(CALifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	return &CA{cluster: cluster, cert: cert, key: key}, nil
}

// Cluster returns the cluster whose authority this is.
func (ca *CA) Cluster() wire.ClusterID { return ca.cluster }

// Certificate returns the CA's own certificate.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// Fingerprint returns what a token pins.
func (ca *CA) Fingerprint() [sha256.Size]byte { return Fingerprint(ca.cert) }

// Fingerprint returns the SHA-256 of a certificate.
func Fingerprint(cert *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(cert.Raw) }

// Issue answers a signing request (DER, made by NewRequest) with a certificate (DER) for the given agent, valid from now
// for CertificateLifetime or to the end of the CA's own life. Of the request only the key counts: the ID and the name are
// the issuer's word. The caller has checked that the asker may have them.
func (ca *CA) Issue(request []byte, id wire.AgentID, name string, now time.Time) ([]byte, error) {
	if len(request) > maxRequestLength {
		return nil, fmt.Errorf("issue certificate: request of %d bytes is longer than %d", len(request), maxRequestLength)
	}
	if id == 0 {
		return nil, errors.New("issue certificate: agent ID is 0")
	}
	if err := CheckName(name); err != nil {
		return nil, fmt.Errorf("issue certificate for agent %d: %w", id, err)
	}
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for agent %d: %w", id, err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("issue certificate for agent %d: the request is not signed by its own key: %w", id, err)
	}
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("issue certificate for agent %d: key is %v, want ECDSA P-256", id, csr.PublicKeyAlgorithm)
	}
	if now.Before(ca.cert.NotBefore) || now.After(ca.cert.NotAfter) {
		return nil, fmt.Errorf("issue certificate for agent %d: the CA is valid from %v to %v, and it is %v; check the clock",
			id, ca.cert.NotBefore, ca.cert.NotAfter, now)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("issue certificate for agent %d: %w", id, err)
	}
	notAfter := now.Add(CertificateLifetime)
	if notAfter.After(ca.cert.NotAfter) {
		notAfter = ca.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		URIs:                  []*url.URL{agentURI(ca.cluster, id)},
		NotBefore:             now.Add(-ClockSkew),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, pub, ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for agent %d: %w", id, err)
	}
	return der, nil
}

// NewKey makes a key for an agent or a CA: ECDSA P-256.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

// NewRequest makes a signing request (DER) for an agent's key.
func NewRequest(key *ecdsa.PrivateKey, name string) ([]byte, error) {
	if err := CheckName(name); err != nil {
		return nil, fmt.Errorf("make signing request: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		return nil, fmt.Errorf("make signing request for %q: %w", name, err)
	}
	return der, nil
}

// CheckName refuses names of agents that are not 1 to 63 letters, digits, dots, hyphens and underscores.
func CheckName(name string) error {
	if name == "" || len(name) > maxNameLength {
		return fmt.Errorf("agent name has %d characters, want 1 to %d", len(name), maxNameLength)
	}
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return fmt.Errorf("agent name %q: want only letters, digits, dots, hyphens and underscores", name)
		}
	}
	return nil
}

// newSerial draws a positive number of 127 bits.
func newSerial() (*big.Int, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	b[0] = b[0]&0x7F | 0x40
	return new(big.Int).SetBytes(b[:]), nil
}
