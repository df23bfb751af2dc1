package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"flotilla/internal/fleet"
)

// network gives each host a namespace of its own with one link to a bridge, in a namespace that nobody else is in:
//
//	hub:  br0 ── link1 ══ eth0 in the first host's, 10.77.0.1
//	          ── link2 ══ eth0 in the second's, 10.77.0.2
//
// A shaped link lets so many bits a second through in each direction: what the host sends waits at eth0, what it is to
// receive at link N.
type network struct {
	mbit  int
	hub   *fleet.Namespace
	hosts []*fleet.Namespace
	link  map[string]string // name of the hub's end, by host
}

// A token bucket that lets a burst of a few milliseconds through, and keeps up to 100 ms waiting.
const shaping = "tbf rate %dmbit burst 64kb latency 100ms"

func newNetwork(mbit int) *network { return &network{mbit: mbit, link: map[string]string{}} }

// close lets the namespaces go, when the hosts have ended.
func (n *network) close() error {
	errs := []error{n.hub.Close()}
	for _, h := range n.hosts {
		errs = append(errs, h.Close())
	}
	return errors.Join(errs...)
}

// attach makes the next host's namespace and link.
func (n *network) attach(ctx context.Context, s *fleet.Spawner, host string, shaped bool) (*fleet.Namespace, string, error) {
	fail := func(err error) (*fleet.Namespace, string, error) {
		return nil, "", fmt.Errorf("make the network of %s: %w", host, err)
	}
	if n.hub == nil {
		hub, err := s.NewNamespace()
		if err != nil {
			return fail(err)
		}
		n.hub = hub
		if err := steps(ctx, s, hub, "ip link add br0 type bridge", "ip link set br0 up"); err != nil {
			return fail(err)
		}
	}
	ns, err := s.NewNamespace()
	if err != nil {
		return fail(err)
	}
	n.hosts = append(n.hosts, ns)
	k := len(n.hosts)
	link, address := fmt.Sprintf("link%d", k), fmt.Sprintf("10.77.0.%d", k)
	err = steps(ctx, s, n.hub,
		"ip link add "+link+" type veth peer name eth0 netns "+ns.Path(),
		"ip link set "+link+" master br0 up")
	if err == nil {
		err = steps(ctx, s, ns, "ip link set lo up", "ip addr add "+address+"/24 dev eth0", "ip link set eth0 up")
	}
	if err == nil && shaped {
		shape := fmt.Sprintf(shaping, n.mbit)
		err = errors.Join(steps(ctx, s, n.hub, "tc qdisc add dev "+link+" root "+shape), steps(ctx, s, ns, "tc qdisc add dev eth0 root "+shape))
	}
	if err != nil {
		return fail(err)
	}
	n.link[host] = link
	return ns, address + ":7431", nil
}

// steps runs commands in a namespace.
func steps(ctx context.Context, s *fleet.Spawner, ns *fleet.Namespace, commands ...string) error {
	for _, c := range commands {
		words := strings.Fields(c)
		if _, err := s.Run(ctx, ns, words[0], words[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// traffic is what a host has sent and received on its link, in bytes.
type traffic struct{ sent, received float64 }

// traffic returns what all hosts have.
func (n *network) traffic(ctx context.Context, s *fleet.Spawner) (map[string]traffic, error) {
	text, err := s.Run(ctx, n.hub, "ip", "-s", "-j", "link")
	if err != nil {
		return nil, err
	}
	var devices []struct {
		Name  string `json:"ifname"`
		Stats struct {
			RX struct{ Bytes float64 } `json:"rx"`
			TX struct{ Bytes float64 } `json:"tx"`
		} `json:"stats64"`
	}
	if err := json.Unmarshal([]byte(text), &devices); err != nil {
		return nil, fmt.Errorf("read what ip says of the links: %w", err)
	}
	out := map[string]traffic{}
	for host, link := range n.link {
		for _, d := range devices {
			if d.Name == link { // what the hub receives there the host has sent
				out[host] = traffic{sent: d.Stats.RX.Bytes, received: d.Stats.TX.Bytes}
			}
		}
	}
	return out, nil
}
