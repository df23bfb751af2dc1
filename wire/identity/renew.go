package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// ErrNotLater is returned when a new certificate would be good for no longer than the one it replaces, because the CA's own
// life ends then.
var ErrNotLater = errors.New("the cluster's CA ends no later than this certificate")

// NeedsRenewal reports whether less than a third of a certificate's life is left.
func NeedsRenewal(cert *x509.Certificate, now time.Time) bool {
	return runsOut(cert.NotBefore, cert.NotAfter, now, 3)
}

// ExpiresSoon reports whether less than a sixth is left of the life of a certificate that is valid between two moments:
// renewing it has failed for long.
func ExpiresSoon(from, until, now time.Time) bool { return runsOut(from, until, now, 6) }

func runsOut(from, until, now time.Time, part time.Duration) bool {
	return until.Sub(now) < until.Sub(from)/part
}

// Request makes a signing request (DER) for the next certificate of the same agent and key. The key stays: so a renewal
// replaces a single file, and no crash can leave a key beside the certificate of another. It fails with ErrNotLater when no
// certificate could be of use.
func (c *Credentials) Request() ([]byte, error) {
	if !c.Root.NotAfter.After(c.Cert.NotAfter) {
		return nil, fmt.Errorf("renew the certificate of agent %d: %w: %v", c.Agent, ErrNotLater, c.Root.NotAfter)
	}
	return NewRequest(c.Key, c.Name)
}

// Renew returns the credentials with a certificate (DER) that answers Request. It must be of the same CA, key, agent and
// name, valid now, and end later than the present one.
func (c *Credentials) Renew(cert []byte, now time.Time) (*Credentials, error) {
	fresh, err := NewCredentials(c.Key, cert, c.Root.Raw, now)
	if err != nil {
		return nil, fmt.Errorf("renew the certificate of agent %d: %w", c.Agent, err)
	}
	if fresh.Agent != c.Agent || fresh.Name != c.Name {
		return nil, fmt.Errorf("renew the certificate of agent %d (%s): the answer is for agent %d (%s): %w",
			c.Agent, c.Name, fresh.Agent, fresh.Name, ErrPeer)
	}
	if !fresh.Cert.NotAfter.After(c.Cert.NotAfter) {
		return nil, fmt.Errorf("renew the certificate of agent %d: the answer is valid until %v, the present one until %v",
			c.Agent, fresh.Cert.NotAfter, c.Cert.NotAfter)
	}
	return fresh, nil
}

// SaveCertificate replaces the certificate in a directory that Save has written, durably; nothing else is touched, so
// that the directory holds usable credentials at every moment.
func (c *Credentials) SaveCertificate(dir string) error {
	return writeFile(filepath.Join(dir, certFile), encodeCertificate(c.Cert), 0o644)
}

// LoadExpired is LoadCredentials for an agent that can renew its own certificate: it also reads one that has run out.
func LoadExpired(dir string, now time.Time) (*Credentials, error) {
	leaf, err := loadCertificate(filepath.Join(dir, certFile))
	if err != nil {
		return nil, err
	}
	if now.After(leaf.NotAfter) {
		now = leaf.NotAfter
	}
	return LoadCredentials(dir, now)
}
