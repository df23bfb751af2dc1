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
	"slices"
	"strings"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
	"flotilla/internal/workload"
)

const (
	groupName  = "g"
	volumeSize = 24 << 20
	port       = 7431
)

// stepTime is in which all must be as before once a fault is over, and most else must have happened.
const stepTime = 60 * time.Second

// host is one agent and its place in the network.
type host struct {
	*fleet.Host
	node *fleet.Node
}

// cluster is agents, and clients that write to their volumes. It is used by one goroutine.
type cluster struct {
	*fleet.Fleet
	dir        string
	net        *network
	components []*host
	primaries  []*host
	secondary  *host

	mode    string                  // of the group
	fail    context.CancelCauseFunc // ends the run
	clients *workload.Clients
	seed    uint64
	volumes []*workload.Volume
}

// cast is what a cluster is made of.
type cast struct {
	components int
	lans       int    // networks: 1, or 2 with one for components
	primaries  int    // 1 or 2: each has a volume of its own, or the one has both
	mode       string // of the group
}

// newCluster makes networks and files: components c1, c2 and so on, primaries p1 and so on, and the secondary s.
func newCluster(ctx context.Context, program string, c cast, fail context.CancelCauseFunc) (x *cluster, err error) {
	x = &cluster{mode: c.mode, fail: fail, seed: rand.Uint64()}
	x.clients = workload.NewClients(x.seed)
	if x.dir, err = os.MkdirTemp("", fmt.Sprintf("%s%d-", leftPrefix, os.Getpid())); err != nil {
		return nil, err
	}
	x.Fleet = fleet.New(program, x.dir, fail)
	defer func() {
		if err != nil {
			err = errors.Join(err, x.close())
		}
	}()
	if x.net, err = newNetwork(ctx, x.Spawn); err != nil {
		return x, err
	}
	for i := range c.components {
		on := []int{mainLAN, componentLAN}[:c.lans]
		h, err := x.add(ctx, fmt.Sprint("c", i+1), "backup", on...)
		if err != nil {
			return x, err
		}
		x.components = append(x.components, h)
	}
	for i := range c.primaries {
		h, err := x.add(ctx, fmt.Sprint("p", i+1), "primary", mainLAN)
		if err != nil {
			return x, err
		}
		x.primaries = append(x.primaries, h)
	}
	x.secondary, err = x.add(ctx, "s", "secondary", mainLAN)
	return x, err
}

// add makes the place and the files of a host.
func (c *cluster) add(ctx context.Context, name, roles string, on ...int) (*host, error) {
	node, err := c.net.Attach(ctx, name, on...)
	if err != nil {
		return nil, err
	}
	m := fleet.Member{Name: name, Roles: roles, Namespace: node.Namespace, Address: fmt.Sprintf("%s:%d", node.Addresses[mainLAN], port)}
	if a, ok := node.Addresses[componentLAN]; ok {
		m.Settings = fmt.Sprintf("component_listen: %s:%d\n", a, port)
	}
	h, err := c.Add(m)
	return &host{Host: h, node: node}, err
}

// all returns every host, the founder of the cluster first.
func (c *cluster) all() []*host {
	return slices.Concat(c.components, c.primaries, []*host{c.secondary})
}

func (c *cluster) byName(name string) *host {
	for _, h := range c.all() {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// close ends everything: the agents before the clients, as a dead server answers at once.
func (c *cluster) close() error {
	c.clients.Doom()
	errs := []error{c.Close()}
	c.clients.Close()
	if c.net != nil {
		errs = append(errs, c.net.Close())
	}
	if os.Getenv("FLOTILLA_KEEP") == "1" {
		fmt.Println("kept:", c.dir)
	} else {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

// command runs the program's command line with a host's agent.
func (c *cluster) command(ctx context.Context, h *host, args ...string) (string, error) {
	return c.Command(ctx, append(args, "--config", h.Config)...)
}

// replicate assembles the cluster, and makes a group of two volumes into which clients write.
func (c *cluster) replicate(ctx context.Context) error {
	if err := c.Assemble(ctx, func(*fleet.Host) {}); err != nil {
		return err
	}
	if _, err := c.command(ctx, c.secondary, "group", "create", groupName, "--mode", c.mode, "--period", "200ms", "--portion-size", "1MiB"); err != nil {
		return err
	}
	for i := range 2 {
		if err := c.addVolume(ctx, i); err != nil {
			return err
		}
	}
	c.clients.Start(ctx, c.volumes, c.fail)
	return fleet.Until(ctx, stepTime, "the first copy is whole and the view is settled", func(ctx context.Context) (bool, error) {
		s, g, err := c.status(ctx)
		if s == nil {
			return false, err
		}
		for _, v := range g.Volumes {
			if !v.Copied {
				return false, nil
			}
		}
		return g.Point != nil && calm(s, len(c.components)), nil
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

// addVolume makes the i-th volume, of noise, and connects the clients to it.
func (c *cluster) addVolume(ctx context.Context, i int) error {
	name := fmt.Sprint("v", i+1)
	layout := workload.LayoutFor(volumeSize)
	content := make([]byte, volumeSize)
	_, _ = rand.NewChaCha8([32]byte{byte(i), byte(c.seed)}).Read(content[:layout.Image]) // it always reads
	source, target := filepath.Join(c.dir, name+".source"), filepath.Join(c.dir, name+".target")
	if err := errors.Join(os.WriteFile(source, content, 0o600), os.WriteFile(target, nil, 0o600), os.Truncate(target, volumeSize)); err != nil {
		return err
	}
	primary := c.primaries[i%len(c.primaries)]
	c.volumes = append(c.volumes, workload.NewVolume(i, name, layout, image(content[:layout.Image])))
	_, err := c.command(ctx, c.secondary, "volume", "create", groupName+"/"+name, "--primary", primary.Name, "--source", source,
		"--secondary", c.secondary.Name, "--target", target)
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	d, err := primary.Dial(wait, groupName+"/"+name)
	if err == nil {
		c.clients.Use(d)
	}
	return err
}

// image is what a volume began with.
type image []byte

// ReadAt implements workload.ReaderAt.
func (m image) ReadAt(_ context.Context, p []byte, at int64) error {
	copy(p, m[at:])
	return nil
}

// status asks for the cluster as its captain sees it, those that have no part in a fault first; nils when nobody can say.
func (c *cluster) status(ctx context.Context) (*api.Status, *api.Group, error) {
	for _, h := range slices.Concat([]*host{c.secondary}, c.primaries, c.components) {
		once, done := context.WithTimeout(ctx, 2*time.Second)
		s, err := h.API.Status(once)
		done()
		if err := fleet.IgnoreUnreached(err); err != nil && ctx.Err() == nil && once.Err() == nil {
			return nil, nil, err
		}
		if err == nil && s.Complete {
			return s, s.Group(groupName), nil
		}
	}
	return nil, nil, nil
}

// event returns whether a host's agent has seen an event of that name since a moment.
func (c *cluster) event(ctx context.Context, h *host, name string, since time.Time) (bool, error) {
	text, err := c.command(ctx, h, "events", "--json")
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
