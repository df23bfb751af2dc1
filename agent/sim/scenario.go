package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// scenario is a cluster in which nothing happens but what its script says. Delays are fixed, so its story changes only
// when the protocol does. The oracle watches it as it does the random runs; nothing is excused unless the script says so.
type scenario struct {
	w      *World
	lines  []string // what the command under way prints
	writes []*scriptWrite
	steps  map[string]bool // also told are "data": frames, acks and manifests; "apply"; "cut": what a cut is made of

	values map[uint64]string // the label of each write's value
	places []place           // where they were numbered, in order
	frames map[frameKey]string
	chains []wire.Set // the ends of committed chains
	incs   []wire.Incarnation
	incOf  map[wire.Incarnation]string
}

// scriptWrite is one write of a script.
type scriptWrite struct {
	label string
	acked bool
}

// Limits of a scenario's waits.
const (
	forever     = 2 * maxVirtual
	writeWithin = 200 * time.Millisecond // a write that is not acknowledged by then is left waiting
	untilWithin = 60 * time.Second
	firstLead   = 950 * time.Millisecond // c1 starts this much before the others, and so becomes captain
)

// newScenario starts a cluster and runs it until its volumes are copied and it has come to rest. copying is how long the
// copy of an extent takes.
func newScenario(opt Options, sh shape, copying time.Duration) (*scenario, error) {
	w := newWorld(opt)
	w.steady, w.power, w.maxDelay, w.copyTakes = true, true, time.Millisecond, 2*copying
	s := &scenario{
		w: w, steps: map[string]bool{}, values: map[uint64]string{}, frames: map[frameKey]string{}, incOf: map[wire.Incarnation]string{},
	}
	w.build(sh)
	w.oracle.begin()
	w.watch = s.saw
	for i, h := range w.hosts {
		if i == 1 {
			w.runUntil(firstLead)
		}
		h.start()
	}
	for _, what := range []string{"copied", "equal", "settled"} {
		if err := s.until(what); err != nil {
			return nil, err
		}
	}
	s.lines = nil
	var vols []string
	for _, id := range cluster.SortedKeys(w.newest().Groups[w.group].Volumes) {
		v := w.newest().Groups[w.group].Volumes[id]
		vols = append(vols, fmt.Sprintf("%s on %s", v.Name, s.name(v.Primary)))
	}
	s.say("%s; %s; %s, a set every %v", s.names(w.ids), strings.Join(vols, ", "), sh.mode, time.Duration(sh.period)*time.Millisecond)
	s.showView(w.newest())
	return s, w.failure
}

// take returns what a command printed.
func (s *scenario) take() string {
	out := strings.Join(s.lines, "\n")
	s.lines = nil
	return out
}

// host returns a host by its agent's name.
func (s *scenario) host(name string) (*host, error) {
	if a := s.w.oracle.last.AgentByName(name); a != nil {
		return s.w.host(a.ID), nil
	}
	return nil, fmt.Errorf("there is no agent %q: the agents are %s", name, s.names(s.w.ids))
}

// write writes a value of that label to a block, and waits a little for the acknowledgement.
func (s *scenario) write(volume string, block int, label string) error {
	w := s.w
	g := w.newest().Groups[w.group]
	for _, id := range cluster.SortedKeys(g.Volumes) {
		v := g.Volumes[id]
		if v.Name != volume {
			continue
		}
		if block < 0 || int64(block) >= v.Size/blockSize {
			return fmt.Errorf("write block %d of %s: it has %d blocks", block, volume, v.Size/blockSize)
		}
		h := w.host(v.Primary)
		if h.node == nil {
			return fmt.Errorf("write to %s: %s is down", volume, s.name(h.id))
		}
		if h.primary[id] == nil {
			s.say("%s: the volume is closed", label)
			return nil
		}
		value := w.oracle.value()
		s.values[value] = label
		sw := &scriptWrite{label: label}
		s.writes = append(s.writes, sw)
		began := w.now
		h.write(id, block, []uint64{value}, wire.KindWrite, w.power, func(error) {
			sw.acked = true
			if g.Mode == cluster.Async {
				w.stats.MaxBlocked = max(w.stats.MaxBlocked, w.now-began)
			}
		})
		for deadline := w.now + writeWithin; !sw.acked && w.step(deadline); {
		}
		s.say("%s: %s, %s", label, s.where(label), acknowledged(sw.acked))
		return nil
	}
	return fmt.Errorf("there is no volume %q", volume)
}

func acknowledged(yes bool) string {
	if yes {
		return "acknowledged"
	}
	return "not acknowledged"
}

// where says where a write is.
func (s *scenario) where(label string) string {
	for i := len(s.places) - 1; i >= 0; i-- {
		if p := s.places[i]; p.label == label {
			return fmt.Sprintf("in set %d", p.set)
		}
	}
	return "only on the source and in its bitmap"
}

// until runs until a condition holds, or an event's line contains the text.
func (s *scenario) until(what string) error {
	holds, known := s.conditions()[what]
	if !known {
		if !strings.Contains(what, " ") {
			return fmt.Errorf("run until %q: want one of %s, or a part of a line", what, strings.Join(cluster.SortedKeys(s.conditions()), ", "))
		}
		from := len(s.lines)
		holds = func() bool {
			return slices.ContainsFunc(s.lines[from:], func(l string) bool { return strings.Contains(l, what) })
		}
	}
	for deadline := s.w.now + untilWithin; !holds(); {
		if !s.w.step(deadline) {
			if s.w.failure != nil {
				return s.w.failure
			}
			return fmt.Errorf("%q does not come to pass within %v: %s", what, untilWithin, s.w.oracle.unsettled())
		}
	}
	return s.w.failure
}

// conditions are what a script can wait for and assert.
func (s *scenario) conditions() map[string]func() bool {
	w := s.w
	all := func(ok func(g *cluster.Group, p place) bool) func() bool {
		return func() bool {
			g := w.newest().Groups[w.group]
			return !slices.ContainsFunc(s.places, func(p place) bool { return !ok(g, p) })
		}
	}
	return map[string]func() bool{
		"acknowledged": func() bool {
			return !slices.ContainsFunc(s.writes, func(x *scriptWrite) bool { return !x.acked })
		},
		"held": all(func(_ *cluster.Group, p place) bool {
			for _, h := range w.hosts {
				if h.node == nil || len(h.sources) == 0 {
					continue
				}
				if v, ok := h.node.View(w.group); ok && v.Inc == p.inc && p.seq > v.HeldUpTo {
					return false
				}
			}
			return true
		}),
		"committed": all(func(g *cluster.Group, p place) bool { return p.set <= g.Committed }),
		"applied":   all(func(g *cluster.Group, p place) bool { return p.set <= g.Applied }),
		"copied": func() bool {
			g := w.newest().Groups[w.group]
			for _, v := range g.Volumes {
				if v.Removed == nil && !v.Copied(g.Applied) {
					return false
				}
			}
			return true
		},
		"settled":  func() bool { st := w.newest(); return st.Settled == st.View },
		"promoted": func() bool { return w.newest().Groups[w.group].Phase == cluster.Promoted },
		"equal": func() bool {
			g := w.newest().Groups[w.group]
			return g.Point.Set != 0 && g.Point.Set == g.ApplyTo && g.Applied == g.ApplyTo && !g.Torn && w.oracle.group(w.group).unsettledGroup() == ""
		},
	}
}

// assert fails the script unless a condition holds now.
func (s *scenario) assert(what string) error {
	want := true
	name, not := strings.CutPrefix(what, "not-")
	if not {
		want = false
	}
	holds, known := s.conditions()[name]
	switch {
	case !known:
		return fmt.Errorf("assert %q: want one of %s", what, strings.Join(cluster.SortedKeys(s.conditions()), ", "))
	case holds() != want:
		return fmt.Errorf("assert %s: it is not so: %s", what, s.w.oracle.unsettled())
	}
	return nil
}

// kill ends processes. What needs the second copy is not excused by it.
func (s *scenario) kill(h *host, power bool) error {
	if h.node == nil {
		return fmt.Errorf("kill %s: it is down", s.name(h.id))
	}
	s.w.oracle.checkPoints()
	h.kill(power)
	return nil
}

// restart starts the process of a host again, from its disks.
func (s *scenario) restart(h *host) error {
	if h.node != nil {
		return fmt.Errorf("restart %s: it is up", s.name(h.id))
	}
	if h.behind {
		return fmt.Errorf("restart %s: it was left behind", s.name(h.id))
	}
	h.start()
	return nil
}

// heal lets everything through again between the hosts named, or between all.
func (s *scenario) heal(hosts []*host) {
	for l := range s.w.cuts {
		in := func(id wire.AgentID) bool {
			return slices.ContainsFunc(hosts, func(h *host) bool { return h.id == id })
		}
		if len(hosts) == 0 || (len(hosts) == 1 && (in(l.from) || in(l.to))) || (in(l.from) && in(l.to)) {
			delete(s.w.cuts, l)
		}
	}
	for _, h := range s.w.hosts {
		if len(hosts) == 0 || slices.Contains(hosts, h) {
			h.awayUntil = 0
		}
	}
}

// finish ends a run: what lies open is checked once more.
func (s *scenario) finish() error {
	s.w.oracle.checkPoints()
	if s.w.failure == nil {
		s.w.oracle.checkEnd()
	}
	return s.w.failure
}
