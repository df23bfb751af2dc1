package agent

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/wire"
	"flotilla/wire/identity"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testTime bounds the waits of tests, for machines that do much at the same time.
const testTime = 40 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), testTime)
	t.Cleanup(cancel)
	return ctx
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func testConfig(t *testing.T, name string) Config {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := shortDir(t)
	c, err := ParseConfig(fmt.Appendf(nil, "name: %s\nlisten: %v\nstate_dir: %s/s\nroles: [primary, backup, secondary]\njournal: {limit: 256MiB}\nnbd: {unix: %s/nbd}\n",
		name, l.Addr(), dir, dir))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// start runs an agent until the test ends or stop is called.
func start(t *testing.T, c Config) (a *Agent, client *api.Client, stop func()) {
	t.Helper()
	return startWith(t, c, Options{})
}

// startWith is start with options of the caller's besides its own.
func startWith(t *testing.T, c Config, o Options) (a *Agent, client *api.Client, stop func()) {
	t.Helper()
	ready := make(chan struct{})
	o.Version, o.Ready = "test", func() { close(ready) }
	a, err := New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	client = api.NewSocketClient(c.AdminSocket())
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		client.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("agent %s ended with: %v", c.Name, err)
		}
	}
	select {
	case <-ready:
	case err := <-ended:
		cancel()
		t.Fatalf("agent %s: %v", c.Name, err)
	}
	t.Cleanup(stop)
	return a, client, stop
}

// founded starts the first agent of a new cluster.
func founded(t *testing.T) (Config, *Agent, *api.Client) {
	t.Helper()
	c := testConfig(t, "first")
	if _, err := Found(c, time.Now()); err != nil {
		t.Fatal(err)
	}
	a, client, _ := start(t, c)
	return c, a, client
}

func newToken(t *testing.T, client *api.Client) identity.Token {
	t.Helper()
	var made api.Token
	if err := client.Call(testContext(t), http.MethodPost, "/v1/tokens", api.TokenRequest{TTLSeconds: 60}, &made); err != nil {
		t.Fatal(err)
	}
	token, err := identity.ParseToken(made.Token)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// eventually waits until the node satisfies ok.
func eventually(t *testing.T, a *Agent, what string, ok func(n *core.Node) bool) {
	t.Helper()
	ctx := testContext(t)
	for {
		changed := a.watch.next()
		var done bool
		a.loop.View(func(n *core.Node) { done = ok(n) })
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%s did not come true", what)
		}
	}
}

// What a joiner gets wrong is refused, and spends no token.
func TestJoinRefuses(t *testing.T) {
	_, _, client := founded(t)
	token := newToken(t, client)
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := identity.NewRequest(key, "second")
	if err != nil {
		t.Fatal(err)
	}
	join := func(change func(q *api.JoinRequest)) error {
		q := api.JoinRequest{Secret: token.Secret[:], Request: csr, Name: "second", Address: "127.0.0.1:9", Roles: []string{"backup"}}
		change(&q)
		c := api.NewClient("first", func(ctx context.Context) (net.Conn, error) {
			return identity.DialJoin(ctx, token, identity.Policy{})
		})
		defer c.Close()
		return c.Call(testContext(t), http.MethodPost, "/join", q, &api.JoinAnswer{})
	}
	for name, tc := range map[string]struct {
		change func(q *api.JoinRequest)
		code   api.Code
		want   string
	}{
		"wrong secret":   {func(q *api.JoinRequest) { q.Secret = make([]byte, 32) }, api.Refused, "not known to the cluster"},
		"no secret":      {func(q *api.JoinRequest) { q.Secret = nil }, api.Refused, "not known to the cluster"},
		"no request":     {func(q *api.JoinRequest) { q.Request = nil }, api.Invalid, "signing request"},
		"forged":         {func(q *api.JoinRequest) { q.Request = append(bytes.Clone(csr[:len(csr)-1]), csr[len(csr)-1]^1) }, api.Invalid, "signing request"},
		"bad name":       {func(q *api.JoinRequest) { q.Name = "../x" }, api.Invalid, "want only letters"},
		"taken name":     {func(q *api.JoinRequest) { q.Name = "first" }, api.Refused, "already"},
		"no address":     {func(q *api.JoinRequest) { q.Address = "0.0.0.0:1" }, api.Invalid, "cannot dial it"},
		"bad second":     {func(q *api.JoinRequest) { q.ComponentAddress = "0.0.0.0:1" }, api.Invalid, "component_advertise"},
		"second of none": {func(q *api.JoinRequest) { q.Roles, q.ComponentAddress = []string{"primary"}, "127.0.0.2:1" }, api.Invalid, "role backup"},
		"no roles":       {func(q *api.JoinRequest) { q.Roles = nil }, api.Invalid, "needs a role"},
		"unknown role":   {func(q *api.JoinRequest) { q.Roles = []string{"captain"} }, api.Invalid, `"captain"`},
		"much too long":  {func(q *api.JoinRequest) { q.Name = strings.Repeat("x", 1<<17) }, api.Invalid, "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			err := join(tc.change)
			if api.CodeOf(err) != tc.code || !strings.Contains(fmt.Sprint(err), tc.want) {
				t.Errorf("got %v (%s), want %s %q", err, api.CodeOf(err), tc.code, tc.want)
			}
		})
	}
	if err := join(func(*api.JoinRequest) {}); err != nil {
		t.Fatalf("the token was spent by a refusal: %v", err)
	}
	if err := join(func(q *api.JoinRequest) { q.Name = "third" }); api.CodeOf(err) != api.Refused || !strings.Contains(err.Error(), "used already") {
		t.Errorf("second use: %v", err)
	}
}

// The API takes no connection of an agent that was taken out, nor a request on one that it had.
func TestRemovedAgentIsRefused(t *testing.T) {
	c, a, client := founded(t)
	second := testConfig(t, "second")
	if _, err := Join(testContext(t), second, newToken(t, client).Text(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := Join(testContext(t), second, newToken(t, client).Text(), time.Now()); !errors.Is(err, ErrHasIdentity) {
		t.Errorf("joined twice: %v", err)
	}
	creds, err := identity.LoadCredentials(filepath.Join(second.StateDir, "identity"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dial := func() *api.Client {
		return api.NewClient("first", func(ctx context.Context) (net.Conn, error) {
			return identity.Dial(ctx, c.Advertise, creds, identity.ProtocolAPI, 1, identity.Policy{})
		})
	}
	old := dial()
	defer old.Close()
	if s, err := old.Status(testContext(t)); err != nil || len(s.Agents) != 2 {
		t.Fatalf("before: %+v, %v", s, err)
	}
	if err := client.Call(testContext(t), http.MethodDelete, "/v1/agents/second", nil, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, a, "the removal", func(n *core.Node) bool { return n.State().Agents[2] == nil })
	if _, err := old.Status(testContext(t)); api.CodeOf(err) != api.Refused || !strings.Contains(err.Error(), "was taken out") {
		t.Errorf("on its old connection: %v", err)
	}
	fresh := dial()
	defer fresh.Close()
	if _, err := fresh.Status(testContext(t)); err == nil {
		t.Error("a new connection was taken")
	}
	if a.revoked(wire.AgentID(3), "") {
		t.Error("an agent that is not known yet counts as removed")
	}
}

func TestAPI(t *testing.T) {
	_, a, client := founded(t)
	eventually(t, a, "the first component", func(n *core.Node) bool { return len(n.State().Members) == 1 })
	raw := func(method, path, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(testContext(t), method, "http://agent"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(text)
	}
	for name, tc := range map[string]struct {
		method, path, body string
		status             int
		want               string
	}{
		"unknown path":     {"GET", "/v1/nothing", "", 404, "not part of this agent's interface"},
		"unknown key":      {"POST", "/v1/groups", `{"name":"g","colour":"red"}`, 400, "colour"},
		"no JSON":          {"POST", "/v1/groups", `name: g`, 400, "read request"},
		"too long":         {"POST", "/v1/groups", `{"name":"` + strings.Repeat("x", api.MaxRequest) + `"}`, 400, "too large"},
		"unknown group":    {"DELETE", "/v1/groups/none", "", 404, "no group named"},
		"unknown agent":    {"GET", "/v1/agents/none", "", 404, "no agent named"},
		"unknown volume":   {"DELETE", "/v1/groups/none/volumes/v", "", 404, "no group named"},
		"bad number":       {"GET", "/v1/events?after=x", "", 400, "is not a number"},
		"not a device":     {"GET", "/v1/agent/device?path=/", "", 400, "/"},
		"bad hash":         {"POST", "/v1/token-hashes", `{"hash":"00","ttl_seconds":60}`, 400, "SHA-256"},
		"agent, no token":  {"POST", "/v1/agents", `{"name":"x","address":"127.0.0.1:1","roles":["backup"]}`, 400, "no token"},
		"fixed when made":  {"PATCH", "/v1/groups/g", `{"portion_size_bytes":1048576}`, 400, "make another group"},
		"captain removed":  {"DELETE", "/v1/agents/first", "", 409, "is a backup component of the current view"},
		"metrics":          {"GET", "/metrics", "", 200, "flotilla_members 1"},
		"captain metric":   {"GET", "/metrics", "", 200, "flotilla_captain 1"},
		"events metric":    {"GET", "/metrics", "", 200, `flotilla_events_total{event="captain.elected"} 1`},
		"runtime metric":   {"GET", "/metrics", "", 200, "go_goroutines"},
		"local by itself":  {"GET", "/v1/agent", "", 200, `"has_ca":true`},
		"local by name":    {"GET", "/v1/agents/first", "", 200, `"version":"test"`},
		"status's version": {"GET", "/v1/status", "", 200, `"version":1,`},
	} {
		t.Run(name, func(t *testing.T) {
			if status, text := raw(tc.method, tc.path, tc.body); status != tc.status || !strings.Contains(text, tc.want) {
				t.Errorf("%d %.400s, want %d %q", status, text, tc.status, tc.want)
			}
		})
	}
}

// An agent with all roles replicates to itself, and says where its volumes are served.
func TestVolumeOfOneAgent(t *testing.T) {
	c, a, client := founded(t)
	dir := filepath.Dir(c.StateDir)
	for _, name := range []string{"source", "target"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	call := func(method, path string, in any) {
		t.Helper()
		if err := client.Call(testContext(t), method, path, in, nil); err != nil {
			t.Fatal(err)
		}
	}
	call(http.MethodPost, "/v1/groups", api.GroupRequest{Name: "g", Mode: "sync", PeriodMS: 100})
	d, err := client.Device(testContext(t), "first", filepath.Join(dir, "source"))
	if err != nil || d.Size != 1<<20 {
		t.Fatalf("device %+v, %v", d, err)
	}
	call(http.MethodPost, api.GroupPath("g")+"/volumes", api.VolumeRequest{
		Name: "v", Size: d.Size, Primary: "first", Source: filepath.Join(dir, "source"), Secondary: "first", Target: filepath.Join(dir, "target"),
	})
	eventually(t, a, "the first copy", func(n *core.Node) bool {
		g := n.State().GroupByName("g")
		return g.Volumes[1].CopiedAt != 0 && g.Applied >= g.Volumes[1].CopiedAt
	})
	s, err := client.Status(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	g := s.Group("g")
	if !s.Complete || !s.Degraded || g.Mode != "sync" || g.Point == nil || g.RPOSeconds == nil || len(g.Primaries) != 1 || !g.Primaries[0].Known {
		t.Errorf("status %+v", s)
	}
	local, err := client.Local(testContext(t), "")
	want := "nbd+unix:///g/v?socket=" + strings.ReplaceAll(c.NBD.Unix, "/", "%2F")
	if err != nil || len(local.Exports) != 1 || local.Exports[0].URIs[0] != want {
		t.Errorf("exports %+v, want %s; %v", local.Exports, want, err)
	}
	plan, err := client.Plan(testContext(t), "g")
	if err != nil || plan.Point == nil || !plan.LostKnown || !plan.Prefix || len(plan.Uncopied) != 0 {
		t.Errorf("plan %+v, %v", plan, err)
	}
}

func TestStateDirIsOneAgents(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	d, err := openStateDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openStateDir(path); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("process ID %d", os.Getpid())) {
		t.Errorf("second agent: %v", err)
	}
	if err := d.release(); err != nil {
		t.Fatal(err)
	}
	again, err := openStateDir(path)
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	if err := again.release(); err != nil {
		t.Error(err)
	}
}

// A founding that a crash cut off is made anew; one that is whole is left alone.
func TestFoundAgain(t *testing.T) {
	c := testConfig(t, "first")
	before, err := Found(c, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Found(c, time.Now()); !errors.Is(err, ErrHasIdentity) || !strings.Contains(err.Error(), before.String()) {
		t.Errorf("founded twice: %v", err)
	}
	if err := os.Remove(filepath.Join(c.StateDir, "identity", "agent.pem")); err != nil {
		t.Fatal(err)
	}
	after, err := Found(c, time.Now())
	if err != nil || after == before {
		t.Fatalf("after a crash: %v, %v", after, err)
	}
	a, _, _ := start(t, c)
	eventually(t, a, "a captain", func(n *core.Node) bool { return n.Captain() == 1 && n.State().Cluster == after.String() })
	second, err := New(c, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(testContext(t)); !errors.Is(err, ErrInUse) {
		t.Errorf("a second agent ran: %v", err)
	}
}

// The file must say what the cluster knows.
func TestConfigThatDiffersIsRefused(t *testing.T) {
	c := testConfig(t, "first")
	if _, err := Found(c, time.Now()); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(c *Config)
		want   string
	}{
		"name":    {func(c *Config) { c.Name = "other" }, `was joined as "first"`},
		"address": {func(c *Config) { c.Advertise = "127.0.0.1:1" }, "knows this agent at"},
		"roles":   {func(c *Config) { c.Roles = []Role{Primary} }, "[primary backup secondary]"},
		"second":  {func(c *Config) { c.ComponentAdvertise = "127.0.0.2:1" }, "without an address for components"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := c
			tc.change(&changed)
			a, err := New(changed, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := a.Run(testContext(t)); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// The hash of a token is what the cluster keeps: its text gives the secret only to who has it.
func TestTokenHash(t *testing.T) {
	_, a, client := founded(t)
	token := newToken(t, client)
	hash := token.SecretHash()
	a.loop.View(func(n *core.Node) {
		if n.State().Tokens[hex.EncodeToString(hash[:])] == nil {
			t.Error("the cluster does not know the token's hash")
		}
	})
}
