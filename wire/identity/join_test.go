package identity_test

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"flotilla/wire"
	"flotilla/wire/identity"
)

func newToken(t *testing.T, ca *identity.CA, address string) identity.Token {
	t.Helper()
	token, err := identity.NewToken(ca.Cluster(), address, ca.Fingerprint(), start.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestJoinByPin(t *testing.T) {
	ca, other := newCA(t, 1), newCA(t, 1)
	server := newAgent(t, ca, 1)
	p := openPort(t, server, at(start), identity.MuxOptions{}, identity.ProtocolData, identity.ProtocolJoin)
	c, err := identity.DialJoin(testContext(t), newToken(t, ca, p.address), at(start))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	c.Close()
	if string(answer) != "flotilla-join/1 nobody" || err != nil {
		t.Errorf("answer %q, %v", answer, err)
	}

	if _, err := identity.DialJoin(testContext(t), newToken(t, other, p.address), at(start)); !errors.Is(err, identity.ErrPin) {
		t.Errorf("pin of another CA: %v", err)
	}
	wrong := newToken(t, ca, p.address)
	wrong.Cluster[0]++
	if _, err := identity.DialJoin(testContext(t), wrong, at(start)); !errors.Is(err, identity.ErrPeer) {
		t.Errorf("another cluster's ID: %v", err)
	}
	late := at(start.Add(identity.CertificateLifetime + time.Hour))
	if _, err := identity.DialJoin(testContext(t), newToken(t, ca, p.address), late); !errors.Is(err, identity.ErrPeer) {
		t.Errorf("expired server: %v", err)
	}
}

// A server that merely sends the pinned CA's certificate along, without one that it issued, is refused.
func TestJoinRefusesCopiedCA(t *testing.T) {
	ca, rogue := newCA(t, 1), newCA(t, 1)
	mallory := *newAgent(t, rogue, 1)
	mallory.Root = ca.Certificate()
	p := openPort(t, &mallory, at(start), identity.MuxOptions{}, identity.ProtocolJoin)
	if _, err := identity.DialJoin(testContext(t), newToken(t, ca, p.address), at(start)); !errors.Is(err, identity.ErrPeer) {
		t.Errorf("joined a rogue: %v", err)
	}
}

// A port without the join protocol refuses joiners.
func TestJoinOnlyWhereOffered(t *testing.T) {
	ca := newCA(t, 1)
	p := openPort(t, newAgent(t, ca, 1), at(start), identity.MuxOptions{}, identity.ProtocolData)
	if _, err := ask(t, p.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{identity.ProtocolJoin}}); err == nil {
		t.Error("joined")
	}
}

func TestTokenText(t *testing.T) {
	token := newToken(t, newCA(t, 1), "backup-1.example.net:7474")
	text := token.Text()
	if !strings.HasPrefix(text, "flotilla-join-v1.") {
		t.Errorf("text %q", text)
	}
	got, err := identity.ParseToken(" " + text + "\n")
	if err != nil || got != token {
		t.Errorf("%v, %v", got, err)
	}
	if !identity.SecretMatches(token.Secret[:], got.SecretHash()) || identity.SecretMatches(nil, got.SecretHash()) ||
		token.SecretHash() != sha256.Sum256(token.Secret[:]) {
		t.Error("secret does not match its hash, or nothing does")
	}
	for _, shown := range []string{token.String(), fmt.Sprintf("%v %+v %#v", token, token, token)} {
		if strings.Contains(shown, fmt.Sprint(token.Secret[0])+" "+fmt.Sprint(token.Secret[1])) || strings.Contains(shown, fmt.Sprintf("%#x", token.Secret[0])+", ") {
			t.Errorf("secret shown in %q", shown)
		}
	}
	for i := range text {
		for _, c := range []byte("AQ_") {
			bad := text[:i] + string(rune(c)) + text[i+1:]
			if bad == text {
				continue
			}
			if _, err := identity.ParseToken(bad); !errors.Is(err, identity.ErrToken) {
				t.Fatalf("character %d changed: %v", i, err)
			}
		}
		if _, err := identity.ParseToken(text[:i]); !errors.Is(err, identity.ErrToken) {
			t.Fatalf("cut to %d characters: %v", i, err)
		}
	}
	for _, address := range []string{"", strings.Repeat("a", 256)} {
		if _, err := identity.NewToken(wire.ClusterID{1}, address, [32]byte{}, start); err == nil {
			t.Errorf("token for address of %d characters", len(address))
		}
	}
}

func FuzzParseToken(f *testing.F) {
	token, err := identity.NewToken(wire.ClusterID{1}, "h:1", [32]byte{2}, start)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token.Text())
	f.Add("flotilla-join-v1.")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := identity.ParseToken(text)
		if err != nil {
			if !errors.Is(err, identity.ErrToken) {
				t.Fatalf("unclassified error: %v", err)
			}
			return
		}
		if token.Text() != strings.TrimSpace(text) {
			t.Fatal("token does not encode to what it was")
		}
	})
}
