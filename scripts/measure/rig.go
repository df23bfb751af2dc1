package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
	"flotilla/nbd/nbdclient"
)

const groupName = "measure"

// Of a network: its only LAN, and where agents listen.
const (
	lan  = 0
	port = ":7431"
)

// profiles lets whoever looks for a cause while it runs ask an agent's admin.sock for /debug/pprof/.
const profiles = "debug: {profiles: true}\n"

// shape is what a cluster is to be like.
type shape struct {
	primaries, components int
	group                 []string             // further arguments of `group create`
	size                  int64                // of each volume; each primary has one
	filled                bool                 // with random bytes; otherwise they are sparse
	copying               bool                 // do not wait for their first copy
	fill                  func(*os.File) error // writes a source's data, unless it is nil
	settings              string               // lines of the primaries' files
	link                  int                  // Mbit/s of each limited host's link, in a network of the rig's own; 0 for the loopback
	limited               string               // the role whose hosts have such a link: backup unless said
	far                   bool                 // the primary, in a network of the rig's own
}

// rig is a running cluster with a group whose volumes are copied. It is used by one goroutine.
type rig struct {
	*fleet.Fleet
	ctx        context.Context // ends with the run, and when an agent ends by itself
	dir        string
	primaries  []*fleet.Host
	components []*fleet.Host
	secondary  *fleet.Host // founds the cluster, and is never killed
	volumes    []*volume
	copied     time.Duration  // what the first copy took
	network    *fleet.Network // nil for the loopback
	wire       *fleet.Wire    // of a primary that is far
	stop       context.CancelCauseFunc
	users      []func() // wait for the ends of those who use it
	logs       bool     // are printed when something fails
}

// volume is one volume and the connections to it.
type volume struct {
	name           string
	primary        *fleet.Host
	source, target string
	size           int64
	clients        []*nbdclient.Client
}

func (v *volume) export() string { return groupName + "/" + v.name }

// startRig makes a cluster of a shape.
func startRig(ctx context.Context, o options, s shape) (_ *rig, err error) {
	r := &rig{logs: o.logs}
	r.ctx, r.stop = context.WithCancelCause(ctx)
	if r.dir, err = os.MkdirTemp(o.temp, "flotilla-measure-"); err != nil {
		return nil, fmt.Errorf("make a directory on tmpfs: %w", err)
	}
	program, err := filepath.Abs(o.program)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(r.dir))
	}
	r.Fleet = fleet.New(program, r.dir, r.stop)
	defer func() {
		if err != nil {
			err = r.finish(err)
		}
	}()
	if err := r.members(s); err != nil {
		return nil, err
	}
	if err := r.Assemble(r.ctx, func(*fleet.Host) {}); err != nil {
		return nil, r.explain(err)
	}
	if err := r.replicate(s); err != nil {
		return nil, r.explain(err)
	}
	return r, nil
}

// members adds the hosts: the secondary first.
func (r *rig) members(s shape) error {
	add := func(name, roles, settings string) (*fleet.Host, error) {
		m := fleet.Member{Name: name, Roles: roles, Settings: settings + profiles}
		if r.network != nil {
			x, err := r.attach(name, s.far && roles == "primary")
			if err == nil && s.link > 0 && roles == cmp.Or(s.limited, "backup") {
				err = r.network.Shape(r.ctx, x, lan, int64(s.link)*1e6)
			}
			if err != nil {
				return nil, err
			}
			m.Namespace, m.Address = x.Namespace, x.Addresses[lan]+port
		}
		return r.Add(m)
	}
	var err error
	if s.link > 0 || s.far {
		if r.network, err = fleet.NewNetwork(r.ctx, r.Spawn, 1); err != nil {
			return err
		}
	}
	if r.secondary, err = add("secondary", "secondary", ""); err != nil {
		return err
	}
	for i := range s.components {
		h, err := add(fmt.Sprintf("component%d", i+1), "backup", "")
		if err != nil {
			return err
		}
		r.components = append(r.components, h)
	}
	for i := range s.primaries {
		h, err := add(fmt.Sprintf("primary%d", i+1), "primary", s.settings)
		if err != nil {
			return err
		}
		r.primaries = append(r.primaries, h)
	}
	return nil
}

// attach gives a host its place in the rig's network.
func (r *rig) attach(name string, far bool) (x *fleet.Node, err error) {
	if !far {
		return r.network.Attach(r.ctx, name, lan)
	}
	x, r.wire, err = r.network.AttachFar(r.ctx, name, lan)
	return x, err
}

// replicate makes the group and its volumes and waits for their first copy.
func (r *rig) replicate(s shape) error {
	err := r.until("every component is in the view", func(x *api.Status) bool { return len(membersOf(x)) == s.components })
	if err != nil {
		return err
	}
	socket := r.secondary.Socket()
	if _, err := r.Command(r.ctx, append([]string{"group", "create", groupName, "--socket", socket}, s.group...)...); err != nil {
		return err
	}
	var at time.Time // of the newest volume
	for i, p := range r.primaries {
		v := &volume{name: fmt.Sprintf("volume%d", i+1), primary: p, size: s.size}
		v.source, v.target = filepath.Join(r.dir, v.name+".source"), filepath.Join(r.dir, v.name+".target")
		var content []byte
		if s.filled {
			content = randomBytes(int(s.size))
		}
		err := errors.Join(os.WriteFile(v.source, content, 0o600), os.WriteFile(v.target, nil, 0o600), os.Truncate(v.source, s.size), os.Truncate(v.target, s.size))
		if err == nil && s.fill != nil {
			err = fill(v.source, s.fill)
		}
		if err != nil {
			return fmt.Errorf("make a volume's files: %w", err)
		}
		at = time.Now()
		_, err = r.Command(r.ctx, "volume", "create", v.export(), "--primary", p.Name, "--source", v.source,
			"--secondary", r.secondary.Name, "--target", v.target, "--socket", socket)
		if err != nil {
			return err
		}
		r.volumes = append(r.volumes, v)
	}
	if s.copying {
		return nil
	}
	if err := r.whole(); err != nil {
		return err
	}
	r.copied = time.Since(at)
	for _, v := range r.volumes {
		if err := v.dialAll(r.ctx); err != nil {
			return err
		}
	}
	return nil
}

func fill(path string, with func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(with(f), f.Close())
}

// whole waits until the first copy of every volume is on its target.
func (r *rig) whole() error {
	return r.until("the first copy is whole", func(x *api.Status) bool {
		g := x.Group(groupName)
		if g == nil || g.Point == nil || len(g.Volumes) != len(r.volumes) {
			return false
		}
		for _, v := range g.Volumes {
			if !v.Copied {
				return false
			}
		}
		return true
	})
}

// load starts writers on a schedule, and watch a watcher: they end before the agents do.
func (r *rig) load(rate int) *load {
	l := startLoad(r.ctx, r.volumes, rate)
	r.users = append(r.users, l.done.Wait)
	return l
}

func (r *rig) watch() *watcher {
	w := startWatcher(r.ctx, r.secondary)
	r.users = append(r.users, w.done.Wait)
	return w
}

// close ends everything and takes it away.
func (r *rig) close() error {
	r.stop(nil)
	for _, wait := range r.users {
		wait()
	}
	err := r.Close()
	for _, v := range r.volumes {
		closeAll(v.clients)
	}
	if r.network != nil {
		err = errors.Join(err, r.network.Close())
	}
	return errors.Join(err, os.RemoveAll(r.dir))
}

// explain adds to an error what an agent's end says of it.
func (r *rig) explain(err error) error {
	if cause := context.Cause(r.ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w (%w)", err, cause)
	}
	return err
}

// finish closes the rig at the end of a measurement that came to err.
func (r *rig) finish(err error) error {
	if err != nil && r.logs {
		r.printLogs()
	}
	return errors.Join(err, r.close())
}

// printLogs shows the ends of the agents' logs.
func (r *rig) printLogs() {
	for _, h := range r.Hosts {
		if h.Started() {
			fmt.Fprintf(os.Stderr, "--- %s\n%s\n", h.Name, h.Tail())
		}
	}
}

// until waits for what the captain says, as the secondary hears it.
func (r *rig) until(what string, done func(*api.Status) bool) error {
	return fleet.Until(r.ctx, 2*fleet.StepTime, what, func(ctx context.Context) (bool, error) {
		s, err := r.secondary.Status(ctx)
		return s != nil && done(s), err
	})
}

// membersOf returns the names of the components in the view.
func membersOf(s *api.Status) (names []string) {
	for _, c := range s.Components {
		if c.Member && c.HeardSeconds != nil {
			names = append(names, c.Agent)
		}
	}
	return names
}

// verify waits until everything that was written is on the targets, and compares them with the sources. Nobody may write.
func (r *rig) verify() error {
	if err := r.applied(); err != nil {
		return err
	}
	for _, v := range r.volumes {
		if err := sameFiles(v.source, v.target); err != nil {
			return fmt.Errorf("volume %s: %w", v.name, err)
		}
	}
	return nil
}

// applied waits until everything that was written is on the targets. Nobody may write.
func (r *rig) applied() error { return r.secondary.Applied(r.ctx, groupName) }

// errDiffers says that a copy is wrong.
var errDiffers = errors.New("source and target differ, though everything is applied")

// events returns how often something happened on a host, in this run of its agent.
func (r *rig) events(h *fleet.Host, name string) (int, error) {
	m, err := h.Metrics(r.ctx)
	if err != nil {
		return 0, err
	}
	for _, line := range m {
		if strings.HasPrefix(line, "flotilla_events_total{") && strings.Contains(line, `event="`+name+`"`) {
			n, err := m.Sum("flotilla_events_total", `event="`+name+`"`)
			return int(n), err
		}
	}
	return 0, nil
}
