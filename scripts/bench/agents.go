package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"flotilla/agent/api"
)

const (
	components   = 3
	journalLimit = int64(2) << 30 // bytes, of each component
	startTime    = 20 * time.Second
)

// clusterKind is a shape of cluster.
type clusterKind struct {
	name     string
	agents   []member
	state    string // directory of the first one's state; beside the others' when empty
	settings string // further lines of its file
	tail     int64  // bytes of its volume that are sparse and not written, behind the others
}

// member is one agent to be.
type member struct {
	name  string
	roles string
	part  string // under which its processor time is reported
}

// The clusters. The first agent founds, and is the primary; the last one is the secondary.
var (
	alone      = clusterKind{name: "alone", agents: []member{{"primary", "primary, secondary", "primary"}}}
	replicated = clusterKind{name: "replicated", agents: []member{
		{"primary", "primary", "primary"},
		{"backup1", "backup", "components"}, {"backup2", "backup", "components"}, {"backup3", "backup", "components"},
		{"secondary", "secondary", "secondary"},
	}}
)

// agents is a running cluster.
type agents struct {
	kind    clusterKind
	dir     string
	program string
	members []*runningAgent
}

type runningAgent struct {
	member
	*process
	config string
	state  string
	nbd    string
	client *api.Client
}

// startAgents founds a cluster in dir and waits until all its agents know each other.
func startAgents(ctx context.Context, o options, dir string, kind clusterKind) (_ *agents, err error) {
	c := &agents{kind: kind, dir: dir}
	if c.program, err = filepath.Abs(o.program); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	ports, err := freePorts(len(kind.agents))
	if err != nil {
		return nil, err
	}
	for i, m := range kind.agents {
		a := &runningAgent{
			member: m, config: filepath.Join(dir, m.name+".yaml"), state: filepath.Join(dir, m.name), nbd: filepath.Join(dir, m.name+".nbd"),
		}
		more := ""
		if i == 0 {
			more = kind.settings
			if kind.state != "" {
				a.state = kind.state
			}
		}
		text := fmt.Sprintf("name: %s\nlisten: 127.0.0.1:%d\nstate_dir: %s\nroles: [%s]\njournal: {limit: %dMiB}\nnbd: {unix: %s}\nlog: {level: info}\ndebug: {profiles: %v}\n%s",
			m.name, ports[i], a.state, m.roles, journalLimit>>20, a.nbd, o.profiles != "", more)
		if err := os.WriteFile(a.config, []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("write an agent's file: %w", err)
		}
		if err := c.join(ctx, a); err != nil {
			return nil, err
		}
		if a.process, err = startProcess("agent "+m.name, c.program, "agent", "--config", a.config); err != nil {
			return nil, err
		}
		a.client = api.NewSocketClient(filepath.Join(a.state, "admin.sock"))
		c.members = append(c.members, a)
		if err := c.untilStatus(ctx, "agent "+m.name+" is not part of the cluster", c.formed); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// join makes the host of an agent part of the cluster, or founds it.
func (c *agents) join(ctx context.Context, a *runningAgent) error {
	if len(c.members) == 0 {
		_, err := once(ctx, c.program, "cluster", "init", "--config", a.config)
		return err
	}
	token, err := c.command(ctx, "cluster", "token")
	if err != nil {
		return err
	}
	_, err = once(ctx, c.program, "cluster", "join", strings.TrimSpace(token), "--config", a.config)
	return err
}

// command runs the command line against the first agent.
func (c *agents) command(ctx context.Context, args ...string) (string, error) {
	return once(ctx, append(append([]string{c.program}, args...), "--config", c.members[0].config)...)
}

// formed reports whether every agent that was started is known and heard of, and every component is a member.
func (c *agents) formed(s *api.Status) bool {
	known, members := 0, 0
	for _, a := range s.Agents {
		if a.HeardSeconds != nil {
			known++
		}
	}
	for _, m := range s.Components {
		if m.Member && m.HeardSeconds != nil {
			members++
		}
	}
	want := 0
	for _, a := range c.members {
		if strings.Contains(a.roles, "backup") {
			want++
		}
	}
	return s.Complete && known == len(c.members) && members == want
}

// untilStatus waits for what the captain says.
func (c *agents) untilStatus(ctx context.Context, what string, done func(*api.Status) bool) error {
	var last *api.Status
	err := until(ctx, startTime, what, func() (bool, error) {
		if err := c.alive(); err != nil {
			return false, err
		}
		s, err := c.status(ctx)
		if err != nil {
			return false, nil // it has only just started
		}
		last = s
		return done(s), nil
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w; its last status: %+v\n%s", err, last, c.logs())
	}
	return err
}

func (c *agents) status(ctx context.Context) (*api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return c.members[0].client.Status(ctx)
}

// alive returns an error if an agent has ended.
func (c *agents) alive() error {
	for _, a := range c.members {
		if err := a.process.alive(); err != nil {
			return err
		}
	}
	return nil
}

// stop ends all agents, the primary first, so that nobody misses the components.
func (c *agents) stop() error {
	var errs []error
	for _, a := range c.members {
		a.client.Close()
		errs = append(errs, a.process.stop())
	}
	c.members = nil
	return errors.Join(errs...)
}

// logs returns the last lines of all agents.
func (c *agents) logs() string {
	var b strings.Builder
	for _, a := range c.members {
		fmt.Fprintf(&b, "--- %s\n%s", a.name, a.log)
	}
	return b.String()
}

// usage is processor time by part.
type usage map[string]time.Duration

// usage returns what all agents have used so far.
func (c *agents) usage() (usage, error) {
	u := usage{}
	for _, a := range c.members {
		t, err := a.cpu()
		if err != nil {
			return nil, err
		}
		u[a.part] += t
	}
	return u, nil
}

// parts returns the names in a usage, in the order of a write's way.
func (c *agents) parts() []string {
	var out []string
	for _, a := range c.members {
		if !slices.Contains(out, a.part) {
			out = append(out, a.part)
		}
	}
	return out
}

func (u usage) minus(v usage) usage {
	out := usage{}
	for part, t := range u {
		out[part] = t - v[part]
	}
	return out
}

func (u usage) total() (t time.Duration) {
	for _, x := range u {
		t += x
	}
	return t
}
