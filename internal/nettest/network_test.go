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

	"flotilla/internal/fleet"
)

// leftPrefix begins the names of directories, which outlive a test that is killed; the test's process ID follows.
const leftPrefix = "flnet-"

// The networks.
const (
	mainLAN      = iota // between all
	componentLAN        // between components
	lans
)

// network is that of a cluster, and what is cut in it. It is used by one goroutine.
type network struct {
	*fleet.Network
	blocked map[*fleet.Node]map[string]bool // by receiver: addresses from which it takes nothing
}

// newNetwork makes the networks, without hosts.
func newNetwork(ctx context.Context, spawn *fleet.Spawner) (*network, error) {
	n, err := fleet.NewNetwork(ctx, spawn, lans)
	if err != nil {
		return nil, err
	}
	return &network{Network: n, blocked: map[*fleet.Node]map[string]bool{}}, nil
}

// cut lets nothing of what one node sends arrive at another, on all networks, or everything again.
func (n *network) cut(ctx context.Context, from, to *fleet.Node, cut bool) error {
	if n.blocked[to] == nil {
		n.blocked[to] = map[string]bool{}
	}
	for _, address := range from.Addresses {
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
	_, err := n.Run(ctx, to, "sh", "-c", fmt.Sprintf("printf %%s '%s' | nft -f -", rules))
	return err
}

// dropped returns how many packets a node has refused since its cuts were changed last.
func (n *network) dropped(ctx context.Context, to *fleet.Node) (packets int, err error) {
	text, err := n.Run(ctx, to, "nft", "list", "table", "inet", "flotilla")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(text, "counter packets ")
	number, _, _ := strings.Cut(rest, " ")
	return strconv.Atoi(number)
}

// cutBoth is cut both ways.
func (n *network) cutBoth(ctx context.Context, a, b *fleet.Node, cut bool) error {
	return errors.Join(n.cut(ctx, a, b, cut), n.cut(ctx, b, a, cut))
}

// cutAll cuts what a node sends to all others, what it receives from them, or both.
func (n *network) cutAll(ctx context.Context, x *fleet.Node, sends, receives, cut bool) error {
	var errs []error
	for _, y := range n.Nodes {
		if y != x && sends {
			errs = append(errs, n.cut(ctx, x, y, cut))
		}
		if y != x && receives {
			errs = append(errs, n.cut(ctx, y, x, cut))
		}
	}
	return errors.Join(errs...)
}

// received returns how many bytes a node has received on a network.
func (n *network) received(ctx context.Context, x *fleet.Node, lan int) (int64, error) {
	all, err := n.Traffic(ctx, lan)
	return all[x.Name].Received, err
}

// sweep removes the directories that tests that were killed have left: a name says whose it is.
func sweep() error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), leftPrefix+"*"))
	errs := []error{err}
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
