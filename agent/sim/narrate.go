package sim

import (
	"fmt"
	"slices"
	"strings"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// What a scenario is shown, beside core.Event.
type (
	// stateChange is the newest replicated state, and the one seen before it.
	stateChange struct{ before, after *cluster.State }
	// sentMessage and sentFrame leave a host.
	sentMessage struct {
		to  wire.AgentID
		msg core.Message
	}
	sentFrame struct {
		to   wire.AgentID
		no   uint64
		body *wire.Body
	}
	// durable is in a host's journal, flushed.
	durable struct{ body *wire.Body }
	// newlyNumbered has its place in an incarnation.
	newlyNumbered struct {
		inc wire.Incarnation
		numbered
	}
	// targetWrite is on a target; refusal is kept from it.
	targetWrite struct {
		from   wire.AgentID
		set    wire.Set
		values [][]uint64
	}
	// leftBehind has heard of a generation that has begun without it.
	leftBehind struct{ generation uint64 }
	refusal    struct {
		from wire.AgentID
		err  error
	}
)

// saw tells who watches, if anybody does, what happened at a host.
func (w *World) saw(h *host, what any) { w.watch(h, what) }

// place is where a write was numbered; a copy numbers it again.
type place struct {
	label string
	inc   wire.Incarnation
	seq   wire.Seq
	set   wire.Set
}

// frameKey names a frame by its sender.
type frameKey struct {
	from wire.AgentID
	no   uint64
}

// say adds a line to what the command prints, once: whoever has had no answer repeats itself.
func (s *scenario) say(format string, args ...any) {
	if line := fmt.Sprintf(format, args...); !slices.Contains(s.lines, line) {
		s.lines = append(s.lines, line)
	}
}

// saw turns what happened into lines. Of what goes on all the time it tells only what concerns the script's writes.
func (s *scenario) saw(h *host, what any) {
	name := s.name(h.id)
	switch x := what.(type) {
	case newlyNumbered:
		for i := range x.ups {
			for _, l := range s.labels(&x.ups[i]) {
				s.places = append(s.places, place{l, x.inc, x.seq - wire.Seq(len(x.ups)-1-i), x.set})
			}
		}
	case core.Event:
		s.event(h, x)
	case stateChange:
		s.changed(x.before, x.after)
	case leftBehind:
		s.say("%s was left behind by generation %d, and ends", name, x.generation)
	case refusal:
		s.say("%s refuses to let %s write to a target: %s", name, s.name(x.from), s.words(x.err.Error()))
	case sentFrame:
		s.frames[frameKey{h.id, x.no}] = s.content(x.body)
		if c := s.content(x.body); s.steps["data"] && c != "" {
			s.say("%s -> %s: %s%s", name, s.name(x.to), c, s.fate(h, x.to))
		}
	case durable:
		if c := s.content(x.body); s.steps["data"] && c != "" {
			s.say("%s: %s in its journal, flushed", name, c)
		}
	case targetWrite:
		var ls []string
		for _, vs := range x.values {
			ls = append(ls, s.labelled(vs)...)
		}
		if s.steps["data"] && len(ls) > 0 {
			s.say("%s: %s on the target, by %s", name, strings.Join(ls, " "), s.name(x.from))
		}
	case sentMessage:
		s.message(h, x)
	}
}

// fate says of what a host sends whether it arrives late or never.
func (s *scenario) fate(h *host, to wire.AgentID) string {
	switch {
	case s.w.now < s.w.cuts[link{h.id, to}]:
		return " (never arrives)"
	case s.w.now < h.stalledUntil:
		return " (arrives late)"
	}
	return ""
}

func (s *scenario) event(h *host, e core.Event) {
	name := s.name(h.id)
	attrs := map[string]any{}
	for i := 0; i+1 < len(e.Attrs); i += 2 {
		attrs[fmt.Sprint(e.Attrs[i])] = e.Attrs[i+1]
	}
	switch e.Name {
	case "captain.elected":
		s.say("%s is captain", name)
	case "component.reset":
		if len(h.journal.records()) == 0 {
			return
		}
		s.say("%s empties its journal", name)
	case "cut.overdue":
		s.say("%s has stood still for as long as it may, and goes on in its old set", name)
	case "cut.forced":
		s.say("%s has sets up to %v closed without a cut", name, attrs["set"])
	case "frame.refused":
		s.say("%v refuses a frame of %s: %v", s.name(attrs["by"].(wire.AgentID)), name, attrs["reason"])
	case "resync.no-room":
		s.say("%s waits with its resync: there is no room for a chain, or it could not end", name)
	case "resync.room":
		s.say("%s may resync: there is room for the chain", name)
	case "chain.abandoned":
		s.say("%s gives up the chain that fills the journals", name)
	case "promote.point":
		s.say("%s chooses the point: set %v", name, attrs["set"])
	}
}

// changed tells the changes of the replicated state.
func (s *scenario) changed(was, now *cluster.State) {
	if now.Generation != was.Generation {
		s.say("generation %d begins", now.Generation)
	}
	for _, m := range was.Members {
		if !now.IsMember(m) {
			s.say("%s is declared lost: view %d, members %s", s.name(m), now.View, s.names(now.Members))
		}
	}
	for _, m := range now.Members {
		if !was.IsMember(m) {
			s.say("%s is admitted as new: members %s", s.name(m), s.names(now.Members))
		}
	}
	a, b := was.Groups[s.w.group], now.Groups[s.w.group]
	if a.Phase != b.Phase && b.Phase == cluster.Promoting {
		s.say("promote: view %d", now.View)
	}
	for _, id := range cluster.SortedKeys(b.Volumes) {
		if v := b.Volumes[id]; v.Removed != nil && a.Volumes[id].Removed == nil {
			s.say("%s of %s is out of the group: its target stays at set %d", v.Name, s.name(v.Primary), v.Removed.Point.Set)
		}
	}
	s.degraded(a, b)
	s.incarnations(a, b)
	if n := len(b.Grants); n > 1 && b.Granted != a.Granted {
		x, y := &b.Grants[n-2], &b.Grants[n-1]
		if y.First > a.Granted && (!x.SameAssignment(y) || !slices.Equal(x.Incs, y.Incs)) {
			var incs []string
			for _, id := range y.Incs {
				incs = append(incs, s.inc(id))
			}
			s.say("sets from %d on are granted to %s; %s may write", y.First, s.names(y.Members), strings.Join(incs, " and "))
		}
	}
	s.verdicts(a, b)
	if from, to := a.Committed+1, b.Committed; from <= to && b.GivenUp == a.GivenUp {
		s.committed(a, b, from, to)
	}
	if (s.steps["data"] || s.steps["apply"]) && b.ApplyTo > a.ApplyTo && s.touched(b.Applied+1, b.ApplyTo) {
		s.say("applying up to set %d: no recovery point below it any more", b.ApplyTo)
	}
	if b.GivenUp != a.GivenUp && b.Phase == cluster.Replicating {
		s.say("sets %d to %d are given up as lost", a.Applied+1, b.GivenUp)
	} else if s.touched(a.Applied+1, b.Applied) || slices.Contains(s.chains, b.Applied) {
		s.say("set %d is applied", b.Applied)
	}
	if !a.Torn && b.Torn {
		s.say("the targets are torn: they stand at no point")
	}
	if a.Phase != b.Phase && b.Phase == cluster.Promoted {
		s.say("promoted: the targets stand at the end of set %d", b.Point.Set)
	}
	if was.Settled != was.View && now.Settled == now.View {
		s.say("view %d is settled: everything has its second copy", now.View)
	}
}

// degraded tells of P3's suspension.
func (s *scenario) degraded(a, b *cluster.Group) {
	if a.DegradedPhase() == b.DegradedPhase() {
		return
	}
	switch b.DegradedPhase() {
	case cluster.DegradeAsked:
		s.say("%s is asked to degrade: prefixes count up to set %d", b.Name, b.Degraded.UpTo)
	case cluster.Degraded:
		s.say("%s is degraded", b.Name)
	case cluster.DegradeEnding:
		s.say("%s is ending its degradation", b.Name)
	default:
		s.say("%s is synchronous again", b.Name)
	}
}

// verdicts tells of every void boundary, and of the cuts that end a set with writes.
func (s *scenario) verdicts(a, b *cluster.Group) {
	var void []wire.Set
	for _, n := range cluster.SortedKeys(b.Verdicts) {
		if _, known := a.Verdicts[n]; known {
			continue
		} else if !b.Verdicts[n] {
			void = append(void, n)
		} else if s.steps["cut"] || s.touched(n, n) {
			s.say("verdict: the end of set %d is a cut", n)
		}
	}
	switch {
	case len(void) == 1:
		s.say("verdict: the end of set %d is void", void[0])
	case len(void) > 1:
		s.say("verdict: the ends of sets %d to %d are void", void[0], void[len(void)-1])
	}
}

// committed tells of points, and of the chains that lead to them.
func (s *scenario) committed(a, b *cluster.Group, from, to wire.Set) {
	for _, p := range b.Points {
		if p.Set < from || p.Set > to {
			continue
		}
		switch {
		case p.Set > from && s.touched(from, p.Set):
			s.chains = append(s.chains, p.Set)
			s.say("sets %d to %d are committed together, as a chain", from, p.Set)
		case s.touched(from, p.Set):
			s.say("set %d is committed", p.Set)
		}
		from = p.Set + 1
	}
}

func (s *scenario) incarnations(a, b *cluster.Group) {
	for _, x := range b.Incs {
		old := a.Inc(x.ID)
		if old == nil {
			s.say("%s attaches: %s", s.name(x.Primary), s.inc(x.ID))
			old = &cluster.Incarnation{}
		}
		if x.Ended && !old.Ended {
			s.say("%s is ended", s.inc(x.ID))
		}
		if x.Sealed && !old.Sealed && b.GivenUp == a.GivenUp {
			s.say("%s is sealed%s", s.inc(x.ID), s.below(b, x))
		}
		if x.Whole != 0 && old.Whole == 0 && len(b.Incs) > 1 {
			s.say("%s is whole: the copy of what its bits say is done", s.inc(x.ID))
		}
	}
}

// below says which unapplied writes a seal keeps.
func (s *scenario) below(g *cluster.Group, x *cluster.Incarnation) string {
	var in, out []string
	for _, p := range s.places {
		switch {
		case p.inc != x.ID || p.set <= g.Applied:
		case p.seq <= x.Seal:
			in = append(in, p.label)
		default:
			out = append(out, p.label)
		}
	}
	text := ""
	if len(in) > 0 {
		text = " after " + in[len(in)-1]
	}
	if len(out) > 0 {
		text += ", so that " + strings.Join(out, " ") + " counts for nothing"
	}
	return text
}

// message tells what is said about the script's writes and about cuts.
func (s *scenario) message(h *host, x sentMessage) {
	fate := s.fate(h, x.to)
	say := func(format string, args ...any) string {
		return fmt.Sprintf("%s -> %s: %s%s", s.name(h.id), s.name(x.to), fmt.Sprintf(format, args...), fate)
	}
	if s.steps["cut"] {
		switch m := x.msg.(type) {
		case *core.Pause: // each is another attempt
			s.lines = append(s.lines, say("PAUSE"))
		case *core.Paused:
			s.lines = append(s.lines, say("PAUSED, in set %d", m.Open))
		case *core.Resume:
			s.say("%s", say("RESUME with set %d", m.Set))
		case *core.Confirm:
			stood := "I stood still"
			if !m.Stood {
				stood = "I did not stand still"
			}
			s.say("%s", say("set %d is closed, %s", m.Set-1, stood))
		}
	}
	if !s.steps["data"] {
		return
	}
	g := s.w.newest().Groups[s.w.group]
	switch m := x.msg.(type) {
	case *core.FrameAck:
		for _, no := range m.Nos {
			c := s.frames[frameKey{x.to, no}]
			switch {
			case c == "":
			case len(s.w.host(x.to).sources) > 0:
				s.say("%s", say("%s held", c))
			default:
				s.say("%s", say("%s mirrored", c))
			}
		}
	case *core.FrameNack:
		if c := s.frames[frameKey{x.to, m.No}]; c != "" {
			s.say("%s", say("I refuse %s: %s", c, m.Reason))
		}
	case *core.Lines:
		switch {
		case !s.touched(m.Set, m.Set):
		case m.Set <= g.ApplyTo:
			s.say("%s", say("apply your lines of set %d", m.Set))
		default:
			s.say("%s", say("your lines of the manifest of set %d", m.Set))
		}
	case *core.LinesDone:
		if s.touched(m.Set, m.Set) && (m.Written || m.Set > g.Committed) {
			s.say("%s", say("my lines of set %d are %s", m.Set, done(m.Written)))
		}
	case *core.SetDone:
		if s.touched(m.Set, m.Set) && (m.Written || m.Set > g.Committed) {
			s.say("%s", say("set %d is %s", m.Set, done(m.Written)))
		}
	}
}

func done(written bool) string {
	if written {
		return "on the targets"
	}
	return "complete"
}

// content names the script's writes in a frame, and the manifests of sets that have some.
func (s *scenario) content(b *wire.Body) string {
	var parts []string
	for i := range b.Updates {
		u := &b.Updates[i]
		if u.Kind == wire.KindMark && s.touched(b.Set, b.Set) {
			parts = append(parts, fmt.Sprintf("manifest of set %d", b.Set))
		}
		parts = append(parts, s.labels(u)...)
	}
	return strings.Join(parts, " ")
}

// labels names the script's writes that an update carries.
func (s *scenario) labels(u *wire.Update) []string {
	if u.Kind != wire.KindWrite {
		return nil
	}
	var values []uint64
	for b := range u.Length / blockSize {
		values = append(values, decodeBlock(u, b))
	}
	return s.labelled(values)
}

func (s *scenario) labelled(values []uint64) []string {
	var ls []string
	for _, v := range values {
		if l := s.values[v]; l != "" {
			ls = append(ls, l)
		}
	}
	return ls
}

// touched reports whether a write of the script was numbered in these sets.
func (s *scenario) touched(from, to wire.Set) bool {
	return slices.ContainsFunc(s.places, func(p place) bool { return from <= p.set && p.set <= to })
}
