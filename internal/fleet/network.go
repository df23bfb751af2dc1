package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// Network joins namespaces, one for each host, by one or more LANs. A LAN is a bridge in a namespace that nobody else is in:
//
//	hub:  br0 ── link0-1 ══ eth0 in the first host's, 10.77.0.1
//	          ── link0-2 ══ eth0 in the second's, 10.77.0.2
//	      br1 ── link1-2 ══ eth1 in the second's, 10.78.0.2
//
// LANs are numbered from 0. A Network is used by one goroutine.
type Network struct {
	Nodes []*Node

	spawn *Spawner
	hub   *Namespace
	wires []*Wire
}

// Node is the place of one host in a network.
type Node struct {
	Name      string
	Namespace *Namespace
	Addresses map[int]string // IP address by LAN; none for a LAN to which it has no link

	number int // from 1
}

// NewNetwork makes LANs without hosts. Close must be called, after the end of the hosts.
func NewNetwork(ctx context.Context, s *Spawner, lans int) (*Network, error) {
	hub, err := s.NewNamespace()
	if err != nil {
		return nil, err
	}
	n := &Network{spawn: s, hub: hub}
	for lan := range lans {
		if err := n.in(ctx, hub, "ip link add "+bridge(lan)+" type bridge", mute(bridge(lan)), "ip link set "+bridge(lan)+" up"); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	return n, nil
}

// Close lets the namespaces go, and with them all links.
func (n *Network) Close() error {
	errs := []error{n.hub.Close()}
	for _, w := range n.wires {
		errs = append(errs, w.Close())
	}
	for _, x := range n.Nodes {
		errs = append(errs, x.Namespace.Close())
	}
	return errors.Join(errs...)
}

// The names of a bridge, and of the two ends of a link.
func bridge(lan int) string          { return fmt.Sprintf("br%d", lan) }
func inside(lan int) string          { return fmt.Sprintf("eth%d", lan) }
func (x *Node) atHub(lan int) string { return fmt.Sprintf("link%d-%d", lan, x.number) }

// mute is the command by which a device of the hub gets no IPv6 address, with which it would look for routers by itself: a
// link carries only what hosts send.
func mute(device string) string { return "ip link set " + device + " addrgenmode none" }

// Attach makes the namespace of the next host, with a link to each of some LANs.
func (n *Network) Attach(ctx context.Context, name string, lans ...int) (*Node, error) {
	return n.attach(ctx, name, lans, func(x *Node, lan int) error {
		return n.in(ctx, n.hub, "ip link add "+x.atHub(lan)+" type veth peer name "+inside(lan)+" netns "+x.Namespace.Path())
	})
}

// AttachFar makes the namespace of the next host, with a link to one LAN whose delay can be set.
func (n *Network) AttachFar(ctx context.Context, name string, lan int) (*Node, *Wire, error) {
	var w *Wire
	x, err := n.attach(ctx, name, []int{lan}, func(x *Node, lan int) (err error) {
		if w, err = n.spawn.newWire(n.hub, x.atHub(lan), x.Namespace, inside(lan)); err == nil {
			n.wires = append(n.wires, w)
		}
		return err
	})
	return x, w, err
}

// attach makes the namespace of the next host. connect makes the two devices of a link.
func (n *Network) attach(ctx context.Context, name string, lans []int, connect func(x *Node, lan int) error) (*Node, error) {
	ns, err := n.spawn.NewNamespace()
	if err != nil {
		return nil, fmt.Errorf("make the network of %s: %w", name, err)
	}
	x := &Node{Name: name, Namespace: ns, Addresses: map[int]string{}, number: len(n.Nodes) + 1}
	n.Nodes = append(n.Nodes, x)
	err = n.in(ctx, ns, "ip link set lo up")
	for _, lan := range lans {
		x.Addresses[lan] = fmt.Sprintf("10.%d.0.%d", 77+lan, x.number)
		if err == nil {
			err = connect(x, lan)
		}
		if err == nil {
			err = n.in(ctx, n.hub, mute(x.atHub(lan)), "ip link set "+x.atHub(lan)+" master "+bridge(lan)+" up")
		}
		if err == nil {
			err = n.in(ctx, ns, "ip addr add "+x.Addresses[lan]+"/24 dev "+inside(lan), "ip link set "+inside(lan)+" up")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make the network of %s: %w", name, err)
	}
	return x, nil
}

// SetLink takes a node's link to a LAN down at the hub, where the host sees a dead cable, or up again.
func (n *Network) SetLink(ctx context.Context, x *Node, lan int, up bool) error {
	return n.in(ctx, n.hub, "ip link set "+x.atHub(lan)+" "+upOrDown(up))
}

// SetLAN takes a whole LAN down, or up again.
func (n *Network) SetLAN(ctx context.Context, lan int, up bool) error {
	return n.in(ctx, n.hub, "ip link set "+bridge(lan)+" "+upOrDown(up))
}

func upOrDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// shaping is a token bucket that lets a burst of a few milliseconds through, and keeps up to 100 ms waiting.
const shaping = "tbf rate %dbit burst 64kb latency 100ms"

// Shape lets so many bits a second through a link in each direction: what the host sends waits at its end, what it is to
// receive at the hub's. 0 lifts the limit.
func (n *Network) Shape(ctx context.Context, x *Node, lan int, bits int64) error {
	at := func(ns *Namespace, device string) error {
		if bits == 0 {
			return n.in(ctx, ns, "tc qdisc del dev "+device+" root")
		}
		return n.in(ctx, ns, "tc qdisc add dev "+device+" root "+fmt.Sprintf(shaping, bits))
	}
	return errors.Join(at(n.hub, x.atHub(lan)), at(x.Namespace, inside(lan)))
}

// Traffic is what a host has sent and received over a link, in bytes.
type Traffic struct{ Sent, Received int64 }

// Traffic returns what the hosts have on a LAN, by their names.
func (n *Network) Traffic(ctx context.Context, lan int) (map[string]Traffic, error) {
	text, err := n.Run(ctx, nil, "ip", "-s", "-j", "link")
	if err != nil {
		return nil, err
	}
	var devices []struct {
		Name  string `json:"ifname"`
		Stats struct {
			RX struct{ Bytes int64 } `json:"rx"`
			TX struct{ Bytes int64 } `json:"tx"`
		} `json:"stats64"`
	}
	if err := json.Unmarshal([]byte(text), &devices); err != nil {
		return nil, fmt.Errorf("read what ip says of the links: %w", err)
	}
	out := map[string]Traffic{}
	for _, x := range n.Nodes {
		for _, d := range devices {
			if d.Name == x.atHub(lan) { // what the hub receives there the host has sent
				out[x.Name] = Traffic{Sent: d.Stats.RX.Bytes, Received: d.Stats.TX.Bytes}
			}
		}
	}
	return out, nil
}

// trips is of how many the round trip is the median.
const trips = 21

// RoundTrip measures what a byte takes over TCP from one host to another and back: the median of some.
func (n *Network) RoundTrip(from, to *Node, lan int) (median time.Duration, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("send a byte from %s to %s and back: %w", from.Name, to.Name, err)
		}
	}()
	var door net.Listener
	var there, back net.Conn
	err = n.spawn.do(func() error {
		return to.Namespace.within(func() (err error) {
			door, err = net.Listen("tcp", to.Addresses[lan]+":0")
			return err
		})
	})
	if err != nil {
		return 0, err
	}
	defer door.Close()
	err = n.spawn.do(func() error {
		return from.Namespace.within(func() (err error) {
			there, err = net.DialTimeout("tcp", door.Addr().String(), commandTime)
			return err
		})
	})
	if err != nil {
		return 0, err
	}
	defer there.Close()
	if back, err = door.Accept(); err != nil {
		return 0, err
	}
	defer back.Close()
	var took []time.Duration
	var b [1]byte
	for range trips {
		began := time.Now()
		err := errors.Join(there.SetDeadline(began.Add(commandTime)), back.SetDeadline(began.Add(commandTime)))
		for _, step := range []func([]byte) (int, error){there.Write, back.Read, back.Write, there.Read} {
			if err == nil {
				_, err = step(b[:])
			}
		}
		if err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// Run runs a command in a node's namespace, or in the hub where it is nil, and returns what it printed.
func (n *Network) Run(ctx context.Context, x *Node, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	ns := n.hub
	if x != nil {
		ns = x.Namespace
	}
	return n.spawn.Run(ctx, ns, name, args...)
}

// in runs commands, whose words have no spaces, in a namespace.
func (n *Network) in(ctx context.Context, ns *Namespace, commands ...string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	for _, c := range commands {
		words := strings.Fields(c)
		if _, err := n.spawn.Run(ctx, ns, words[0], words[1:]...); err != nil {
			return err
		}
	}
	return nil
}
