package sim

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// name returns an agent's name.
func (s *scenario) name(id wire.AgentID) string {
	if a := s.w.oracle.last.Agents[id]; a != nil {
		return a.Name
	}
	return "nobody"
}

func (s *scenario) names(ids []wire.AgentID) string {
	var out []string
	for _, id := range ids {
		out = append(out, s.name(id))
	}
	return strings.Join(out, " ")
}

// inc names incarnations inc1, inc2, … in the order in which they are first met, with their primary.
func (s *scenario) inc(id wire.Incarnation) string {
	i := slices.Index(s.incs, id)
	if i < 0 {
		s.incs, i = append(s.incs, id), len(s.incs)
	}
	if x := s.w.newest().Groups[s.w.group].Inc(id); x != nil {
		s.incOf[id] = s.name(x.Primary)
	}
	return fmt.Sprintf("inc%d of %s", i+1, s.incOf[id])
}

var numbersInText = regexp.MustCompile(`(agent|incarnation) (\d+)( of agent \d+)?`)

// words puts names in the place of the numbers in a text of the core.
func (s *scenario) words(text string) string {
	return numbersInText.ReplaceAllStringFunc(text, func(m string) string {
		f := strings.Fields(m)
		n, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			return m
		}
		if f[0] == "agent" {
			return s.name(wire.AgentID(n))
		}
		return s.inc(wire.Incarnation(n))
	})
}

// show tells how things stand.
func (s *scenario) show(what string) error {
	st := s.w.newest()
	g := st.Groups[s.w.group]
	switch what {
	case "view":
		s.showView(st)
	case "sets":
		s.showSets(g)
	case "held":
		s.showHeld(st, g)
	case "incarnations":
		for _, x := range g.Incs {
			s.say("%s", s.incLine(g, x))
		}
	case "points":
		var ps []string
		for _, p := range g.Points {
			ps = append(ps, fmt.Sprintf(", then set %d", p.Set))
		}
		if g.Torn {
			s.say("recovery points: none, the targets are torn")
		} else {
			s.say("recovery points: set %d, on the targets%s", g.Point.Set, strings.Join(ps, ""))
		}
	case "waits":
		if c := s.w.captain(); c == nil {
			s.say("waits: there is no captain")
		} else if why := c.Waiting(s.w.group); why != "" {
			s.say("waits: %s", s.words(why))
		} else {
			s.say("waits for nothing")
		}
	case "volumes":
		s.showVolumes(g)
	default:
		return fmt.Errorf("show %q: want view, sets, held, incarnations, points, waits or volumes", what)
	}
	return nil
}

func (s *scenario) showView(st *cluster.State) {
	line := fmt.Sprintf("view %d: members %s; ", st.View, s.names(st.Members))
	if c := s.captain(); c != nil {
		line += "captain " + s.name(c.id)
	} else {
		line += "no captain"
	}
	if st.Settled != st.View {
		line += "; not settled"
	}
	var down []string
	for _, h := range s.w.hosts {
		if h.node == nil {
			down = append(down, s.name(h.id))
		}
	}
	if len(down) > 0 {
		line += "; down: " + strings.Join(down, " ")
	}
	s.say("%s", line)
}

// captain returns the host that most of the living take for the captain.
func (s *scenario) captain() *host {
	votes := map[wire.AgentID]int{}
	var best *host
	for _, h := range s.w.hosts {
		if h.node != nil {
			votes[h.node.Captain()]++
		}
	}
	for _, h := range s.w.hosts {
		if h.node != nil && h.node.Heard() != nil && (best == nil || votes[h.id] > votes[best.id]) {
			best = h
		}
	}
	return best
}

func (s *scenario) showSets(g *cluster.Group) {
	line := fmt.Sprintf("sets: applied to %d, committed to %d, granted to %d", g.Applied, g.Committed, g.Granted)
	for _, h := range s.w.hosts {
		if len(h.sources) == 0 || h.node == nil {
			continue
		}
		if v, ok := h.node.View(s.w.group); ok && v.Open != 0 {
			line += fmt.Sprintf("; %s has %d open", s.name(h.id), v.Open)
		} else {
			line += fmt.Sprintf("; %s has none open", s.name(h.id))
		}
	}
	s.say("%s", line)
}

// showHeld lists the script's writes in unapplied sets with who has them durably, and with the primaries what is not held.
func (s *scenario) showHeld(st *cluster.State, g *cluster.Group) {
	from := len(s.lines)
	for n := g.Applied + 1; n <= g.Granted; n++ {
		for _, id := range cluster.SortedKeys(g.Volumes) {
			for p := range uint32((g.Volumes[id].Size + portionSize - 1) / portionSize) {
				portion := wire.Portion{Volume: id, Index: p}
				pair := st.Pair(g, n, portion)
				var owner, mirror, others []string
				for _, h := range s.w.hosts {
					ls := strings.Join(s.inJournal(g, h, n, portion), " ")
					switch {
					case !h.backup || ls == "":
					case h.id == pair.Owner:
						owner = []string{"owner " + s.name(h.id) + " has " + ls}
					case h.id == pair.Mirror:
						mirror = []string{"mirror " + s.name(h.id) + " has " + ls}
					default:
						lost := ""
						if !st.IsMember(h.id) {
							lost = ", lost,"
						}
						others = append(others, s.name(h.id)+lost+" has "+ls)
					}
				}
				parts := slices.Concat(owner, mirror, others)
				if len(parts) > 0 {
					s.say("set %d, %s portion %d: %s", n, g.Volumes[id].Name, p, strings.Join(parts, ", "))
				}
			}
		}
	}
	for _, h := range s.w.hosts {
		if h.node == nil || len(h.sources) == 0 {
			continue
		}
		v, _ := h.node.View(s.w.group)
		var ls []string
		for _, p := range s.places {
			if p.inc == v.Inc && p.seq > v.HeldUpTo {
				ls = append(ls, p.label)
			}
		}
		if len(ls) > 0 {
			s.say("%s keeps %s: not held yet", s.name(h.id), strings.Join(ls, " "))
		}
	}
	if len(s.lines) == from {
		s.say("nothing is held: all of it is applied")
	}
}

// inJournal lists the script's writes to a portion that a host's journal holds and that count.
func (s *scenario) inJournal(g *cluster.Group, h *host, n wire.Set, p wire.Portion) []string {
	var ls []string
	for _, r := range h.journal.records() {
		inc := g.Inc(r.body.Incarnation)
		if r.set != n || !r.durable || inc == nil {
			continue
		}
		for i := range r.body.Updates {
			u := &r.body.Updates[i]
			if u.PortionID() == p && (!inc.Sealed || u.Seq <= inc.Seal) {
				ls = append(ls, s.labels(u)...)
			}
		}
	}
	slices.Sort(ls)
	return slices.Compact(ls)
}

func (s *scenario) incLine(g *cluster.Group, x *cluster.Incarnation) string {
	line := s.inc(x.ID)
	switch {
	case x.First == 0:
		line += ": no set yet"
	case x.Sealed && x.Last < x.First:
		line += ": no set"
	case x.Sealed:
		line += fmt.Sprintf(": sets %d to %d", x.First, x.Last)
	default:
		line += fmt.Sprintf(": from set %d", x.First)
	}
	switch {
	case x.Sealed:
		line += ", sealed" + s.below(g, x)
	case x.Ended:
		line += ", ended"
	}
	if x.Whole == 0 {
		line += ", not whole"
	}
	return line
}

// showVolumes compares sources and targets.
func (s *scenario) showVolumes(g *cluster.Group) {
	targets := s.w.oracle.group(s.w.group).targets(false)
	for _, id := range cluster.SortedKeys(g.Volumes) {
		var source []uint64
		for _, h := range s.w.hosts {
			if d := h.sources[id]; d != nil {
				source = d.now
			}
		}
		if v := g.Volumes[id]; v.Removed != nil {
			s.say("%s: removed at set %d, source %s, target %s", v.Name, v.Removed.Point.Set, s.blocks(source), s.blocks(targets[id]))
		} else if slices.Equal(source, targets[id]) {
			s.say("%s: source and target %s", g.Volumes[id].Name, s.blocks(source))
		} else {
			s.say("%s: source %s, target %s", g.Volumes[id].Name, s.blocks(source), s.blocks(targets[id]))
		}
	}
}

// blocks writes a volume's contents down: the script's writes, block by block.
func (s *scenario) blocks(d []uint64) string {
	var out []string
	for b, v := range d {
		if l := s.values[v]; l != "" {
			out = append(out, fmt.Sprintf("%d=%s", b, l))
		}
	}
	if len(out) == 0 {
		return "empty"
	}
	return strings.Join(out, " ")
}
