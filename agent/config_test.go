package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"flotilla/agent"
)

const smallConfig = `
name: a
listen: 127.0.0.1:7431
state_dir: /var/lib/flotilla
roles: [primary, backup]
nbd: {unix: /run/nbd.sock}
`

func TestParseConfig(t *testing.T) {
	c, err := agent.ParseConfig([]byte(smallConfig + `
journal: {limit: 2GiB}
limits: {loss_after: 3s}
log: {level: debug, format: json}
activity_log: {off: true}
`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Advertise != c.Listen || c.Journal.Dir != "/var/lib/flotilla/journal" || c.Journal.Limit != 2<<30 {
		t.Errorf("defaults: %+v", c)
	}
	if c.Limits.LossAfter != 3*time.Second || !c.ActivityLog.Off || !c.Has(agent.Backup) || c.Has(agent.Secondary) {
		t.Errorf("values: %+v", c)
	}
}

// A spool lies in the state directory, or below another one that agents may share.
func TestSpoolDirectory(t *testing.T) {
	for _, tc := range []struct {
		text, dir string
		limit     agent.Size
	}{
		{"", "/var/lib/flotilla/spool", 8 << 30},
		{"spool: {dir: /big, limit: 64MiB}", "/big/a", 64 << 20},
		{"spool: {limit: 0}", "/var/lib/flotilla/spool", 0},
	} {
		c, err := agent.ParseConfig([]byte(smallConfig + tc.text))
		if err != nil || c.Spool.Dir != tc.dir || c.Spool.Limit != tc.limit {
			t.Errorf("%q: %+v, %v", tc.text, c.Spool, err)
		}
	}
}

// A component may have an address for other components, with a port of its own or behind the one it has.
func TestComponentAddress(t *testing.T) {
	for _, tc := range []struct{ text, listen, advertise string }{
		{"", "", ""},
		{"component_listen: 127.0.0.2:7431", "127.0.0.2:7431", "127.0.0.2:7431"},
		{"component_listen: 0.0.0.0:7432\ncomponent_advertise: c.example:7432", "0.0.0.0:7432", "c.example:7432"},
		{"component_advertise: 127.0.0.2:7431", "", "127.0.0.2:7431"},
	} {
		c, err := agent.ParseConfig([]byte(smallConfig + tc.text))
		if err != nil || c.ComponentListen != tc.listen || c.ComponentAdvertise != tc.advertise {
			t.Errorf("%q: %q, %q, %v", tc.text, c.ComponentListen, c.ComponentAdvertise, err)
		}
	}
}

// Each bad value is refused with its key, its value and a remedy.
func TestConfigRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		old, new string
		want     []string
	}{
		"unknown key":       {"name: a", "name: a\nnmae: b", []string{"nmae", "[3:1]"}},
		"unknown inner key": {"unix: /run/nbd.sock", "unix: /run/nbd.sock, tcp: x", []string{"tcp", "[6:"}},
		"duplicate key":     {"name: a", "name: a\nname: b", []string{"name", "[3:1]"}},
		"not yaml":          {"name: a", "name: [a", []string{"[3:1]"}},
		"no name":           {"name: a", "", []string{"name", "1 to 63"}},
		"bad name":          {"name: a", "name: a/b", []string{"name", "a/b", "want only letters"}},
		"no port":           {"127.0.0.1:7431", "127.0.0.1", []string{"listen", `"127.0.0.1"`, "host:port"}},
		"port 0":            {"127.0.0.1:7431", "127.0.0.1:0", []string{"listen", "1 to 65535"}},
		"unreachable":       {"127.0.0.1:7431", "0.0.0.0:7431", []string{"advertise", "0.0.0.0:7431", "set advertise"}},
		"relative":          {"/var/lib/flotilla", "state", []string{"state_dir", `"state"`, "absolute"}},
		"long path":         {"/var/lib/flotilla", "/" + strings.Repeat("x", 100), []string{"state_dir", "107", "shorter"}},
		"no roles":          {"[primary, backup]", "[]", []string{"roles", "primary, backup, secondary"}},
		"bad role":          {"[primary, backup]", "[primary, mirror]", []string{"roles", `"mirror"`, "choose among"}},
		"role twice":        {"[primary, backup]", "[backup, backup]", []string{"roles", "once"}},
		"no nbd":            {"nbd: {unix: /run/nbd.sock}", "", []string{"nbd", "give nbd.unix"}},
		"nbd on port":       {"unix: /run/nbd.sock", "listen: 127.0.0.1:7431", []string{"nbd.listen", "own port"}},
		"component port":    {"nbd:", "component_listen: 127.0.0.2\nnbd:", []string{"component_listen", `"127.0.0.2"`, "host:port"}},
		"component listen":  {"nbd:", "component_listen: 127.0.0.1:7431\nnbd:", []string{"component_listen", "own port"}},
		"component dial":    {"nbd:", "component_listen: 0.0.0.0:7432\nnbd:", []string{"component_advertise", "0.0.0.0:7432", "set component_advertise"}},
		"component same":    {"nbd:", "component_advertise: 127.0.0.1:7431\nnbd:", []string{"component_advertise", "leave it out"}},
		"no component":      {"roles: [primary, backup]", "component_listen: 127.0.0.2:7431\nroles: [primary]", []string{"component_listen", "role backup"}},
		"nbd on component":  {"nbd: {unix: /run/nbd.sock}", "component_listen: 127.0.0.2:7432\nnbd: {listen: 127.0.0.2:7432}", []string{"nbd.listen", "component_listen"}},
		"nbd relative":      {"/run/nbd.sock", "nbd.sock", []string{"nbd.unix", "absolute"}},
		"small journal":     {"nbd:", "journal: {limit: 1MiB}\nnbd:", []string{"journal.limit", "1MiB", "256MiB"}},
		"small spool":       {"nbd:", "spool: {limit: 1MiB}\nnbd:", []string{"spool.limit", "1MiB", "64MiB", "0 for no spool"}},
		"spool relative":    {"nbd:", "spool: {dir: spool}\nnbd:", []string{"spool.dir", "spool/a", "absolute"}},
		"bad size":          {"nbd:", "journal: {limit: 10 gigs}\nnbd:", []string{"10 gigs", "such as 10GiB"}},
		"log level":         {"nbd:", "log: {level: loud}\nnbd:", []string{"log.level", "loud", "debug"}},
		"log format":        {"nbd:", "log: {format: xml}\nnbd:", []string{"log.format", "xml", "json"}},
		"limit":             {"nbd:", "limits: {hold_max: 1m}\nnbd:", []string{"limits.hold_max", "1m0s", "1s"}},
		"limits crossed":    {"nbd:", "limits: {loss_after: 9s, last_loss_after: 5s}\nnbd:", []string{"last_loss_after", "9s"}},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(smallConfig, tc.old, tc.new, 1)
			if text == smallConfig {
				t.Fatalf("%q is not in the sample", tc.old)
			}
			_, err := agent.ParseConfig([]byte(text))
			if !errors.Is(err, agent.ErrConfig) {
				t.Fatalf("got %v, want ErrConfig", err)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
}

// TestInstalledFile: the file that is installed says only true things. As it is, it lacks what must be given and nothing else; with
// its lines taken out of their comments it is valid, and what it calls a default is one.
func TestInstalledFile(t *testing.T) {
	text, err := os.ReadFile("../scripts/host/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = agent.ParseConfig(text)
	if !errors.Is(err, agent.ErrConfig) {
		t.Fatalf("the file as installed: %v, want ErrConfig", err)
	}
	if k := strings.Count(err.Error(), agent.ErrConfig.Error()); k != 3 {
		t.Errorf("the file as installed has %d mistakes, want name, listen and roles alone: %v", k, err)
	}
	open := regexp.MustCompile(`(?m)^# ( *[a-z_]+:)`).ReplaceAll(text, []byte("$1"))
	c, err := agent.ParseConfig(open)
	if err != nil {
		t.Fatalf("%v\n%s", err, open)
	}
	if d := agent.DefaultConfig(); c.StateDir != d.StateDir || c.Journal.Limit != d.Journal.Limit || c.Journal.Dir != filepath.Join(d.StateDir, "journal") || c.Log != d.Log {
		t.Errorf("a default in the file is none:\n%s", open)
	}
	if c.Name == "" || c.Listen == "" || c.Domain == "" || c.ComponentListen == "" || c.NBD.Unix == "" || c.NBD.Listen == "" {
		t.Errorf("a line was not read: %+v", c)
	}
}

func TestLoadConfigNamesFile(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.yaml")
	if _, err := agent.LoadConfig(missing); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("missing file: %v", err)
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]agent.Size{
		"0": 0, "1": 1, "512KiB": 512 << 10, "3 MiB": 3 << 20, "10GiB": 10 << 30, "2TiB": 2 << 40,
	} {
		got, err := agent.ParseSize(text)
		if err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v", text, got, err)
		}
		if again, err := agent.ParseSize(got.String()); err != nil || again != want {
			t.Errorf("%q read back: %d, %v", got, again, err)
		}
	}
	for _, text := range []string{"", "GiB", "-1", "1.5GiB", "1GB", "9223372036854775807KiB", "iB", "1 XiB"} {
		if got, err := agent.ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d", text, got)
		}
	}
}
