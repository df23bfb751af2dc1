package identity

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"flotilla/wire"
)

// The files that Save writes below an agent's state directory.
const (
	caFile    = "ca.pem"
	caKeyFile = "ca.key"
	certFile  = "agent.pem"
	keyFile   = "agent.key"
)

// Credentials are what an agent shows and what it trusts. They are immutable; a renewal makes new ones.
type Credentials struct {
	Peer                   // whom the certificate names
	Root *x509.Certificate // the cluster's CA
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// NewCredentials puts together an agent's key, the certificate issued for it and the CA's certificate (both DER), and
// checks that they belong together now.
func NewCredentials(key *ecdsa.PrivateKey, cert, root []byte, now time.Time) (*Credentials, error) {
	leaf, err := x509.ParseCertificate(cert)
	if err != nil {
		return nil, fmt.Errorf("read agent's certificate: %w", err)
	}
	ca, err := x509.ParseCertificate(root)
	if err != nil {
		return nil, fmt.Errorf("read CA's certificate: %w", err)
	}
	return assemble(key, leaf, ca, now)
}

func assemble(key *ecdsa.PrivateKey, leaf, ca *x509.Certificate, now time.Time) (*Credentials, error) {
	cluster, err := clusterOf(ca)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, fmt.Errorf("certificate of %q was not issued for this agent's key", leaf.Subject.CommonName)
	}
	peer, err := verifyPeer([]*x509.Certificate{leaf}, ca, cluster, now)
	if err != nil {
		return nil, err
	}
	return &Credentials{Peer: peer, Root: ca, Cert: leaf, Key: key}, nil
}

// clusterOf returns the cluster whose authority a certificate names.
func clusterOf(ca *x509.Certificate) (wire.ClusterID, error) {
	if !ca.IsCA || len(ca.URIs) != 1 {
		return wire.ClusterID{}, fmt.Errorf("certificate of %q is not a cluster's CA", ca.Subject.CommonName)
	}
	cluster, err := wire.ParseClusterID(ca.URIs[0].Host)
	if err == nil && ca.URIs[0].String() != clusterURI(cluster).String() {
		err = errors.New("want flotilla://<cluster>")
	}
	if err != nil {
		return wire.ClusterID{}, fmt.Errorf("CA's certificate names %q: %w", ca.URIs[0], err)
	}
	return cluster, nil
}

// tls returns the certificate as TLS shows it. The CA's goes along, for joiners who know it by its fingerprint only.
func (c *Credentials) tls() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{c.Cert.Raw, c.Root.Raw}, PrivateKey: c.Key, Leaf: c.Cert}
}

// Save writes the credentials into a directory that exists: the key first, readable by its owner only, each file
// durably and whole or not at all.
func (c *Credentials) Save(dir string) error {
	key, err := encodeKey(c.Key)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, keyFile), key, 0o600); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, caFile), encodeCertificate(c.Root), 0o644); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, certFile), encodeCertificate(c.Cert), 0o644)
}

// LoadCredentials reads what Save wrote. It fails with fs.ErrNotExist for an agent that never joined.
func LoadCredentials(dir string, now time.Time) (*Credentials, error) {
	root, err := loadCertificate(filepath.Join(dir, caFile))
	if err != nil {
		return nil, err
	}
	leaf, err := loadCertificate(filepath.Join(dir, certFile))
	if err != nil {
		return nil, err
	}
	key, err := loadKey(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, err
	}
	c, err := assemble(key, leaf, root, now)
	if err != nil {
		return nil, fmt.Errorf("load credentials from %s: %w", dir, err)
	}
	return c, nil
}

// Save writes the CA with its key, readable by its owner only, into a directory that exists.
func (ca *CA) Save(dir string) error {
	key, err := encodeKey(ca.key)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, caKeyFile), key, 0o600); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, caFile), encodeCertificate(ca.cert), 0o644)
}

// LoadCA reads what CA.Save wrote.
func LoadCA(dir string) (*CA, error) {
	cert, err := loadCertificate(filepath.Join(dir, caFile))
	if err != nil {
		return nil, err
	}
	key, err := loadKey(filepath.Join(dir, caKeyFile))
	if err != nil {
		return nil, err
	}
	return newCA(cert, key)
}

// PEM returns the CA's certificate and key, for those who keep them elsewhere than in files. The key is a secret.
func (ca *CA) PEM() (cert, key []byte, err error) {
	key, err = encodeKey(ca.key)
	return encodeCertificate(ca.cert), key, err
}

// ParseCA reads what CA.PEM returned.
func ParseCA(certPEM, keyPEM []byte) (*CA, error) {
	cert, err := decodeCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("parse CA: %w", err)
	}
	key, err := decodeKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("parse CA: %w", err)
	}
	return newCA(cert, key)
}

func newCA(cert *x509.Certificate, key *ecdsa.PrivateKey) (*CA, error) {
	cluster, err := clusterOf(cert)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("CA's key does not belong to the certificate of cluster %v", cluster)
	}
	return &CA{cluster: cluster, cert: cert, key: key}, nil
}
