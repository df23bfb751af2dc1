package agent

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
	"flotilla/wire/identity"

	"github.com/goccy/go-yaml"
)

// DefaultConfigPath is where the daemon and the command line look for the agent's file.
const DefaultConfigPath = "/etc/flotilla/agent.yaml"

const (
	maxConfigLength = 1 << 20
	maxSocketPath   = 107 // bytes of a Unix socket's path in the kernel, less the final zero
	minJournalLimit = 256 << 20
	minSpoolLimit   = cluster.MinSpool
)

// Config is an agent's own file: what only this host can know. Everything else is cluster state.
type Config struct {
	Name      string `yaml:"name"`      // unique in the cluster
	Listen    string `yaml:"listen"`    // host:port of the TCP port
	Advertise string `yaml:"advertise"` // host:port at which others reach it; Listen when empty

	// Of a backup component that shall talk to other components on a network of their own: host:port to listen on, Listen
	// alone when empty; and at which they reach it, ComponentListen when empty. Both empty: all on one.
	ComponentListen    string `yaml:"component_listen"`
	ComponentAdvertise string `yaml:"component_advertise"`

	StateDir string        `yaml:"state_dir"`
	Roles    []Role        `yaml:"roles"`
	Domain   string        `yaml:"domain"` // failure domain, such as the site; taken at the join, changed by `flotilla component set`
	Journal  JournalConfig `yaml:"journal"`
	Spool    SpoolConfig   `yaml:"spool"`
	NBD      NBDConfig     `yaml:"nbd"`
	Log      LogConfig     `yaml:"log"`
	Limits   LimitsConfig  `yaml:"limits"`
	Debug    DebugConfig   `yaml:"debug"`

	ActivityLog ActivityLogConfig `yaml:"activity_log"`
}

// ActivityLogConfig says how a primary remembers where its volumes may differ from their targets.
type ActivityLogConfig struct {
	// Off spares the flush before the first write to an extent; after a crash everything is copied.
	Off bool `yaml:"off"`
}

// JournalConfig says where a backup component keeps held updates, and how much of them.
type JournalConfig struct {
	Dir   string `yaml:"dir"`   // state_dir/journal when empty
	Limit Size   `yaml:"limit"` // bytes
}

// SpoolConfig says where a primary keeps what waits to be sent when that is too much for memory, and how much of it for all
// groups. What one group may take is the group's.
type SpoolConfig struct {
	Dir   string `yaml:"dir"`   // state_dir/spool when empty; the agent's name is added to any other
	Limit Size   `yaml:"limit"` // bytes; 0 for none
}

// total is the limit as a primary takes it.
func (c *SpoolConfig) total() int64 {
	if c.Limit == 0 {
		return -1
	}
	return int64(c.Limit)
}

// NBDConfig says where clients reach the volumes of a primary and the promoted targets of a secondary.
type NBDConfig struct {
	Unix   string `yaml:"unix"`   // path of a socket; none when empty
	Listen string `yaml:"listen"` // host:port; none when empty. NBD here has no encryption: keep it on the loopback
}

// LogConfig says what is logged to standard error.
type LogConfig struct {
	Level  string `yaml:"level"`  // debug, info, warn or error
	Format string `yaml:"format"` // text or json
}

// LimitsConfig replaces limits of the protocol, see [core.Config]. Zero leaves the default.
type LimitsConfig struct {
	LossAfter     time.Duration `yaml:"loss_after"`
	LastLossAfter time.Duration `yaml:"last_loss_after"`
	HoldMax       time.Duration `yaml:"hold_max"`
	GiveUpAfter   time.Duration `yaml:"give_up_after"`
}

// Role is a part that an agent plays.
type Role string

// The roles.
const (
	Primary   Role = "primary"
	Backup    Role = "backup"
	Secondary Role = "secondary"
)

// DefaultConfig returns the values that a file need not give.
func DefaultConfig() Config {
	return Config{
		StateDir: "/var/lib/flotilla",
		Journal:  JournalConfig{Limit: 8 << 30},
		Spool:    SpoolConfig{Limit: 8 << 30},
		Log:      LogConfig{Level: "info", Format: "text"},
	}
}

// ErrConfig is wrapped by every error about the agent's file.
var ErrConfig = errors.New("bad configuration")

// LoadConfig reads and checks an agent's file.
func LoadConfig(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("%w: %w; write the file, or name another with --config", ErrConfig, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigLength+1))
	if err != nil {
		return Config{}, fmt.Errorf("%w: read %s: %w", ErrConfig, path, err)
	}
	if len(text) > maxConfigLength {
		return Config{}, fmt.Errorf("%w: %s is longer than %d bytes: it is no agent's file", ErrConfig, path, maxConfigLength)
	}
	c, err := ParseConfig(text)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// ParseConfig reads and checks the text of an agent's file. A key that it does not know is an error that names the line.
func ParseConfig(text []byte) (Config, error) {
	c := DefaultConfig()
	err := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(&c)
	if err != nil && !errors.Is(err, io.EOF) {
		return Config{}, fmt.Errorf("%w: %s", ErrConfig, yaml.FormatError(err, false, true))
	}
	if reflect.DeepEqual(c, Config{}) { // comments alone are a null to YAML, which takes the defaults away
		c = DefaultConfig()
	}
	if c.Journal.Dir == "" {
		c.Journal.Dir = filepath.Join(c.StateDir, "journal")
	}
	if c.Spool.Dir == "" {
		c.Spool.Dir = filepath.Join(c.StateDir, "spool")
	} else if c.Name != "" {
		c.Spool.Dir = filepath.Join(c.Spool.Dir, c.Name) // another agent may have been given the same
	}
	if c.Advertise == "" {
		c.Advertise = c.Listen
	}
	if c.ComponentAdvertise == "" {
		c.ComponentAdvertise = c.ComponentListen
	}
	return c, c.Validate()
}

// Validate returns all that is wrong, each with its key, its value and what to do.
func (c *Config) Validate() error {
	var errs []error
	wrong := func(key string, value any, remedy string) {
		errs = append(errs, fmt.Errorf("%w: %s: %q: %s", ErrConfig, key, fmt.Sprint(value), remedy))
	}
	if err := identity.CheckName(c.Name); err != nil {
		wrong("name", c.Name, err.Error())
	}
	if remedy := checkAddress(c.Listen); remedy != "" {
		wrong("listen", c.Listen, remedy)
	} else if remedy := checkAdvertised("advertise", c.Advertise); remedy != "" {
		wrong("advertise", c.Advertise, remedy)
	}
	c.validateComponentAddress(wrong)
	if !filepath.IsAbs(c.StateDir) {
		wrong("state_dir", c.StateDir, "give an absolute path")
	} else if p := adminSocket(c.StateDir); len(p) > maxSocketPath {
		wrong("state_dir", c.StateDir, fmt.Sprintf("the socket %s would have a path of %d bytes, the kernel takes %d: choose a shorter directory", p, len(p), maxSocketPath))
	}
	c.validateRoles(wrong)
	if err := cluster.CheckDomain(c.Domain); err != nil {
		wrong("domain", c.Domain, err.Error())
	}
	if c.Has(Backup) {
		if !filepath.IsAbs(c.Journal.Dir) {
			wrong("journal.dir", c.Journal.Dir, "give an absolute path")
		}
		if c.Journal.Limit < minJournalLimit {
			wrong("journal.limit", c.Journal.Limit, fmt.Sprintf("give at least %v", Size(minJournalLimit)))
		}
	}
	if c.Has(Primary) {
		if !filepath.IsAbs(c.Spool.Dir) {
			wrong("spool.dir", c.Spool.Dir, "give an absolute path")
		}
		if c.Spool.Limit != 0 && c.Spool.Limit < minSpoolLimit {
			wrong("spool.limit", c.Spool.Limit, fmt.Sprintf("give at least %v, or 0 for no spool", Size(minSpoolLimit)))
		}
	}
	c.validateNBD(wrong)
	if _, err := c.Log.level(); err != nil {
		wrong("log.level", c.Log.Level, "choose debug, info, warn or error")
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		wrong("log.format", c.Log.Format, "choose text or json")
	}
	c.Limits.validate(wrong)
	return errors.Join(errs...)
}

func (c *Config) validateComponentAddress(wrong func(key string, value any, remedy string)) {
	if c.ComponentListen == "" && c.ComponentAdvertise == "" {
		return
	}
	if !c.Has(Backup) {
		wrong("component_listen", cmp.Or(c.ComponentListen, c.ComponentAdvertise), "it is for agents with the role backup: leave it and component_advertise out")
		return
	}
	if c.ComponentListen != "" {
		if remedy := checkAddress(c.ComponentListen); remedy != "" {
			wrong("component_listen", c.ComponentListen, remedy)
			return
		}
		if c.ComponentListen == c.Listen {
			wrong("component_listen", c.ComponentListen, "it is the agent's own port (listen): choose another address, or give only component_advertise")
			return
		}
	}
	if remedy := checkAdvertised("component_advertise", c.ComponentAdvertise); remedy != "" {
		wrong("component_advertise", c.ComponentAdvertise, remedy)
	} else if c.ComponentAdvertise == c.Advertise {
		wrong("component_advertise", c.ComponentAdvertise, "others reach this agent there as well (advertise): give an address on the components' own network, or leave it out")
	}
}

func (c *Config) validateRoles(wrong func(key string, value any, remedy string)) {
	if len(c.Roles) == 0 {
		wrong("roles", "", "give one or more of primary, backup, secondary")
	}
	seen := map[Role]bool{}
	for _, r := range c.Roles {
		switch {
		case r != Primary && r != Backup && r != Secondary:
			wrong("roles", r, "choose among primary, backup, secondary")
		case seen[r]:
			wrong("roles", r, "name each role once")
		}
		seen[r] = true
	}
}

func (c *Config) validateNBD(wrong func(key string, value any, remedy string)) {
	if p := c.NBD.Unix; p != "" {
		if !filepath.IsAbs(p) {
			wrong("nbd.unix", p, "give an absolute path")
		} else if len(p) > maxSocketPath {
			wrong("nbd.unix", p, fmt.Sprintf("a socket's path has at most %d bytes: choose a shorter one", maxSocketPath))
		}
	}
	if a := c.NBD.Listen; a != "" {
		if remedy := checkAddress(a); remedy != "" {
			wrong("nbd.listen", a, remedy)
		} else if a == c.Listen {
			wrong("nbd.listen", a, "it is the agent's own port (listen): choose another")
		} else if a == c.ComponentListen {
			wrong("nbd.listen", a, "it is the agent's port for components (component_listen): choose another")
		}
	}
	if c.Has(Primary) && c.NBD.Unix == "" && c.NBD.Listen == "" {
		wrong("nbd", "", "a primary serves its volumes over NBD: give nbd.unix, nbd.listen or both")
	}
}

func (l *LimitsConfig) validate(wrong func(key string, value any, remedy string)) {
	for _, d := range []struct {
		key      string
		value    time.Duration
		min, max time.Duration
	}{
		{"limits.loss_after", l.LossAfter, 500 * time.Millisecond, 10 * time.Minute},
		{"limits.last_loss_after", l.LastLossAfter, time.Second, 24 * time.Hour},
		{"limits.hold_max", l.HoldMax, time.Millisecond, time.Second},
		{"limits.give_up_after", l.GiveUpAfter, 5 * time.Second, 24 * time.Hour},
	} {
		if d.value != 0 && (d.value < d.min || d.value > d.max) {
			wrong(d.key, d.value, fmt.Sprintf("choose from %v to %v, or leave it out", d.min, d.max))
		}
	}
	if l.LossAfter != 0 && l.LastLossAfter != 0 && l.LastLossAfter < l.LossAfter {
		wrong("limits.last_loss_after", l.LastLossAfter, fmt.Sprintf("it must not be below loss_after (%v)", l.LossAfter))
	}
}

// checkAddress says what is wrong with a host:port to listen on, or nothing.
func checkAddress(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return "want host:port, such as 192.0.2.1:7431"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "want a port from 1 to 65535"
	}
	return ""
}

// checkAdvertised says what is wrong with an address that others are to dial. key is the configuration's name for it.
func checkAdvertised(key, address string) string {
	if remedy := checkAddress(address); remedy != "" {
		return remedy
	}
	host, _, _ := net.SplitHostPort(address) // checkAddress has split it
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		return "others cannot dial it: set " + key + " to the host:port at which they reach this agent"
	}
	return ""
}

// Has reports whether the agent plays a role.
func (c *Config) Has(r Role) bool {
	for _, have := range c.Roles {
		if have == r {
			return true
		}
	}
	return false
}

// core returns the protocol's configuration.
func (c *Config) core(id wire.AgentID, seed uint64, base int64) core.Config {
	cc := core.DefaultConfig(id, seed)
	cc.LabelBase = base
	set := func(to *time.Duration, from time.Duration) {
		if from != 0 {
			*to = from
		}
	}
	set(&cc.LossAfter, c.Limits.LossAfter)
	set(&cc.LastLossAfter, c.Limits.LastLossAfter)
	set(&cc.HoldMax, c.Limits.HoldMax)
	set(&cc.GiveUpAfter, c.Limits.GiveUpAfter)
	return cc
}
