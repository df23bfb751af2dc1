//go:build nettest

package nettest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"flotilla/internal/process"
)

// leftPrefix begins the name of everything that outlives a test that is killed; the test's process ID follows.
const leftPrefix = "flnet-"

// commandTime bounds the commands that set up and break networks.
const commandTime = 20 * time.Second

// lan is one of the networks.
type lan int

const (
	mainLAN      lan = iota // between all
	componentLAN            // between components
	lans
)

// network is the namespaces of some agents, and what is broken between them. It is used by one goroutine.
type network struct {
	spawn   *process.Spawner
	prefix  string
	nodes   []*node
	blocked map[*node]map[string]bool // by receiver: addresses from which it takes nothing
}

// node is the place of one agent.
type node struct {
	name      string
	namespace string
	address   [lans]string // empty where it is not connected
}

// newNetwork makes the namespaces; those of components are on both networks where there are two.
func newNetwork(ctx context.Context, spawn *process.Spawner, names []string, onBoth func(name string) bool) (n *network, err error) {
	n = &network{spawn: spawn, prefix: fmt.Sprintf("%s%d-", leftPrefix, os.Getpid()), blocked: map[*node]map[string]bool{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if err := n.ip(ctx, "netns", "add", n.bridges()); err != nil {
		return n, err
	}
	for w := range lans {
		br := fmt.Sprint("br", int(w))
		if err := n.ip(ctx, "-n", n.bridges(), "link", "add", br, "type", "bridge"); err != nil {
			return n, err
		}
		if err := n.ip(ctx, "-n", n.bridges(), "link", "set", br, "up"); err != nil {
			return n, err
		}
	}
	for i, name := range names {
		x := &node{name: name, namespace: n.prefix + name}
		if err := n.ip(ctx, "netns", "add", x.namespace); err != nil {
			return n, err
		}
		n.nodes = append(n.nodes, x)
		if err := n.ip(ctx, "-n", x.namespace, "link", "set", "lo", "up"); err != nil {
			return n, err
		}
		for w := range lans {
			if w == mainLAN || onBoth(name) {
				x.address[w] = fmt.Sprintf("10.%d.0.%d", 77+int(w), i+1)
				if err := n.plug(ctx, x, w); err != nil {
					return n, err
				}
			}
		}
	}
	return n, nil
}

func (n *network) bridges() string { return n.prefix + "switch" }

// inside and port are the names of the two ends of a cable.
func (w lan) inside() string { return fmt.Sprint("eth", int(w)) }

func (w lan) port(x *node) string { return []string{"p-", "q-"}[w] + x.name }

// plug connects a node to a network.
func (n *network) plug(ctx context.Context, x *node, w lan) error {
	for _, args := range [][]string{
		{"-n", n.bridges(), "link", "add", w.port(x), "type", "veth", "peer", "name", w.inside(), "netns", x.namespace},
		{"-n", n.bridges(), "link", "set", w.port(x), "master", fmt.Sprint("br", int(w)), "up"},
		{"-n", x.namespace, "address", "add", x.address[w] + "/24", "dev", w.inside()},
		{"-n", x.namespace, "link", "set", w.inside(), "up"},
	} {
		if err := n.ip(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func (n *network) ip(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	_, err := n.spawn.Run(ctx, "ip", args...)
	return err
}

// link takes a node's cable out, or puts it back.
func (n *network) link(ctx context.Context, x *node, w lan, up bool) error {
	return n.ip(ctx, "-n", n.bridges(), "link", "set", w.port(x), map[bool]string{true: "up", false: "down"}[up])
}

// all takes a whole network down, or up.
func (n *network) all(ctx context.Context, w lan, up bool) error {
	return n.ip(ctx, "-n", n.bridges(), "link", "set", fmt.Sprint("br", int(w)), map[bool]string{true: "up", false: "down"}[up])
}

// cut lets nothing of what one node sends arrive at another, on all networks, or everything again.
func (n *network) cut(ctx context.Context, from, to *node, cut bool) error {
	if n.blocked[to] == nil {
		n.blocked[to] = map[string]bool{}
	}
	for _, address := range from.address {
		if address == "" {
			continue
		}
		if cut {
			n.blocked[to][address] = true
		} else {
			delete(n.blocked[to], address)
		}
	}
	rules := "add table inet flotilla\ndelete table inet flotilla\n" // also when there is none
	if len(n.blocked[to]) > 0 {
		rules += "add table inet flotilla\nadd chain inet flotilla input { type filter hook input priority 0; }\n" +
			fmt.Sprintf("add rule inet flotilla input ip saddr { %s } counter drop\n", strings.Join(slices.Sorted(maps.Keys(n.blocked[to])), ", "))
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	_, err := n.spawn.Run(ctx, "ip", "netns", "exec", to.namespace, "sh", "-c", fmt.Sprintf("printf %%s '%s' | nft -f -", rules))
	return err
}

// dropped returns how many packets a node has refused since its cuts were changed last.
func (n *network) dropped(ctx context.Context, to *node) (packets int, err error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	text, err := n.spawn.Run(ctx, "ip", "netns", "exec", to.namespace, "nft", "list", "table", "inet", "flotilla")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(text, "counter packets ")
	number, _, _ := strings.Cut(rest, " ")
	return strconv.Atoi(number)
}

// cutBoth is cut both ways.
func (n *network) cutBoth(ctx context.Context, a, b *node, cut bool) error {
	return errors.Join(n.cut(ctx, a, b, cut), n.cut(ctx, b, a, cut))
}

// cutAll cuts what a node sends to all others, what it receives from them, or both.
func (n *network) cutAll(ctx context.Context, x *node, sends, receives, cut bool) error {
	var errs []error
	for _, y := range n.nodes {
		if y != x && sends {
			errs = append(errs, n.cut(ctx, x, y, cut))
		}
		if y != x && receives {
			errs = append(errs, n.cut(ctx, y, x, cut))
		}
	}
	return errors.Join(errs...)
}

// slow limits a node's main link to a rate, such as "20mbit", each way; "" lifts the limit.
func (n *network) slow(ctx context.Context, x *node, rate string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	for namespace, dev := range map[string]string{x.namespace: mainLAN.inside(), n.bridges(): mainLAN.port(x)} {
		args := []string{"-n", namespace, "qdisc", "del", "dev", dev, "root"}
		if rate != "" {
			args = []string{"-n", namespace, "qdisc", "add", "dev", dev, "root", "tbf", "rate", rate, "burst", "64kb", "latency", "200ms"}
		}
		if _, err := n.spawn.Run(ctx, "tc", args...); err != nil {
			return err
		}
	}
	return nil
}

// received returns how many bytes a node has received on a network.
func (n *network) received(ctx context.Context, x *node, w lan) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	text, err := n.spawn.Run(ctx, "ip", "netns", "exec", x.namespace, "cat", "/sys/class/net/"+w.inside()+"/statistics/rx_bytes")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(text), 10, 64)
}

// close removes the namespaces, and with them all links. The agents must have ended.
func (n *network) close() error {
	ctx := context.Background() // also after an interrupt
	text, err := n.spawn.Run(ctx, "ip", "netns", "list")
	errs := []error{err}
	for line := range strings.Lines(text) {
		if name, _, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(name, n.prefix) {
			errs = append(errs, n.ip(ctx, "netns", "delete", name))
		}
	}
	return errors.Join(errs...)
}

// sweep removes what tests that were killed have left: a name says whose it is.
func sweep(ctx context.Context, spawn *process.Spawner) error {
	text, err := spawn.Run(ctx, "ip", "netns", "list")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !abandoned(name) {
			continue
		}
		fmt.Printf("removing namespace %s of a test that was killed\n", name)
		_, err := spawn.Run(ctx, "ip", "netns", "delete", name)
		errs = append(errs, err)
	}
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), leftPrefix+"*"))
	errs = append(errs, err)
	for _, dir := range dirs {
		if abandoned(filepath.Base(dir)) {
			fmt.Printf("removing directory %s of a test that was killed\n", dir)
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

// abandoned reports whether a name is that of something whose test does not run any more. A process ID that was given to
// another process since keeps it until that ends.
func abandoned(name string) bool {
	rest, ours := strings.CutPrefix(name, leftPrefix)
	id, _, whole := strings.Cut(rest, "-")
	pid, err := strconv.Atoi(id)
	return ours && whole && err == nil && pid > 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

func TestAbandoned(t *testing.T) {
	for name, want := range map[string]bool{
		fmt.Sprintf("%s%d-c1", leftPrefix, os.Getpid()): false,
		leftPrefix + "4194305-c1":                       true, // above the highest that there can be
		leftPrefix + "4194305":                          false,
		leftPrefix + "x-c1":                             false,
		"other-4194305-c1":                              false,
	} {
		if got := abandoned(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
