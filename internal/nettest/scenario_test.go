//go:build nettest

package nettest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
)

// The agents' limits that faults are measured with.
const (
	lossAfter    = 2 * time.Second
	slowLinkBits = 20_000_000       // a second, or less where the clients write less
	inTime       = 30 * time.Second // in which sets must be committed again while a fault lasts
)

// TestNetworks runs the scenarios, one cluster each and one after the other.
func TestNetworks(t *testing.T) {
	for _, s := range []struct {
		name string
		cast cast
		run  func(r *run)
	}{
		{"component", cast{components: 3, lans: 1, primaries: 1, mode: "async"}, componentFaults},
		{"captain", cast{components: 3, lans: 1, primaries: 1, mode: "sync"}, captainFault},
		{"pairs", cast{components: 3, lans: 1, primaries: 1, mode: "async"}, pairFaults},
		{"sync-pairs", cast{components: 3, lans: 1, primaries: 1, mode: "sync"}, oneWayFaults},
		{"storm", cast{components: 3, lans: 1, primaries: 1, mode: "sync"}, storm},
		{"primaries", cast{components: 3, lans: 1, primaries: 2, mode: "async"}, primaryFault},
		{"networks", cast{components: 3, lans: 2, primaries: 1, mode: "async"}, networkFaults},
	} {
		t.Run(s.name, func(t *testing.T) {
			fmt.Printf("\n--- %s\n", s.name)
			s.run(newRun(t, s.cast))
		})
		if interrupted.Err() != nil {
			t.Fatal("interrupted")
		}
	}
}

// another returns a component that is not the captain, so that a fault is one of a component alone.
func (r *run) another() (h *host) {
	r.t.Helper()
	r.until(stepTime, "there is a captain", func(s *api.Status, _ *api.Group) bool {
		for _, c := range r.components {
			if c.Name != s.Captain {
				h = c
			}
		}
		return true
	})
	return h
}

// componentFaults cuts one component off in every way, and slows it down; then everything that was written is there.
func componentFaults(r *run) {
	for _, fault := range []struct {
		name string
		set  func(h *host, cut bool) error
	}{
		{"its link is down", func(h *host, cut bool) error { return r.net.SetLink(r.ctx, h.node, mainLAN, !cut) }},
		{"it sends and receives nothing", func(h *host, cut bool) error { return r.net.cutAll(r.ctx, h.node, false, true, cut) }},
		{"it receives and sends nothing", func(h *host, cut bool) error { return r.net.cutAll(r.ctx, h.node, true, false, cut) }},
	} {
		h := r.another()
		r.say("%s: %s", h.Name, fault.name)
		r.must(fault.set(h, true))
		lost := r.member(inTime, h.Name, false)
		again := r.commits(inTime)
		r.say("%s was declared lost after %.1f s, sets were committed %.1f s later; %s", h.Name, lost.Seconds(), again.Seconds(), r.slowest())
		r.must(fault.set(h, false))
		r.say("%s is back: as before after %.1f s", h.Name, r.calm(stepTime).Seconds())
	}
	secondaryCut(r)
	slowLink(r)
	r.finish()
	r.promote(true)
}

// secondaryCut parts a component from the secondary: it writes what it owns over another.
func secondaryCut(r *run) {
	h := r.another()
	r.say("%s and the secondary do not reach each other", h.Name)
	r.must(r.net.cutBoth(r.ctx, h.node, r.secondary.node, true))
	r.pass(3 * lossAfter)
	again := r.applies(inTime)
	r.say("sets were applied %.1f s later; %s", again.Seconds(), r.slowest())
	r.refused(r.secondary)
	r.must(r.net.cutBoth(r.ctx, h.node, r.secondary.node, false))
	r.say("they do again: as before after %.1f s", r.calm(stepTime).Seconds())
}

// slowLink gives a component less than the clients write: they are slowed down, and nothing else happens.
func slowLink(r *run) {
	h, at := r.another(), time.Now()
	before, err := r.net.received(r.ctx, h.node, mainLAN)
	r.must(err)
	r.pass(lossAfter)
	after, err := r.net.received(r.ctx, h.node, mainLAN)
	r.must(err)
	has := (after - before) * 8 / int64(lossAfter.Seconds()) // bits a second; few where the machine is slow
	rate := min(slowLinkBits, has/3)
	r.say("%s receives %.1f Mbit/s and has %.1f from now on", h.Name, float64(has)/1e6, float64(rate)/1e6)
	r.must(r.net.Shape(r.ctx, h.node, mainLAN, rate))
	r.must(fleet.Until(r.ctx, stepTime, "the primary paces its clients", func(ctx context.Context) (bool, error) {
		return r.event(ctx, r.primaries[0], "overload.pace", at)
	}))
	r.say("the primary paces its clients")
	r.pass(2 * lossAfter)
	r.until(time.Second, "it is still a member", func(s *api.Status, _ *api.Group) bool { return s.Component(h.Name).Member })
	r.say("%s is still a member; %s", h.Name, r.slowest())
	r.must(r.net.Shape(r.ctx, h.node, mainLAN, 0))
	r.say("the limit is gone: as before after %.1f s", r.calm(stepTime).Seconds())
}

// captainFault cuts the captain off from all others. They elect another; the old one claims nothing any more.
func captainFault(r *run) {
	var old *host
	r.until(stepTime, "a component is the captain", func(s *api.Status, _ *api.Group) bool {
		old = r.byName(s.Captain)
		return old != nil && old.Roles == "backup"
	})
	r.say("%s, the captain, is cut off from all others", old.Name)
	r.must(r.net.SetLink(r.ctx, old.node, mainLAN, false))
	at := time.Now()
	r.must(fleet.Until(r.ctx, inTime, "the old captain claims nothing", func(ctx context.Context) (bool, error) {
		s, err := old.API.Status(ctx)
		return err == nil && !s.Complete, fleet.IgnoreUnreached(err)
	}))
	r.say("it has given up after %.1f s", time.Since(at).Seconds())
	var captain string
	r.until(inTime, "another is the captain", func(s *api.Status, _ *api.Group) bool {
		captain = s.Captain
		return captain != old.Name
	})
	again := r.commits(inTime)
	r.say("%s is the captain; sets were committed %.1f s later; %s", captain, again.Seconds(), r.slowest())
	before, err := old.API.Status(r.ctx)
	r.must(err)
	if _, err := r.command(r.ctx, old, "promote", groupName, "--wait", "3s"); err == nil {
		r.must(errors.New("the minority has promoted the group"))
	}
	after, err := old.API.Status(r.ctx)
	r.must(err)
	if a, b := before.Group(groupName), after.Group(groupName); after.Complete || a.Committed != b.Committed || a.Applied != b.Applied || b.Phase != "replicating" {
		r.must(fmt.Errorf("the minority claims something: %s; before: %s", describe(after, b), describe(before, a)))
	}
	r.must(r.net.SetLink(r.ctx, old.node, mainLAN, true))
	r.say("%s is back: as before after %.1f s", old.Name, r.calm(stepTime).Seconds())
	r.strike()
	r.promote(false)
}

// pairFaults cuts two agents apart that both still reach the captain, and all others.
func pairFaults(r *run) {
	a, b := r.twoOthers()
	for _, pair := range [][2]*host{{a, b}, {r.primaries[0], a}} {
		r.say("%s and %s do not reach each other; both reach all others", pair[0].Name, pair[1].Name)
		r.apart(pair[:], func(cut bool) error {
			if !cut { // the operator was told while it lasted
				r.alarmed(pair[0], pair[1], true)
			}
			return r.net.cutBoth(r.ctx, pair[0].node, pair[1].node, cut)
		})
		r.alarmed(pair[0], pair[1], false)
	}
	r.strike()
	r.promote(false)
}

// oneWayFaults lets nothing through from one agent to another, while all other ways are open.
func oneWayFaults(r *run) {
	a, b := r.twoOthers()
	for _, pair := range [][2]*host{{a, b}, {r.primaries[0], a}, {a, r.primaries[0]}} {
		r.say("nothing comes from %s to %s any more; all other ways are open", pair[0].Name, pair[1].Name)
		r.apart(pair[1:], func(cut bool) error { return r.net.cut(r.ctx, pair[0].node, pair[1].node, cut) })
	}
	r.strike()
	r.promote(false)
}

// twoOthers returns two components that are not the captain.
func (r *run) twoOthers() (a, b *host) {
	r.t.Helper()
	r.until(stepTime, "there is a captain", func(s *api.Status, _ *api.Group) bool {
		a, b = nil, nil
		for _, c := range r.components {
			switch {
			case c.Name == s.Captain:
			case a == nil:
				a = c
			default:
				b = c
			}
		}
		return true
	})
	return a, b
}

// apart has a cut come and go, at which the receivers refuse packets. Sets must be committed while it lasts: soon after it
// came, and when all has been declared lost that will be.
func (r *run) apart(receivers []*host, cut func(cut bool) error) {
	r.t.Helper()
	r.must(cut(true))
	r.pass(lossAfter)
	again := r.commits(inTime)
	r.say("sets were committed %.1f s later; %s", again.Seconds(), r.slowest())
	r.pass(3 * lossAfter)
	r.say("and again, %.1f s after they were asked for", r.commits(inTime).Seconds())
	r.refused(receivers...)
	r.must(cut(false))
	r.say("all is open: as before after %.1f s", r.calm(stepTime).Seconds())
}

// alarmed waits until the command line's status has the alarm cut-link for two agents, or has it no more.
func (r *run) alarmed(a, b *host, want bool) {
	r.t.Helper()
	r.must(fleet.Until(r.ctx, inTime, fmt.Sprintf("there is an alarm cut-link for %s and %s: %v", a.Name, b.Name, want), func(ctx context.Context) (bool, error) {
		text, err := r.command(ctx, r.secondary, "status", "--json")
		if err != nil {
			return false, err
		}
		var s api.Status
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			return false, fmt.Errorf("read status: %w", err)
		}
		has := slices.ContainsFunc(s.Alarms, func(x api.Alarm) bool {
			one, other := a, b
			if x.Agent == b.Name {
				one, other = b, a
			}
			return x.Name == "cut-link" && x.Agent == one.Name && strings.Contains(x.Text, " "+other.Name+" ")
		})
		return s.Complete && has == want, nil
	}))
	r.say("there is an alarm cut-link for %s and %s: %v", a.Name, b.Name, want)
}

// refused makes sure that cuts have cut something.
func (r *run) refused(receivers ...*host) {
	r.t.Helper()
	for _, h := range receivers {
		n, err := r.net.dropped(r.ctx, h.node)
		if err == nil && n == 0 {
			err = fmt.Errorf("%s has refused no packet: the cut has cut nothing", h.Name)
		}
		r.must(err)
	}
}

// networkFaults takes down the network between components: they go on over the main one, and come back.
func networkFaults(r *run) {
	frames := func(lan int) bool { // whether all frames between components go there
		for _, from := range r.components {
			for _, to := range r.components {
				at, err := r.reachedAt(from, to)
				r.must(err)
				if from != to && at != "" && !strings.HasPrefix(at, to.node.Addresses[lan]+":") {
					return false
				}
			}
		}
		return true
	}
	carried := func() (sum int64) {
		for _, h := range r.components {
			n, err := r.net.received(r.ctx, h.node, componentLAN)
			r.must(err)
			sum += n
		}
		return sum
	}
	on := func(lan int, what string) time.Duration {
		at := time.Now()
		r.must(fleet.Until(r.ctx, stepTime, what, func(context.Context) (bool, error) { return frames(lan), nil }))
		return time.Since(at)
	}
	on(componentLAN, "frames between components go over their own network")
	before := carried()
	r.commits(inTime)
	view := uint64(0)
	r.until(stepTime, "there is a captain", func(s *api.Status, _ *api.Group) bool { view = s.View; return true })
	if n := carried() - before; n < 1<<20 {
		r.must(fmt.Errorf("the components' network has carried only %d bytes while clients wrote", n))
	}
	r.say("frames between components go over their own network, %d MiB meanwhile", (carried()-before)>>20)

	r.must(r.net.SetLAN(r.ctx, componentLAN, false))
	r.say("the components' network is down")
	again := r.commits(inTime)
	r.say("sets were committed %.1f s later; %s", again.Seconds(), r.slowest())
	on(mainLAN, "frames between components go over the main network")
	before = carried()
	r.commits(inTime)
	if n := carried() - before; n != 0 {
		r.must(fmt.Errorf("a network that is down has carried %d bytes", n))
	}
	r.must(r.net.SetLAN(r.ctx, componentLAN, true))
	r.say("it is up again: frames are back on it after %.1f s", on(componentLAN, "frames between components are back").Seconds())
	r.until(time.Second, "nobody was lost", func(s *api.Status, _ *api.Group) bool { return s.View == view })
	r.say("nobody was declared lost; %s", r.slowest())

	h := r.another()
	r.say("%s has only the components' network left", h.Name)
	r.apart(nil, func(cut bool) error { return r.net.SetLink(r.ctx, h.node, mainLAN, !cut) })
	r.finish()
	r.promote(true)
}

// reachedAt returns at which address a component has its connection for frames to another, "" while it has none.
func (r *run) reachedAt(from, to *host) (string, error) {
	m, err := from.Metrics(r.ctx)
	for _, line := range m {
		rest, ok := strings.CutPrefix(line, "flotilla_peer_connected{address=\"")
		if address, labels, _ := strings.Cut(rest, "\""); ok && strings.Contains(labels, `kind="data",peer="`+to.Name+`"`) {
			return address, err
		}
	}
	return "", err
}
