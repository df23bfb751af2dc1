package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/wire"
	"flotilla/wire/identity"
)

const day = 24 * time.Hour

// Of a certificate of 365 days, and of the day before it: when it is renewed, when that has failed for long, and when it has
// run out.
const (
	daysToRenew   = 260
	daysToAlarm   = 330
	daysToExpired = 400
)

// clock is the clock of certificates of all agents of a test.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time                  { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(days int)                { c.ahead.Add(int64(days) * int64(day)) }
func (c *clock) policy() identity.Policy         { return identity.Policy{Now: c.now} }
func (c *clock) options(e time.Duration) Options { return Options{Now: c.now, RenewEvery: e} }

// member is one agent of a test's cluster.
type member struct {
	cfg    Config
	a      *Agent
	client *api.Client
	stop   func()
}

func (m *member) identity() string { return filepath.Join(m.cfg.StateDir, "identity") }

func (m *member) start(t *testing.T, o Options) {
	t.Helper()
	m.a, m.client, m.stop = startWith(t, m.cfg, o)
}

// pair starts a founder and a second agent, and waits until each knows both.
func pair(t *testing.T, o Options) (first, second *member) {
	t.Helper()
	first, second = &member{cfg: testConfig(t, "first")}, &member{cfg: testConfig(t, "second")}
	if _, err := Found(first.cfg, time.Now()); err != nil {
		t.Fatal(err)
	}
	first.start(t, o)
	if _, err := Join(testContext(t), second.cfg, newToken(t, first.client).Text(), time.Now()); err != nil {
		t.Fatal(err)
	}
	second.start(t, o)
	for _, m := range []*member{first, second} {
		eventually(t, m.a, "a cluster of two", func(n *core.Node) bool { return n.Captain() != 0 && len(n.State().Agents) == 2 })
	}
	return first, second
}

// shown returns whom an agent's port shows to a new connection.
func shown(t *testing.T, c *clock, m *member, own *identity.Credentials) identity.Peer {
	t.Helper()
	conn, err := identity.Dial(testContext(t), m.cfg.Advertise, own, identity.ProtocolAPI, 0, c.policy())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peer, err := conn.Peer()
	if err != nil {
		t.Fatal(err)
	}
	return peer
}

// events waits until an agent's events of that name are as many, and returns them.
func (m *member) events(t *testing.T, name string, want int) []api.Event {
	t.Helper()
	ctx := testContext(t)
	for after := uint64(0); ; {
		page, err := m.client.Events(ctx, 0, 0)
		if err != nil {
			t.Fatalf("no %d events %s: %v", want, name, err)
		}
		page.Events = slices.DeleteFunc(page.Events, func(e api.Event) bool { return e.Name != name })
		if len(page.Events) >= want {
			return page.Events
		}
		after = page.Next
		if _, err := m.client.Events(ctx, after, 30*time.Second); err != nil {
			t.Fatalf("no %d events %s: %v", want, name, err)
		}
	}
}

// expiring returns the agents that have an alarm about their certificate, as an agent answers.
func expiring(t *testing.T, client *api.Client) (names []string) {
	t.Helper()
	s, err := client.Status(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range s.Alarms {
		if a.Name == expiryAlarm {
			names = append(names, a.Agent)
		}
	}
	slices.Sort(names)
	return names
}

// until polls what has no signal.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx := testContext(t)
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s did not come true", what)
		}
	}
}

// Agents renew their certificates without a restart, the founder by itself, again and again.
func TestCertificatesAreRenewed(t *testing.T) {
	var c clock
	first, second := pair(t, c.options(20*time.Millisecond))
	both := []*member{first, second}
	old := map[*member]*identity.Credentials{first: first.a.credentials(), second: second.a.credentials()}
	for round := 1; round <= 2; round++ { // the second beyond the life of the first certificates
		c.advance(daysToRenew)
		for _, m := range both {
			e := m.events(t, "certificate.renewed", round)[round-1]
			if want := m.a.credentials().Cert.NotAfter.Format(time.RFC3339); e.Attrs["expires"] != want {
				t.Errorf("event %+v, want expires %s", e, want)
			}
		}
		for i, m := range both {
			now, before := m.a.credentials(), old[m]
			peer := shown(t, &c, m, both[1-i].a.credentials())
			if peer.Serial == before.Serial || peer != now.Peer || peer.Agent != before.Agent || peer.Name != m.cfg.Name {
				t.Errorf("round %d: %s shows %+v, had %+v, has %+v", round, m.cfg.Name, peer, before.Peer, now.Peer)
			}
			if left := now.Cert.NotAfter.Sub(c.now()); left < identity.CertificateLifetime-day {
				t.Errorf("round %d: %s has %v left", round, m.cfg.Name, left)
			}
			disk, err := identity.LoadCredentials(m.identity(), c.now())
			if err != nil || disk.Peer != now.Peer {
				t.Errorf("round %d: on the disk of %s: %+v, %v", round, m.cfg.Name, disk, err)
			}
			old[m] = now
		}
	}
	for _, m := range both {
		if names := expiring(t, m.client); len(names) != 0 {
			t.Errorf("alarms of %q at %s", names, m.cfg.Name)
		}
		if failed := m.events(t, "certificate.renewal-failed", 0); len(failed) != 0 {
			t.Errorf("%s: %+v", m.cfg.Name, failed)
		}
	}

	// What a crash has left beside it does not matter to a restart.
	second.stop()
	if err := os.WriteFile(filepath.Join(second.identity(), "agent.pem.new-1"), []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	second.start(t, c.options(20*time.Millisecond))
	eventually(t, second.a, "a captain after the restart", func(n *core.Node) bool { return n.Captain() != 0 })
	if peer := shown(t, &c, second, first.a.credentials()); peer != old[second].Peer {
		t.Errorf("after a restart: %+v, want %+v", peer, old[second].Peer)
	}
	if _, err := first.client.Local(testContext(t), "second"); err != nil {
		t.Errorf("the first asks the second anew: %v", err)
	}
}

// A certificate is for the agent at the other end, whatever it asks for, and for agents of the cluster only.
func TestCertificateIsForTheAsker(t *testing.T) {
	var c clock
	first, second := pair(t, c.options(time.Hour))
	own := second.a.credentials()
	dial := func(to *member, as *identity.Credentials) *api.Client {
		client := api.NewClient(to.cfg.Name, func(ctx context.Context) (net.Conn, error) {
			return identity.Dial(ctx, to.cfg.Advertise, as, identity.ProtocolAPI, 0, c.policy())
		})
		t.Cleanup(client.Close)
		return client
	}
	ask := func(client *api.Client, body any) (api.Certificate, error) {
		var answer api.Certificate
		return answer, client.Call(testContext(t), http.MethodPost, "/v1/certificates", body, &answer)
	}
	asFirst, err := identity.NewRequest(own.Key, "first")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := ask(dial(first, own), api.CertificateRequest{Request: asFirst})
	if err != nil {
		t.Fatal(err)
	}
	got, err := identity.NewCredentials(own.Key, answer.Certificate, own.Root.Raw, time.Now())
	if err != nil || got.Agent != 2 || got.Name != "second" {
		t.Errorf("certificate %+v, %v", got, err)
	}

	ca, err := identity.LoadCA(first.identity())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(asFirst, 9, "ninth", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ninth, err := identity.NewCredentials(own.Key, cert, own.Root.Raw, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(asFirst)
	forged[len(forged)-1] ^= 1
	asked := api.CertificateRequest{Request: asFirst}
	for name, tc := range map[string]struct {
		client *api.Client
		body   any
		code   api.Code
		want   string
	}{
		"names an agent":   {dial(first, own), map[string]any{"request": asFirst, "agent": 1}, api.Invalid, "agent"},
		"forged":           {dial(first, own), api.CertificateRequest{Request: forged}, api.Refused, "issue certificate"},
		"nothing":          {dial(first, own), api.CertificateRequest{}, api.Refused, "issue certificate"},
		"by the socket":    {first.client, asked, api.Refused, "asks for its certificate itself"},
		"no CA key":        {dial(second, first.a.credentials()), asked, api.NotFound, "no CA key"},
		"not in the state": {dial(first, ninth), asked, api.Refused, "has no agent 9"},
	} {
		t.Run(name, func(t *testing.T) {
			if answer, err := ask(tc.client, tc.body); api.CodeOf(err) != tc.code || !strings.Contains(err.Error(), tc.want) || answer.Certificate != nil {
				t.Errorf("%d bytes, %v (%s), want %s %q", len(answer.Certificate), err, api.CodeOf(err), tc.code, tc.want)
			}
		})
	}

	// Taken out: neither on a connection that it has nor on a new one.
	third := testConfig(t, "third")
	if _, err := Join(testContext(t), third, newToken(t, first.client).Text(), time.Now()); err != nil {
		t.Fatal(err)
	}
	own, err = identity.LoadCredentials(filepath.Join(third.StateDir, "identity"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	had := dial(first, own)
	if _, err := ask(had, asked); err != nil {
		t.Fatal(err)
	}
	if err := first.client.Call(testContext(t), http.MethodDelete, "/v1/agents/third", nil, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, first.a, "the removal", func(n *core.Node) bool { return n.State().Agents[3] == nil })
	for _, client := range []*api.Client{had, dial(first, own)} {
		if answer, err := ask(client, asked); err == nil || answer.Certificate != nil {
			t.Error("a removed agent got a certificate")
		}
	}
}

// attempts counts failed attempts in the log.
type attempts struct {
	slog.Handler
	n *atomic.Int64
}

func (a attempts) Enabled(context.Context, slog.Level) bool { return true }

func (a attempts) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "certificate was not renewed" {
		a.n.Add(1)
	}
	return nil
}

// While nobody with the CA's key is reached an agent says so, once in a while, and tries again.
func TestRenewalWaitsForFounder(t *testing.T) {
	var c clock
	o := c.options(time.Second)
	first, second := pair(t, o)
	until(t, "hearing of the first's certificate", func() bool {
		r, err := second.client.Local(testContext(t), "first")
		return err == nil && !r.Certificate.Until.IsZero()
	})
	first.stop()
	second.stop()
	var failed atomic.Int64
	counting := o
	counting.Logger = slog.New(attempts{slog.DiscardHandler, &failed})
	c.advance(daysToAlarm)
	second.start(t, counting)
	had := second.a.credentials()
	until(t, "five attempts", func() bool { return failed.Load() >= 5 })
	events := second.events(t, "certificate.renewal-failed", 1)
	if len(events) != 1 {
		t.Errorf("%d events of %d failures", len(events), failed.Load())
	}
	for _, want := range []string{"agent 1 at " + first.cfg.Advertise, "connection refused"} {
		if text, _ := events[0].Attrs["error"].(string); !strings.Contains(text, want) {
			t.Errorf("error %q, want %q", text, want)
		}
	}
	if events[0].Attrs["remedy"] != renewRemedy || events[0].Attrs["expires"] != had.Cert.NotAfter.Format(time.RFC3339) {
		t.Errorf("event %+v", events[0])
	}
	if names := expiring(t, second.client); !slices.Equal(names, []string{"second"}) {
		t.Errorf("alarms of %q", names)
	}

	first.start(t, o)
	second.events(t, "certificate.renewed", 1)
	if own := second.a.credentials(); own.Serial == had.Serial || shown(t, &c, second, first.a.credentials()) != own.Peer {
		t.Errorf("shows %+v", own.Peer)
	}
	until(t, "the end of the alarms", func() bool { return len(expiring(t, first.client))+len(expiring(t, second.client)) == 0 })
}

// Without the CA's key in the cluster each agent raises its alarm, and everybody shows all of them.
func TestExpiryAlarms(t *testing.T) {
	var c clock
	o := c.options(20 * time.Millisecond)
	first, second := pair(t, o)
	first.stop()
	if err := os.Rename(filepath.Join(first.identity(), "ca.key"), filepath.Join(first.cfg.StateDir, "kept")); err != nil {
		t.Fatal(err)
	}
	first.start(t, o)
	both := []*member{first, second}
	for _, m := range both {
		eventually(t, m.a, "a captain", func(n *core.Node) bool { return n.Captain() != 0 })
		if names := expiring(t, m.client); len(names) != 0 {
			t.Errorf("early alarms of %q", names)
		}
	}
	c.advance(daysToAlarm)
	for _, m := range both {
		e := m.events(t, "certificate.renewal-failed", 1)[0]
		if text, _ := e.Attrs["error"].(string); !strings.Contains(text, "1 agents have no CA key") {
			t.Errorf("event %+v", e)
		}
		until(t, "both alarms at "+m.cfg.Name, func() bool { return slices.Equal(expiring(t, m.client), []string{"first", "second"}) })
	}
	s, err := second.client.Status(testContext(t))
	if err != nil || !s.Complete {
		t.Fatalf("status %+v, %v", s, err)
	}
	for _, a := range s.Alarms {
		if a.Name == expiryAlarm && (a.Remedy != renewRemedy || !strings.Contains(a.Text, "valid until 20")) {
			t.Errorf("alarm %+v", a)
		}
	}
	// The key comes back to another agent.
	second.stop()
	if err := os.Rename(filepath.Join(first.cfg.StateDir, "kept"), filepath.Join(second.identity(), "ca.key")); err != nil {
		t.Fatal(err)
	}
	second.start(t, o)
	for _, m := range both {
		m.events(t, "certificate.renewed", 1)
	}
	until(t, "the end of the alarms", func() bool { return len(expiring(t, first.client))+len(expiring(t, second.client)) == 0 })
}

// The agent that is asked adds its own alarm to what the captain says, who need not know of it.
func TestOwnExpiryAlarm(t *testing.T) {
	var c clock
	_, second := pair(t, c.options(time.Hour))
	c.advance(daysToAlarm)
	if names := expiring(t, second.client); !slices.Equal(names, []string{"first", "second"}) {
		t.Errorf("alarms of %q", names)
	}
}

// What cannot be written is not shown either, and is tried again.
func TestRenewalThatCannotBeWritten(t *testing.T) {
	var c clock
	m := &member{cfg: testConfig(t, "first")}
	if _, err := Found(m.cfg, time.Now()); err != nil {
		t.Fatal(err)
	}
	m.start(t, c.options(20*time.Millisecond))
	had := m.a.credentials()
	file := filepath.Join(m.identity(), "agent.pem")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(file, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	c.advance(daysToRenew)
	if e := m.events(t, "certificate.renewal-failed", 1)[0]; !strings.Contains(e.Attrs["remedy"].(string), "disk of the state directory") {
		t.Errorf("event %+v", e)
	}
	if now := m.a.credentials(); now != had {
		t.Errorf("shows %+v, which is not on the disk", now.Peer)
	}
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	m.events(t, "certificate.renewed", 1)
	if disk, err := identity.LoadCredentials(m.identity(), c.now()); err != nil || disk.Peer != m.a.credentials().Peer {
		t.Errorf("on the disk: %+v, %v", disk, err)
	}
}

// After more than a year the founder still starts; another agent does with a copy of the CA's key.
func TestStartAfterExpiry(t *testing.T) {
	var c clock
	o := c.options(20 * time.Millisecond)
	first, second := pair(t, o)
	first.stop()
	second.stop()
	c.advance(daysToExpired)
	first.start(t, o)
	if left := first.a.credentials().Cert.NotAfter.Sub(c.now()); left < identity.CertificateLifetime-day {
		t.Errorf("the founder's certificate has %v left", left)
	}
	late, err := New(second.cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := late.Run(testContext(t)); err == nil || !strings.Contains(err.Error(), "put the founder's identity/ca.key there") {
		t.Errorf("started: %v", err)
	}
	key, err := os.ReadFile(filepath.Join(first.identity(), "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(second.identity(), "ca.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	second.start(t, o)
	eventually(t, second.a, "a captain", func(n *core.Node) bool { return n.Captain() != 0 })
	if peer := shown(t, &c, second, first.a.credentials()); peer.Agent != wire.AgentID(2) || peer != second.a.credentials().Peer {
		t.Errorf("shows %+v", peer)
	}
}

// Of another version's document nothing is lost.
func TestAddAlarms(t *testing.T) {
	const document = `{"version":1,"new":{"a":1},"alarms":[{"name":"x","agent":"a","text":"t","remedy":"r","more":7}]}`
	got, err := addAlarms(json.RawMessage(document), []api.Alarm{{Name: "x", Agent: "a", Text: "other"}, {Name: "x", Agent: "b", Text: "u", Remedy: "s"}})
	want := `{"alarms":[{"name":"x","agent":"a","text":"t","remedy":"r","more":7},{"name":"x","agent":"b","text":"u","remedy":"s"}],"new":{"a":1},"version":1}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
	for _, bad := range []string{`[]`, `{}`, `{"alarms":1}`, `{"alarms":[1]}`} {
		if got, err := addAlarms(json.RawMessage(bad), nil); err == nil {
			t.Errorf("%s became %s", bad, got)
		}
	}
}
