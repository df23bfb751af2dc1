//go:build nettest

package nettest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/process"
	"flotilla/internal/workload"
)

const (
	groupName  = "g"
	volumeSize = 24 << 20
	port       = 7431
)

// Waits that have no reason to last this long have failed. They bear a machine that does much else.
const (
	startTime = 30 * time.Second
	stepTime  = 60 * time.Second
)

// host is one agent: its place in the network, its files and its process.
type host struct {
	*node
	roles   string
	config  string
	log     string
	nbd     string // socket
	api     *api.Client
	process *process.Process
}

// fleet is a cluster of agents. It is used by one goroutine.
type fleet struct {
	program    string
	dir        string
	spawn      *process.Spawner
	net        *network
	running    sync.WaitGroup
	fail       context.CancelCauseFunc // ends the run
	components []*host
	primary    *host
	secondary  *host

	mode    string // of the group
	clients *workload.Clients
	seed    uint64
	volumes []*workload.Volume
	sources []string
	targets []string
}

// cast is what a cluster is made of.
type cast struct {
	components int
	lans       int    // networks: 1, or 2 with one for components
	mode       string // of the group
}

// newFleet makes networks and files: components c1, c2 and so on, the primary p and the secondary s.
func newFleet(ctx context.Context, program string, c cast, fail context.CancelCauseFunc) (f *fleet, err error) {
	f = &fleet{program: program, mode: c.mode, spawn: process.NewSpawner(), fail: fail, seed: rand.Uint64()}
	f.clients = workload.NewClients(f.seed)
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if f.dir, err = os.MkdirTemp("", fmt.Sprintf("%s%d-", leftPrefix, os.Getpid())); err != nil {
		return f, err
	}
	names := []string{}
	for i := range c.components {
		names = append(names, fmt.Sprint("c", i+1))
	}
	names = append(names, "p", "s")
	onBoth := func(name string) bool { return c.lans > 1 && strings.HasPrefix(name, "c") }
	if f.net, err = newNetwork(ctx, f.spawn, names, onBoth); err != nil {
		return f, err
	}
	for _, x := range f.net.nodes {
		roles := map[string]string{"p": "primary", "s": "secondary"}[x.name]
		if roles == "" {
			roles = "backup"
		}
		h, err := f.newHost(x, roles)
		if err != nil {
			return f, err
		}
		switch roles {
		case "primary":
			f.primary = h
		case "secondary":
			f.secondary = h
		default:
			f.components = append(f.components, h)
		}
	}
	return f, nil
}

func (f *fleet) newHost(x *node, roles string) (*host, error) {
	base := filepath.Join(f.dir, x.name)
	h := &host{node: x, roles: roles, config: base + ".yaml", log: base + ".log", nbd: base + ".nbd"}
	text := fmt.Sprintf("name: %s\nlisten: %s:%d\nstate_dir: %s\nroles: [%s]\njournal: {limit: 1GiB}\nnbd: {unix: %s}\n", x.name, x.address[mainLAN], port, base, roles, h.nbd)
	if a := x.address[componentLAN]; a != "" {
		text += fmt.Sprintf("component_listen: %s:%d\n", a, port)
	}
	h.api = api.NewSocketClient(filepath.Join(base, "admin.sock"))
	return h, os.WriteFile(h.config, []byte(text), 0o600)
}

// all returns every host, the founder of the cluster first.
func (f *fleet) all() []*host {
	out := append([]*host{}, f.components...)
	for _, h := range []*host{f.primary, f.secondary} {
		if h != nil {
			out = append(out, h)
		}
	}
	return out
}

func (f *fleet) byName(name string) *host {
	for _, h := range f.all() {
		if h.name == name {
			return h
		}
	}
	return nil
}

// close ends everything: the agents before the clients, as a dead server answers at once.
func (f *fleet) close() error {
	f.clients.Doom()
	var errs []error
	for _, h := range f.all() {
		if h.process != nil {
			errs = append(errs, h.process.Kill())
		}
		h.api.Close()
	}
	f.running.Wait()
	f.clients.Close()
	if f.net != nil {
		errs = append(errs, f.net.close())
	}
	f.spawn.Close()
	if os.Getenv("FLOTILLA_KEEP") == "1" {
		fmt.Println("kept:", f.dir)
	} else if f.dir != "" {
		errs = append(errs, os.RemoveAll(f.dir))
	}
	return errors.Join(errs...)
}

// command runs the program's command line on a host.
func (f *fleet) command(ctx context.Context, h *host, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	return f.spawn.Run(ctx, "ip", append([]string{"netns", "exec", h.namespace, f.program}, append(args, "--config", h.config)...)...)
}

// assemble founds the cluster on the first component, lets the others join, and makes a group of two volumes into which
// clients write.
func (f *fleet) assemble(ctx context.Context) error {
	founder := f.components[0]
	if _, err := f.command(ctx, founder, "cluster", "init"); err != nil {
		return err
	}
	for _, h := range f.all() {
		if h != founder {
			token, err := f.command(ctx, founder, "cluster", "token", "--ttl", "5m")
			if err != nil {
				return err
			}
			if _, err := f.command(ctx, h, "cluster", "join", strings.TrimSpace(token)); err != nil {
				return err
			}
		}
		if err := f.start(ctx, h); err != nil {
			return err
		}
	}
	if _, err := f.command(ctx, f.secondary, "group", "create", groupName, "--mode", f.mode, "--period", "200ms", "--portion-size", "1MiB"); err != nil {
		return err
	}
	for i := range 2 {
		if err := f.addVolume(ctx, i); err != nil {
			return err
		}
	}
	f.clients.Start(ctx, f.volumes, f.fail)
	return process.Until(ctx, stepTime, "the first copy is whole and the view is settled", func(ctx context.Context) (bool, error) {
		s, g, err := f.status(ctx)
		if s == nil {
			return false, err
		}
		for _, v := range g.Volumes {
			if !v.Copied {
				return false, nil
			}
		}
		return g.Point != nil && calm(s, len(f.components)), nil
	})
}

// calm reports whether all components are members, and everything has its second copy.
func calm(s *api.Status, components int) bool {
	n := 0
	for i := range s.Components {
		if c := &s.Components[i]; c.Member && !c.Rebuilding && c.HeardSeconds != nil && *c.HeardSeconds < 1 {
			n++
		}
	}
	return n == components && s.Settled
}

// start starts an agent and waits until it answers.
func (f *fleet) start(ctx context.Context, h *host) (err error) {
	h.process, err = f.spawn.Start(&f.running, h.name, h.log, func(p *process.Process, err error) {
		f.fail(fmt.Errorf("agent %s ended by itself (%w); the end of its log:\n%s", p.Name, err, process.Tail(p.Log)))
	}, "ip", "netns", "exec", h.namespace, f.program, "agent", "--config", h.config)
	if err != nil {
		return err
	}
	return process.Until(ctx, startTime, "agent "+h.name+" answers", func(ctx context.Context) (bool, error) {
		s, err := h.api.Status(ctx)
		return err == nil && s.Complete, reached(err)
	})
}

// reached keeps only errors that waiting does not mend.
func reached(err error) error {
	if code := api.CodeOf(err); err == nil || code == api.Unavailable || code == api.Unknown || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// addVolume makes the i-th volume, of noise, and connects the clients to it.
func (f *fleet) addVolume(ctx context.Context, i int) error {
	name := fmt.Sprint("v", i+1)
	layout := workload.LayoutFor(volumeSize)
	content := make([]byte, volumeSize)
	_, _ = rand.NewChaCha8([32]byte{byte(i), byte(f.seed)}).Read(content[:layout.Image]) // it always reads
	source, target := filepath.Join(f.dir, name+".source"), filepath.Join(f.dir, name+".target")
	if err := errors.Join(os.WriteFile(source, content, 0o600), os.WriteFile(target, nil, 0o600), os.Truncate(target, volumeSize)); err != nil {
		return err
	}
	f.volumes = append(f.volumes, workload.NewVolume(i, name, layout, image(content[:layout.Image])))
	f.sources, f.targets = append(f.sources, source), append(f.targets, target)
	_, err := f.command(ctx, f.secondary, "volume", "create", groupName+"/"+name, "--primary", f.primary.name, "--source", source,
		"--secondary", f.secondary.name, "--target", target)
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	return f.clients.Connect(wait, f.primary.nbd, groupName+"/"+name)
}

// image is what a volume began with.
type image []byte

// ReadAt implements workload.ReaderAt.
func (m image) ReadAt(_ context.Context, p []byte, at int64) error {
	copy(p, m[at:])
	return nil
}

// status asks for the cluster as its captain sees it, those that have no part in a fault first; nils when nobody can say.
func (f *fleet) status(ctx context.Context) (*api.Status, *api.Group, error) {
	for _, h := range append([]*host{f.secondary, f.primary}, f.components...) {
		once, done := context.WithTimeout(ctx, 2*time.Second)
		s, err := h.api.Status(once)
		done()
		if err := reached(err); err != nil && ctx.Err() == nil && once.Err() == nil {
			return nil, nil, err
		}
		if err == nil && s.Complete {
			return s, s.Group(groupName), nil
		}
	}
	return nil, nil, nil
}

// event returns whether a host's agent has seen an event of that name since a moment.
func (f *fleet) event(ctx context.Context, h *host, name string, since time.Time) (bool, error) {
	text, err := f.command(ctx, h, "events", "--json")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(text) {
		var e api.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return false, fmt.Errorf("read event %q: %w", line, err)
		}
		if e.Name == name && e.At.After(since) {
			return true, nil
		}
	}
	return false, nil
}
