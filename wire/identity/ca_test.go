package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flotilla/wire"
	"flotilla/wire/identity"
)

func TestCertificateNamesAgent(t *testing.T) {
	ca := newCA(t, 1)
	c := newAgent(t, ca, 42)
	if c.Agent != 42 || c.Name != "host-1" || c.Cluster != ca.Cluster() || c.Serial == "" {
		t.Errorf("credentials %+v", c.Peer)
	}
	if want := "flotilla://" + ca.Cluster().String() + "/agent/42"; c.Cert.URIs[0].String() != want {
		t.Errorf("URI %v, want %s", c.Cert.URIs[0], want)
	}
	if c.Cert.NotAfter.After(start.Add(identity.CertificateLifetime)) || c.Cert.IsCA {
		t.Errorf("certificate until %v, CA: %v", c.Cert.NotAfter, c.Cert.IsCA)
	}
	if _, err := identity.PeerOf(ca.Certificate()); !errors.Is(err, identity.ErrPeer) {
		t.Errorf("the CA as an agent: %v", err)
	}
}

func TestIssueRefuses(t *testing.T) {
	ca := newCA(t, 1)
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	good, err := identity.NewRequest(key, "a")
	if err != nil {
		t.Fatal(err)
	}
	forged := append([]byte(nil), good...)
	forged[len(forged)-1] ^= 1
	large, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, large)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		request []byte
		id      wire.AgentID
		agent   string
		now     time.Time
		want    string
	}{
		"no ID":      {good, 0, "a", start, "ID is 0"},
		"no name":    {good, 1, "", start, "0 characters"},
		"bad name":   {good, 1, "a/../b", start, "want only letters"},
		"long name":  {good, 1, strings.Repeat("a", 64), start, "64 characters"},
		"nonsense":   {[]byte("request"), 1, "a", start, "issue certificate"},
		"large":      {make([]byte, 1<<20), 1, "a", start, "longer than"},
		"forged":     {forged, 1, "a", start, "issue certificate"},
		"P-384":      {p384, 1, "a", start, "P-256"},
		"expired CA": {good, 1, "a", start.Add(identity.CALifetime + time.Hour), "check the clock"},
	} {
		if _, err := ca.Issue(c.request, c.id, c.agent, c.now); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := identity.NewCA(wire.ClusterID{}, start); err == nil {
		t.Error("CA without a cluster ID")
	}
}

// Near the end of the CA's life certificates end with it.
func TestCertificateDoesNotOutliveCA(t *testing.T) {
	ca := newCA(t, 1)
	key, _ := identity.NewKey()
	request, err := identity.NewRequest(key, "a")
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Issue(request, 1, "a", start.Add(identity.CALifetime-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil || !cert.NotAfter.Equal(ca.Certificate().NotAfter) {
		t.Errorf("certificate until %v, CA until %v, %v", cert.NotAfter, ca.Certificate().NotAfter, err)
	}
}

func TestSaveAndLoad(t *testing.T) {
	ca := newCA(t, 1)
	c := newAgent(t, ca, 7)
	dir := t.TempDir()
	if _, err := identity.LoadCredentials(dir, start); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("load from nowhere: %v", err)
	}
	for range 2 { // saving again replaces
		if err := errors.Join(c.Save(dir), ca.Save(dir)); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Errorf("files %v, %v", entries, err)
	}
	got, err := identity.LoadCredentials(dir, start)
	if err != nil || got.Peer != c.Peer || !got.Key.Equal(c.Key) || !got.Root.Equal(c.Root) {
		t.Errorf("loaded %+v, %v", got, err)
	}
	again, err := identity.LoadCA(dir)
	if err != nil || again.Fingerprint() != ca.Fingerprint() {
		t.Fatalf("loaded CA: %v", err)
	}
	newAgent(t, again, 8)

	for _, name := range []string{"agent.key", "ca.key"} {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := identity.LoadCredentials(dir, start); err == nil || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("open key: %v", err)
	}
	if _, err := identity.LoadCA(dir); err == nil || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("open CA key: %v", err)
	}
}

func TestLoadRefusesWhatDoesNotBelongTogether(t *testing.T) {
	ca, other := newCA(t, 1), newCA(t, 1)
	a, b := newAgent(t, ca, 1), newAgent(t, ca, 2)
	if _, err := identity.NewCredentials(a.Key, b.Cert.Raw, ca.Certificate().Raw, start); err == nil {
		t.Error("another agent's certificate")
	}
	if _, err := identity.NewCredentials(a.Key, a.Cert.Raw, other.Certificate().Raw, start); err == nil {
		t.Error("another CA")
	}
	if _, err := identity.NewCredentials(a.Key, a.Cert.Raw, b.Cert.Raw, start); err == nil {
		t.Error("an agent as CA")
	}
	if _, err := identity.NewCredentials(a.Key, a.Cert.Raw, ca.Certificate().Raw, start.Add(2*identity.CertificateLifetime)); err == nil {
		t.Error("expired")
	}
	cert, key, err := ca.PEM()
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey, err := other.PEM()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := identity.ParseCA(cert, key); err != nil {
		t.Error(err)
	}
	for _, bad := range [][2][]byte{{cert, otherKey}, {key, cert}, {nil, nil}, {append(cert, "x"...), key}} {
		if _, err := identity.ParseCA(bad[0], bad[1]); err == nil {
			t.Errorf("parsed %.20q with %.20q", bad[0], bad[1])
		}
	}
}

func TestNeedsRenewal(t *testing.T) {
	cert := newAgent(t, newCA(t, 1), 1).Cert
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{
		{0, false},
		{identity.CertificateLifetime / 2, false},
		{identity.CertificateLifetime * 3 / 4, true},
		{identity.CertificateLifetime * 2, true},
	} {
		if got := identity.NeedsRenewal(cert, start.Add(c.after)); got != c.want {
			t.Errorf("after %v: %v", c.after, got)
		}
	}
}
