package identity_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"flotilla/wire"
	"flotilla/wire/identity"
)

// later is when the certificates of the tests are renewed.
var later = start.Add(identity.CertificateLifetime * 3 / 4)

func issue(t *testing.T, ca *identity.CA, request []byte, id wire.AgentID, name string, now time.Time) []byte {
	t.Helper()
	cert, err := ca.Issue(request, id, name, now)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func renewed(t *testing.T, ca *identity.CA, c *identity.Credentials, now time.Time) *identity.Credentials {
	t.Helper()
	request, err := c.Request()
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := c.Renew(issue(t, ca, request, c.Agent, c.Name, now), now)
	if err != nil {
		t.Fatal(err)
	}
	return fresh
}

func TestRenew(t *testing.T) {
	ca := newCA(t, 1)
	c := newAgent(t, ca, 7)
	fresh := renewed(t, ca, c, later)
	if fresh.Agent != 7 || fresh.Serial == c.Serial || !fresh.Key.Equal(c.Key) || !fresh.Cert.NotAfter.Equal(later.Add(identity.CertificateLifetime)) {
		t.Errorf("renewed %+v until %v", fresh.Peer, fresh.Cert.NotAfter)
	}
}

func TestRenewRefuses(t *testing.T) {
	ca, other := newCA(t, 1), newCA(t, 1)
	c, foreign := newAgent(t, ca, 7), newAgent(t, ca, 7)
	request, err := c.Request()
	if err != nil {
		t.Fatal(err)
	}
	elses, err := foreign.Request()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		cert []byte
		now  time.Time
		want string
	}{
		"nonsense":      {[]byte("certificate"), later, "read agent's certificate"},
		"another agent": {issue(t, ca, request, 8, c.Name, later), later, "for agent 8"},
		"another name":  {issue(t, ca, request, 7, "other", later), later, "(other)"},
		"another key":   {issue(t, ca, elses, 7, c.Name, later), later, "not issued for this agent's key"},
		"another CA":    {issue(t, other, request, 7, c.Name, later), later, "verify certificate"},
		"the old one":   {c.Cert.Raw, later, "the present one until"},
		"in the future": {issue(t, ca, request, 7, c.Name, later.Add(3*identity.ClockSkew)), later, "verify certificate"},
		"the CA itself": {ca.Certificate().Raw, later, "not issued for this agent's key"},
	} {
		if _, err := c.Renew(tc.cert, tc.now); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// No certificate outlives the CA: asking for one is of no use.
func TestNoRenewalAtTheEndOfTheCA(t *testing.T) {
	ca := newCA(t, 1)
	c := newAgent(t, ca, 7)
	for now := later; c.Cert.NotAfter.Before(ca.Certificate().NotAfter); now = now.Add(identity.CertificateLifetime * 3 / 4) {
		c = renewed(t, ca, c, now)
	}
	if _, err := c.Request(); !errors.Is(err, identity.ErrNotLater) {
		t.Errorf("request: %v", err)
	}
}

// A renewal replaces one file, whole: whoever reads the directory at any moment, as an agent does after a crash, finds
// credentials that belong together.
func TestDirectoryIsUsableDuringRenewal(t *testing.T) {
	ca := newCA(t, 1)
	c := newAgent(t, ca, 7)
	dir := t.TempDir()
	if err := c.Save(dir); err != nil {
		t.Fatal(err)
	}
	stat := func(name string) os.FileInfo {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	before := map[string]os.FileInfo{}
	for _, name := range []string{"agent.key", "ca.pem"} {
		before[name] = stat(name)
	}
	// What a crash in the middle of an earlier write leaves.
	if err := os.WriteFile(filepath.Join(dir, "agent.pem.new-1"), []byte("-----BEGIN CERT"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			if _, err := identity.LoadCredentials(dir, later); err != nil {
				t.Errorf("read during a renewal: %v", err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for i := range 50 {
		c = renewed(t, ca, c, later.Add(time.Duration(i)*time.Second))
		if err := c.SaveCertificate(dir); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	reading.Wait()
	for name, info := range before {
		if now := stat(name); !os.SameFile(info, now) || !info.ModTime().Equal(now.ModTime()) {
			t.Errorf("%s was written", name)
		}
	}
	if got, err := identity.LoadCredentials(dir, later); err != nil || got.Peer != c.Peer {
		t.Errorf("loaded %+v, %v", got, err)
	}
}

func TestLoadExpired(t *testing.T) {
	ca := newCA(t, 1)
	c := newAgent(t, ca, 7)
	dir := t.TempDir()
	if err := c.Save(dir); err != nil {
		t.Fatal(err)
	}
	after := c.Cert.NotAfter.Add(time.Hour)
	if _, err := identity.LoadCredentials(dir, after); err == nil {
		t.Error("expired credentials were loaded")
	}
	got, err := identity.LoadExpired(dir, after)
	if err != nil || got.Peer != c.Peer {
		t.Fatalf("loaded %+v, %v", got, err)
	}
	renewed(t, ca, got, after)
	if err := newAgent(t, newCA(t, 1), 7).SaveCertificate(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.LoadExpired(dir, after); err == nil {
		t.Error("a certificate of another key was loaded")
	}
	if _, err := identity.LoadExpired(dir, start.Add(-2*identity.ClockSkew)); err == nil {
		t.Error("a certificate that is not valid yet was loaded")
	}
}

func TestExpiresSoon(t *testing.T) {
	cert := newAgent(t, newCA(t, 1), 1).Cert
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{
		{identity.CertificateLifetime * 3 / 4, false},
		{identity.CertificateLifetime * 9 / 10, true},
		{identity.CertificateLifetime * 2, true},
	} {
		if got := identity.ExpiresSoon(cert.NotBefore, cert.NotAfter, start.Add(c.after)); got != c.want {
			t.Errorf("after %v: %v", c.after, got)
		}
	}
}
