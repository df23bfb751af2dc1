package fleet

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// testNetwork makes LANs that go with the test, and what ends it at an error.
func testNetwork(t *testing.T, lans int) (*Network, func(error)) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s := NewSpawner()
	t.Cleanup(s.Close)
	n, err := NewNetwork(t.Context(), s, lans)
	if errors.Is(err, ErrPrivilege) {
		t.Skip(err)
	}
	must(err)
	t.Cleanup(func() { must(n.Close()) })
	return n, must
}

// A link carries what is sent over it, while it and its LAN are up.
func TestNetwork(t *testing.T) {
	n, must := testNetwork(t, 2)
	s := n.spawn
	a, err := n.Attach(t.Context(), "a", 0, 1)
	must(err)
	b, err := n.Attach(t.Context(), "b", 1)
	must(err)
	if a.Addresses[0] != "10.77.0.1" || a.Addresses[1] != "10.78.0.1" || b.Addresses[1] != "10.78.0.2" || len(b.Addresses) != 1 {
		t.Errorf("addresses %v and %v", a.Addresses, b.Addresses)
	}

	var door net.Listener
	must(s.do(func() error {
		return b.Namespace.within(func() (err error) {
			door, err = net.Listen("tcp", b.Addresses[1]+":0")
			return err
		})
	}))
	defer door.Close()
	reaches := func(want bool) {
		t.Helper()
		must(Until(t.Context(), StartTime, "a reaches b or does not", func(context.Context) (bool, error) {
			err := s.do(func() error {
				return a.Namespace.within(func() error {
					c, err := net.DialTimeout("tcp", door.Addr().String(), 200*time.Millisecond)
					if err != nil {
						return err
					}
					return c.Close()
				})
			})
			return (err == nil) == want, nil
		}))
	}
	reaches(true)
	must(n.SetLink(t.Context(), b, 1, false))
	reaches(false)
	must(n.SetLink(t.Context(), b, 1, true))
	reaches(true)
	must(n.SetLAN(t.Context(), 1, false))
	reaches(false)
	must(n.SetLAN(t.Context(), 1, true))
	reaches(true)

	if text, err := n.Run(t.Context(), nil, "ip", "-6", "address"); err != nil || strings.Contains(text, "inet6") {
		t.Errorf("the hub has addresses and would speak by itself: %s, %v", text, err)
	}
	traffic, err := n.Traffic(t.Context(), 1)
	must(err)
	if x := traffic["b"]; x.Sent == 0 || x.Received == 0 || len(traffic) != 2 {
		t.Errorf("traffic %+v", traffic)
	}
	for _, limit := range []int64{1e6, 0} {
		must(n.Shape(t.Context(), b, 1, limit))
		for _, end := range []*Node{nil, b} {
			text, err := n.Run(t.Context(), end, "tc", "qdisc")
			must(err)
			if shaped := strings.Contains(text, "qdisc tbf"); shaped != (limit > 0) {
				t.Errorf("limit %d: %s", limit, text)
			}
		}
	}
}

// A far host's frames wait in each direction, for as long as is said.
func TestWire(t *testing.T) {
	n, must := testNetwork(t, 1)
	near, err := n.Attach(t.Context(), "near", 0)
	must(err)
	far, w, err := n.AttachFar(t.Context(), "far", 0)
	must(err)
	const delay = 30 * time.Millisecond
	for _, d := range []time.Duration{0, delay, 0} {
		w.SetDelay(d)
		took, err := n.RoundTrip(near, far, 0)
		must(err)
		if took < 2*d || d == 0 && took >= 2*delay {
			t.Errorf("delay %v: a round trip of %v", d, took)
		}
	}
	traffic, err := n.Traffic(t.Context(), 0)
	must(err)
	if x := traffic["far"]; x.Sent == 0 || x.Received == 0 {
		t.Errorf("traffic %+v", traffic)
	}
}
