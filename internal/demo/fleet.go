package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/process"
)

// Waits that have no reason to last this long have failed. They bear a machine that does much else.
const (
	startTime = 30 * time.Second
	stepTime  = 90 * time.Second
)

// maxSocketPath is the most bytes that the kernel takes for a socket's path.
const maxSocketPath = 107

// host is one agent: its files, and its process while it runs.
type host struct {
	name    string
	roles   string
	dir     string
	config  string
	log     string
	nbd     string       // socket
	door    net.Listener // keeps its port until the agent takes it
	address string
	api     *api.Client
	process *process.Process
}

func (h *host) socket() string { return filepath.Join(h.dir, "admin.sock") }

// fleet is the agents of the demo. It is used by one goroutine.
type fleet struct {
	program    string
	dir        string
	spawn      *process.Spawner
	running    sync.WaitGroup
	fail       context.CancelCauseFunc // ends the run
	components []*host
	primaries  []*host
	secondary  *host
}

// newFleet makes the files of all agents and takes a port for each.
func newFleet(program, dir string, components int, fail context.CancelCauseFunc) (*fleet, error) {
	f := &fleet{program: program, dir: dir, spawn: process.NewSpawner(), fail: fail}
	for i := range components {
		h, err := f.newHost(fmt.Sprintf("component%d", i+1), "backup")
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		f.components = append(f.components, h)
	}
	for i := range 2 {
		h, err := f.newHost(fmt.Sprintf("primary%d", i+1), "primary")
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		f.primaries = append(f.primaries, h)
	}
	h, err := f.newHost("secondary", "secondary")
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	f.secondary = h
	return f, nil
}

func (f *fleet) newHost(name, roles string) (*host, error) {
	h := &host{name: name, roles: roles, dir: filepath.Join(f.dir, name)}
	h.config, h.log, h.nbd = h.dir+".yaml", h.dir+".log", h.dir+".nbd"
	if len(h.socket()) > maxSocketPath {
		return nil, fmt.Errorf("%w: the socket %s would have a path of %d bytes, the kernel takes %d: set TMPDIR to a shorter directory", ErrOptions, h.socket(), len(h.socket()), maxSocketPath)
	}
	var err error
	if h.door, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("find a port for %s: %w", name, err)
	}
	h.address = h.door.Addr().String()
	text := fmt.Sprintf("name: %s\nlisten: %s\nstate_dir: %s\nroles: [%s]\njournal: {limit: 1GiB}\nnbd: {unix: %s}\n", name, h.address, h.dir, roles, h.nbd)
	if err := os.WriteFile(h.config, []byte(text), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("write configuration of %s: %w", name, err), h.door.Close())
	}
	h.api = api.NewSocketClient(h.socket())
	return h, nil
}

// all returns every host, the founder of the cluster first.
func (f *fleet) all() []*host {
	out := append([]*host{}, f.components...)
	out = append(out, f.primaries...)
	if f.secondary != nil {
		out = append(out, f.secondary)
	}
	return out
}

// close kills every agent and waits for all of them.
func (f *fleet) close() error {
	var errs []error
	for _, h := range f.all() {
		if h.process != nil {
			errs = append(errs, h.process.Kill())
		}
		if h.door != nil {
			errs = append(errs, h.door.Close())
		}
		h.api.Close()
	}
	f.running.Wait()
	f.spawn.Close()
	return errors.Join(errs...)
}

// command runs the program's own command line.
func (f *fleet) command(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	return f.spawn.Run(ctx, f.program, args...)
}

// assemble founds the cluster on the first component, and lets the others join one by one with a token each.
func (f *fleet) assemble(ctx context.Context, joined func(h *host)) error {
	founder := f.components[0]
	if _, err := f.command(ctx, "cluster", "init", "--config", founder.config); err != nil {
		return err
	}
	for _, h := range f.all() {
		if h != founder {
			token, err := f.command(ctx, "cluster", "token", "--ttl", "5m", "--config", founder.config)
			if err != nil {
				return err
			}
			if _, err := f.command(ctx, "cluster", "join", strings.TrimSpace(token), "--config", h.config); err != nil {
				return err
			}
		}
		if err := f.start(ctx, h); err != nil {
			return err
		}
		joined(h)
	}
	return nil
}

// start starts an agent and waits until it answers.
func (f *fleet) start(ctx context.Context, h *host) error {
	if h.door != nil {
		if err := h.door.Close(); err != nil {
			return fmt.Errorf("give %s its port: %w", h.name, err)
		}
		h.door = nil
	}
	p, err := f.spawn.Start(&f.running, h.name, h.log, func(p *process.Process, err error) {
		f.fail(fmt.Errorf("agent %s ended by itself (%w); the end of its log:\n%s", p.Name, err, process.Tail(p.Log)))
	}, f.program, "agent", "--config", h.config)
	if err != nil {
		return err
	}
	h.process = p
	return process.Until(ctx, startTime, "agent "+h.name+" answers", func(ctx context.Context) (bool, error) {
		s, err := h.api.Status(ctx)
		return err == nil && s.Complete, ignoreUnreached(err)
	})
}

// ignoreUnreached keeps only errors that waiting does not mend.
func ignoreUnreached(err error) error {
	if code := api.CodeOf(err); err == nil || code == api.Unavailable || code == api.Unknown || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// status asks the secondary, which outlives the rest, for the cluster as its captain sees it; nil when there is none now.
func (f *fleet) status(ctx context.Context) (*api.Status, error) {
	s, err := f.secondary.api.Status(ctx)
	if err != nil || !s.Complete {
		return nil, ignoreUnreached(err)
	}
	return s, nil
}
