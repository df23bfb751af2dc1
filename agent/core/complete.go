package core

import (
	"cmp"
	"slices"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// The end of a set, and its way to the targets. The owner of a primary's pseudo-portion holds the set's mark; it hands
// the manifest's lines to the owners, gathers their answers twice (complete, then written) and tells the captain each
// time. All of it is of one view and begins again when the view rises. Whoever has not had an answer repeats itself.

// markTask is one manifest at the owner of its mark.
type markTask struct {
	e        *entry
	manifest *Manifest
	owners   map[wire.AgentID][]Line
	complete map[wire.AgentID]bool
	written  map[wire.AgentID]bool
	sendAt   time.Duration
	applying bool // the state lets the set be applied: the owners were asked anew
	told     struct{ complete, written bool }
}

// applyEventEvery bounds how often a failing apply is an event.
const applyEventEvery = 5 * time.Second

// lineTask is this owner's share of one manifest.
type lineTask struct {
	from     wire.AgentID // owner of the mark
	mark     wire.Seq
	lines    []Line
	complete bool
	applying uint64 // token of the Apply under way
	retryAt  time.Duration
	eventAt  time.Duration
	written  bool
	told     struct{ complete, written bool }
}

// dueMark is a manifest that pollTasks looks at.
type dueMark struct {
	key incSet
	t   *markTask
}

// findMarks makes a task for every mark that this component owns in the view.
func (c *component) findMarks() {
	if !c.newMarks {
		for _, h := range c.marked {
			if c.at(h.Group, h.Set, h.Portion) == h {
				c.findMark(h)
			}
		}
	} else {
		for _, s := range c.order {
			for _, h := range s.marked {
				c.findMark(h)
			}
		}
	}
	c.newMarks = false
	clear(c.marked)
	c.marked = c.marked[:0]
}

func (c *component) findMark(h *holding) {
	key := incSet{h.Group, h.Set, h.Inc}
	if !h.owned || len(h.entries) == 0 {
		return
	}
	if t := c.marks[key]; t != nil && !t.e.gone {
		return
	}
	e := h.entries[len(h.entries)-1]
	m, err := DecodeManifest(e.f.updates[e.i].Data)
	if err != nil {
		c.n.event(h.Group, "manifest.bad", "set", h.Set, "error", err.Error())
		return
	}
	t := &markTask{
		e: e, manifest: m, owners: map[wire.AgentID][]Line{},
		complete: map[wire.AgentID]bool{}, written: map[wire.AgentID]bool{},
	}
	g := c.n.state.Groups[h.Group]
	for _, l := range m.Lines {
		o := c.n.state.Pair(g, h.Set, l.Portion).Owner
		t.owners[o] = append(t.owners[o], l)
	}
	c.marks[key] = t
}

// pollTasks looks at what may have become complete.
func (c *component) pollTasks() {
	if c.newMarks || len(c.marked) > 0 {
		c.findMarks()
	}
	if lead := c.n.control.lead(); lead != c.told {
		c.told = lead // a new captain knows nothing
		for _, t := range c.marks {
			t.told.complete, t.told.written, t.sendAt = false, false, min(t.sendAt, c.n.now)
		}
	}
	due := c.due[:0]
	var g *cluster.Group
	var of wire.GroupID // g's
	group := func(id wire.GroupID) *cluster.Group {
		if id != of {
			g, of = c.n.state.Groups[id], id
		}
		return g
	}
	for key, t := range c.marks {
		if g := group(key.group); g == nil || c.quiet(g, key, t) {
			continue
		}
		due = append(due, dueMark{key, t})
	}
	// Who has waited longest comes first.
	slices.SortFunc(due, func(a, b dueMark) int {
		return cmp.Or(cmp.Compare(a.t.sendAt, b.t.sendAt), compareIncSets(a.key, b.key))
	})
	c.due = due
	repeats := 0
	for _, d := range due {
		if c.pollMark(d.key, d.t, repeats < maxRepeats) {
			repeats++
		}
	}
	lines := c.answers[:0]
	for key, t := range c.tasks {
		if g := group(key.group); g != nil && !c.answered(g, key, t) {
			lines = append(lines, key)
		}
	}
	slices.SortFunc(lines, compareIncSets)
	c.answers = lines
	for _, key := range lines {
		c.pollLines(key, c.tasks[key])
	}
}

// quiet reports whether there is nothing to do for a mark now: its set is not the next to be applied, the captain was told
// that it is complete or it is not, and the time to repeat that has not come.
func (c *component) quiet(g *cluster.Group, key incSet, t *markTask) bool {
	return key.set > g.Applied+1 && c.n.now < t.sendAt && (t.told.complete || len(t.complete) != len(t.owners)) && !c.n.mutant("two-sets-at-once")
}

// answered reports whether the owner of a mark was told of these lines what there is to tell, and their set is not the next
// to be applied.
func (c *component) answered(g *cluster.Group, key incSet, t *lineTask) bool {
	return key.set > g.Applied+1 && t.told.complete && (t.told.written || !t.written) && !c.n.mutant("two-sets-at-once")
}

// inLine reports whether a set is committed and its turn to be applied has not come. There is nothing to do for it but to
// say now and then that it is complete: a captain that was elected since, or did not hear it, would take it for lost.
func (c *component) inLine(g *cluster.Group, key incSet) bool {
	return key.set <= g.Committed && key.set > g.Applied+1 && !c.n.mutant("two-sets-at-once")
}

// maxRepeats bounds the sets that a mark's owner repeats itself about at one poll: the word of a long chain comes to the
// captain bit by bit, and fills no queue.
const maxRepeats = 16

// pollMark hands out lines and tells the captain, and repeats itself if it may and must; it returns whether it did.
func (c *component) pollMark(key incSet, t *markTask, mayRepeat bool) bool {
	g := c.n.state.Groups[key.group]
	if g == nil || !c.held(t.e) {
		return false
	}
	if inc := g.Inc(key.inc); inc == nil || !inc.Contributes(key.set) {
		return false
	}
	applying := key.set == g.Applied+1 && key.set <= g.ApplyTo
	if c.n.mutant("two-sets-at-once") {
		applying = key.set <= g.ApplyTo
	}
	if applying && !t.applying {
		t.applying, t.sendAt = true, 0
	}
	complete, written := len(t.complete) == len(t.owners), applying && len(t.written) == len(t.owners)
	if c.n.mutant("commit-before-complete") {
		complete = true
	}
	repeat := c.n.now >= t.sendAt && mayRepeat
	if repeat {
		t.sendAt = c.n.now + c.n.cfg.RetryEvery
		if complete && c.inLine(g, key) {
			t.sendAt = c.n.now + c.n.cfg.GiveUpAfter/4
		}
		for _, o := range cluster.SortedKeys(t.owners) {
			if !t.complete[o] || (applying && !t.written[o]) {
				c.n.send(o, &Lines{Group: key.group, Set: key.set, Inc: key.inc, View: c.n.state.View, Mark: t.e.seq, Lines: t.owners[o]})
			}
		}
	}
	done := &SetDone{
		Group: key.group, Set: key.set, Inc: key.inc, View: c.n.state.View,
		Last: t.e.seq, Broken: t.manifest.Broken, Copied: t.manifest.Copied,
	}
	if complete && (repeat || !t.told.complete) {
		t.told.complete = true
		c.n.send(c.n.control.lead(), done)
	}
	if written && (repeat || !t.told.written) {
		t.told.written = true
		w := *done
		w.Written = true
		c.n.send(c.n.control.lead(), &w)
	}
	return repeat
}

// held reports whether an entry is durable on as many components as the view has for it.
func (c *component) held(e *entry) bool {
	return !e.gone && e.durable && (e.h.mirror == 0 || e.mirrored)
}

// lines takes an owner's share of a manifest.
func (c *component) lines(from wire.AgentID, m *Lines) {
	g := c.n.state.Groups[m.Group]
	if g == nil || m.View != c.n.state.View || m.Set <= g.Applied || g.Grant(m.Set) == nil {
		return
	}
	inc := g.Inc(m.Inc)
	if inc == nil || !inc.Contributes(m.Set) || c.n.state.Pair(g, m.Set, wire.MarkPortion(inc.Primary)).Owner != from {
		return
	}
	key := incSet{m.Group, m.Set, m.Inc}
	t := c.tasks[key]
	if t == nil || t.from != from || t.mark != m.Mark || !slices.Equal(t.lines, m.Lines) {
		t = &lineTask{from: from, mark: m.Mark, lines: m.Lines}
		c.tasks[key] = t
	}
	t.told.complete, t.told.written = false, false // it asks again: it has not heard
	c.touched, c.poll = true, true
}

// pollLines answers when this owner's lines are complete, and has them written when the state says so.
func (c *component) pollLines(key incSet, t *lineTask) {
	g := c.n.state.Groups[key.group]
	if g == nil {
		return
	}
	if inc := g.Inc(key.inc); inc == nil || !inc.Contributes(key.set) {
		return
	}
	if !t.complete {
		t.complete = true
		for _, l := range t.lines {
			if !c.lineComplete(key, l) {
				t.complete = false
				return
			}
		}
	}
	if !t.told.complete {
		t.told.complete = true
		c.n.send(t.from, &LinesDone{Group: key.group, Set: key.set, Inc: key.inc, View: c.n.state.View, Mark: t.mark})
	}
	if t.written && !t.told.written {
		t.told.written = true
		c.n.send(t.from, &LinesDone{Group: key.group, Set: key.set, Inc: key.inc, View: c.n.state.View, Mark: t.mark, Written: true})
	}
	due := key.set == g.Applied+1 && key.set <= g.ApplyTo
	if c.n.mutant("two-sets-at-once") {
		due = key.set <= g.ApplyTo
	}
	if due && !t.written && t.applying == 0 && c.n.now >= t.retryAt {
		c.apply(key, t)
	}
}

// lineComplete reports whether exactly what the line says is durable here and on another member.
func (c *component) lineComplete(key incSet, l Line) bool {
	h := c.at(key.group, key.set, l.Portion)
	if h == nil || h.Inc != key.inc || !h.owned || h.durable != l.Tally {
		return false
	}
	return h.mirror == 0 || (h.known && h.mirrored == l.Tally)
}

// apply asks the shell to write this owner's share to the targets.
func (c *component) apply(key incSet, t *lineTask) {
	c.nextID++
	t.applying = c.nextID
	a := Apply{Token: t.applying, Group: key.group, Inc: key.inc, Set: key.set, View: c.n.state.View}
	lines := slices.Clone(t.lines)
	slices.SortFunc(lines, func(a, b Line) int { return comparePortions(a.Portion, b.Portion) })
	if c.n.mutant("apply-half") && len(lines) > 1 {
		lines = lines[:len(lines)/2]
	}
	for _, l := range lines {
		for _, e := range c.at(key.group, key.set, l.Portion).entries {
			a.Parts = append(a.Parts, Part{Ref: e.f.ref, Index: int(e.i), Update: &e.f.updates[e.i]})
		}
	}
	c.n.eff.Apply = append(c.n.eff.Apply, a)
}

// ApplyDone says what came of an Apply. After an error it is tried again.
func (n *Node) ApplyDone(now time.Duration, token uint64, err error) {
	n.now = max(n.now, now)
	c := n.comp
	for _, key := range sortedIncSets(c.tasks) {
		t := c.tasks[key]
		if t.applying != token || token == 0 {
			continue
		}
		t.applying = 0
		c.touched, c.poll = true, true
		if err != nil {
			t.retryAt = n.now + n.cfg.RetryEvery
			if n.now >= t.eventAt { // it may be tried for hours
				t.eventAt = n.now + applyEventEvery
				n.event(key.group, "apply.failed", "set", key.set, "error", err.Error())
			}
			return
		}
		t.written = true
		return
	}
}

// linesDone gathers the answers at the owner of the mark.
func (c *component) linesDone(from wire.AgentID, m *LinesDone) {
	t := c.marks[incSet{m.Group, m.Set, m.Inc}]
	if t == nil || m.View != c.n.state.View || t.e.seq != m.Mark || t.owners[from] == nil {
		return
	}
	t.complete[from] = true
	if m.Written {
		t.written[from] = true
	}
	c.touched, c.poll = true, true
}

// sealMark takes the manifest that stands for the one a sealed incarnation did not write.
func (c *component) sealMark(from wire.AgentID, m *SealMark) {
	st := c.n.state
	g := st.Groups[m.Group]
	if g == nil || from != c.n.control.lead() || m.View != st.View || m.Set <= g.Applied || g.Grant(m.Set) == nil {
		return
	}
	inc := g.Inc(m.Inc)
	if inc == nil || !inc.Sealed || inc.Marked || inc.Last != m.Set || inc.Primary != m.Primary || m.Mark.Last != inc.Seal+1 {
		return
	}
	p := wire.MarkPortion(inc.Primary)
	pair := st.Pair(g, m.Set, p)
	if pair.Owner != c.n.cfg.ID {
		return
	}
	if h := c.at(m.Group, m.Set, p); h != nil && len(h.entries) > 0 {
		return // it is here already
	}
	data := m.Mark.Encode()
	u := wire.Update{
		Seq: m.Mark.Last, Volume: p.Volume, Portion: p.Index, Kind: wire.KindMark, Length: uint32(len(data)), Data: data,
	}
	u.Seal(m.Group, m.Inc)
	b := &wire.Body{Group: m.Group, Primary: inc.Primary, Incarnation: m.Inc, Set: m.Set, Updates: []wire.Update{u}}
	f := c.enter(g, b)
	if f == nil {
		return
	}
	c.touched = true
	c.store(f, Store{ID: f.id, Group: m.Group, Set: m.Set, Body: b, Urgent: true})
	if pair.Mirror != 0 {
		c.mirrorFrame(f, wire.Route{Owner: pair.Owner, Mirror: pair.Mirror}, b)
	}
}

func sortedIncSets[T any](m map[incSet]T) []incSet {
	keys := make([]incSet, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compareIncSets)
	return keys
}

func compareIncSets(a, b incSet) int {
	return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.set, b.set), cmp.Compare(a.inc, b.inc))
}
