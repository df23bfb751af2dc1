package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"flotilla/agent/api"
)

// maxSocketPath is the most bytes that the kernel takes for a socket's path.
const maxSocketPath = 107

// ErrDirectory is wrapped by the error of Add about a directory whose path is too long for a socket in it.
var ErrDirectory = errors.New("the directory's path is too long")

// Member is one agent to be.
type Member struct {
	Name     string
	Roles    string // as in the agent's file: "backup", or "primary, secondary"
	Journal  string // the limit of its journal; default 1GiB
	Settings string // further lines of its file, each with its newline

	// Namespace is the network it is in, and Address the host:port at which it listens there. Without a namespace it is in
	// this program's, and gets a free port of the loopback unless it has an address.
	Namespace *Namespace
	Address   string

	Wrap []string // a command, with arguments, that runs the agent's; it ends by becoming that
}

// Host is one agent: its files, and its process once it was started.
type Host struct {
	Member
	Dir    string // its state
	Config string // path of its file
	Log    string // path; every start appends
	NBD    string // socket
	API    *api.Client

	door    net.Listener // keeps its port until the agent takes it
	process *process     // nil before the first start
}

// Socket returns the path of the agent's own socket.
func (h *Host) Socket() string { return filepath.Join(h.Dir, "admin.sock") }

// Started reports whether the host was ever started.
func (h *Host) Started() bool { return h.process != nil }

// Fleet is the agents of one cluster. It is used by one goroutine.
type Fleet struct {
	Spawn *Spawner
	Hosts []*Host // the founder of the cluster first

	program string
	dir     string
	running sync.WaitGroup
	fail    context.CancelCauseFunc
}

// New returns a fleet without hosts, whose files will be in dir. fail is called when an agent ends that nobody killed.
func New(program, dir string, fail context.CancelCauseFunc) *Fleet {
	return &Fleet{Spawn: NewSpawner(), program: program, dir: dir, fail: fail}
}

// Add makes the files of a host and takes a port for it.
func (f *Fleet) Add(m Member) (*Host, error) {
	h := &Host{Member: m, Dir: filepath.Join(f.dir, m.Name)}
	h.Config, h.Log, h.NBD = h.Dir+".yaml", h.Dir+".log", h.Dir+".nbd"
	if len(h.Socket()) > maxSocketPath {
		return nil, fmt.Errorf("%w: the socket %s would have a path of %d bytes, the kernel takes %d: set TMPDIR to a shorter directory",
			ErrDirectory, h.Socket(), len(h.Socket()), maxSocketPath)
	}
	if h.Namespace == nil && h.Address == "" {
		var err error
		if h.door, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, fmt.Errorf("find a port for %s: %w", h.Name, err)
		}
		h.Address = h.door.Addr().String()
	}
	text := fmt.Sprintf("name: %s\nlisten: %s\nstate_dir: %s\nroles: [%s]\njournal: {limit: %s}\nnbd: {unix: %s}\n%s",
		h.Name, h.Address, h.Dir, h.Roles, cmp.Or(h.Journal, "1GiB"), h.NBD, h.Settings)
	if err := os.WriteFile(h.Config, []byte(text), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("write configuration of %s: %w", h.Name, err), h.shut())
	}
	h.API = api.NewSocketClient(h.Socket())
	f.Hosts = append(f.Hosts, h)
	return h, nil
}

// shut gives the port away.
func (h *Host) shut() error {
	if h.door == nil {
		return nil
	}
	door := h.door
	h.door = nil
	return door.Close()
}

// Close kills every agent and waits for all of them.
func (f *Fleet) Close() error {
	var errs []error
	for _, h := range f.Hosts { // all of them, before one is waited for
		errs = append(errs, h.Doom())
	}
	for _, h := range f.Hosts {
		errs = append(errs, h.Kill(), h.shut())
		h.API.Close()
	}
	f.running.Wait()
	f.Spawn.Close()
	return errors.Join(errs...)
}

// Command runs the program's own command line.
func (f *Fleet) Command(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, StepTime)
	defer cancel()
	return f.Spawn.Run(ctx, nil, f.program, args...)
}

// Assemble founds the cluster on the first host, and lets the others join one by one with a token each. joined is called
// after each.
func (f *Fleet) Assemble(ctx context.Context, joined func(h *Host)) error {
	founder := f.Hosts[0]
	if _, err := f.Command(ctx, "cluster", "init", "--config", founder.Config); err != nil {
		return err
	}
	for _, h := range f.Hosts {
		if h != founder {
			token, err := f.Command(ctx, "cluster", "token", "--ttl", "5m", "--config", founder.Config)
			if err != nil {
				return err
			}
			if _, err := f.Spawn.Run(ctx, h.Namespace, f.program, "cluster", "join", strings.TrimSpace(token), "--config", h.Config); err != nil {
				return err
			}
		}
		if err := f.Start(ctx, h); err != nil {
			return err
		}
		joined(h)
	}
	return nil
}

// Start starts an agent and waits until it answers and knows a captain.
func (f *Fleet) Start(ctx context.Context, h *Host) error {
	if err := f.Launch(h); err != nil {
		return err
	}
	return Until(ctx, StartTime, "agent "+h.Name+" answers", func(ctx context.Context) (bool, error) {
		s, err := h.API.Status(ctx)
		return err == nil && s.Complete, IgnoreUnreached(err)
	})
}

// Launch starts an agent and does not wait for anything.
func (f *Fleet) Launch(h *Host) error {
	if err := h.shut(); err != nil {
		return fmt.Errorf("give %s its port: %w", h.Name, err)
	}
	p, err := f.Spawn.agent(&f.running, h, f.program, func(p *process) {
		f.fail(fmt.Errorf("agent %s ended by itself (%w); the end of its log:\n%s", p.name, p.err, h.Tail()))
	})
	if err == nil {
		h.process = p
	}
	return err
}
