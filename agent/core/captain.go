package core

import (
	"iter"
	"slices"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"

	"go.etcd.io/raft/v3/raftpb"
)

// captain is the Raft leader's part: it grants sets, calls cuts, commits, has sets applied, seals, and declares losses.
// All that it knows beyond the replicated state it was told since its election, and is told again by those who have had
// no effect yet; so a new captain takes over without being handed anything. It proposes what the state does not show yet;
// commands that come twice or too late change nothing.
type captain struct {
	n      *Node
	term   uint64
	since  time.Duration
	heard  map[wire.AgentID]*heard
	joined map[uint64]time.Duration // when a life was first seen among the members
	groups map[wire.GroupID]*groupWatch
	confAt time.Duration
	loseAt time.Duration
}

// heard is the newest status of an agent.
type heard struct {
	at time.Duration
	st *Status
}

// groupWatch is what the captain follows of one group.
type groupWatch struct {
	id      wire.GroupID
	done    map[incSet]*setDone
	reports map[wire.Incarnation]map[wire.AgentID][]*Report // pages of the newest round
	seen    map[wire.Incarnation]GroupStatus                // the last word of each incarnation's primary
	openAt  map[wire.Set]int64                              // label of the last moment at which the set was not known to be closed

	cut cutter

	// progress is what last moved, for GiveUp.
	progress struct {
		applied wire.Set
		view    wire.View
		sealed  int
		at      time.Duration
	}
	proposed map[string]time.Duration // not to repeat a proposal while it may be under way
	markAt   time.Duration
}

// setDone is what the owner of a mark said.
type setDone struct {
	view              wire.View
	complete, written bool
	last              wire.Seq
	broken            bool
	copied            []wire.VolumeID
}

func newCaptain(n *Node, term uint64) *captain {
	return &captain{n: n, term: term, since: n.now, heard: map[wire.AgentID]*heard{}, joined: map[uint64]time.Duration{}, groups: map[wire.GroupID]*groupWatch{}}
}

func (c *captain) watch(id wire.GroupID) *groupWatch {
	w := c.groups[id]
	if w == nil {
		w = &groupWatch{
			id: id, done: map[incSet]*setDone{}, reports: map[wire.Incarnation]map[wire.AgentID][]*Report{}, seen: map[wire.Incarnation]GroupStatus{},
			openAt: map[wire.Set]int64{}, proposed: map[string]time.Duration{},
		}
		w.progress.at = c.n.now
		c.groups[id] = w
	}
	return w
}

func (c *captain) receive(from wire.AgentID, msg Message) {
	st := c.n.state
	switch m := msg.(type) {
	case *Status:
		c.status(from, m)
	case *Paused:
		if g := st.Groups[m.Group]; g != nil {
			c.paused(g, c.watch(m.Group), from, m)
		}
	case *Confirm:
		if g := st.Groups[m.Group]; g != nil {
			c.confirm(g, c.watch(m.Group), from, m)
		}
	case *SetDone:
		c.setDone(from, m)
	case *Report:
		if g := st.Groups[m.Group]; g != nil && m.View == st.View && st.IsMember(from) && g.Inc(m.Inc) != nil {
			w := c.watch(m.Group)
			w.report(from, m)
			c.seal(g, w)
		}
	}
}

// maxPages bounds the pages of one report.
const maxPages = 1024

// report keeps the pages of an agent's newest round.
func (w *groupWatch) report(from wire.AgentID, m *Report) {
	if m.Pages < 1 || m.Pages > maxPages || m.Page < 0 || m.Page >= m.Pages || !bounded(m.Held) {
		return
	}
	if w.reports[m.Inc] == nil {
		w.reports[m.Inc] = map[wire.AgentID][]*Report{}
	}
	pages := w.reports[m.Inc][from]
	if len(pages) > 0 && m.Round == pages[0].Round {
		for _, p := range pages {
			if p.Page == m.Page {
				return
			}
		}
		pages = append(pages, m)
	} else if len(pages) == 0 || len(pages) == pages[0].Pages || m.Round > pages[0].Round {
		pages = []*Report{m} // another round; a restarted agent counts from one again
	}
	w.reports[m.Inc][from] = pages
}

func (c *captain) status(from wire.AgentID, m *Status) {
	h := c.heard[from]
	if h == nil {
		h = &heard{}
		c.heard[from] = h
	}
	if h.st != nil && m.Run == h.st.Run && m.Round <= h.st.Round {
		return // overtaken
	}
	h.at, h.st = c.n.now, m
	c.n.send(from, &CaptainSees{Round: m.Round})
	for i := range m.Groups {
		gs := &m.Groups[i]
		if g := c.n.state.Groups[gs.Group]; g != nil {
			w := c.watch(g.ID)
			if inc := g.Inc(gs.Inc); inc != nil && inc.Primary == from {
				w.seen[gs.Inc] = *gs
			}
			c.labelOpen(g, w)
		}
	}
}

// labelOpen remembers when each set was last seen open: the label of its end must not be later than its boundary.
func (c *captain) labelOpen(g *cluster.Group, w *groupWatch) {
	open := c.maxOpen(g)
	for n := max(g.Committed+1, 1); n <= g.Granted; n++ {
		if n < open {
			continue
		}
		w.openAt[n] = c.n.Label()
		break
	}
	for n := range w.openAt {
		if n <= g.Committed {
			delete(w.openAt, n)
		}
	}
}

// maxOpen is the highest set that a live primary has reported open.
func (c *captain) maxOpen(g *cluster.Group) wire.Set {
	var open wire.Set
	for _, inc := range g.Incs {
		if inc.Ended {
			continue
		}
		if gs := c.groupStatus(inc); gs != nil {
			open = max(open, gs.Open)
		}
	}
	return open
}

// groupStatus is the newest word of an incarnation's primary about it, or nil.
func (c *captain) groupStatus(inc *cluster.Incarnation) *GroupStatus {
	h := c.heard[inc.Primary]
	if h == nil || h.st == nil {
		return nil
	}
	for i := range h.st.Groups {
		if h.st.Groups[i].Inc == inc.ID {
			return &h.st.Groups[i]
		}
	}
	return nil
}

// hears reports whether an agent was heard within d.
func (c *captain) hears(a wire.AgentID, d time.Duration) bool {
	if h := c.heard[a]; h != nil {
		return c.n.now-h.at < d
	}
	return false
}

func (c *captain) setDone(from wire.AgentID, m *SetDone) {
	st := c.n.state
	g := st.Groups[m.Group]
	if g == nil || m.View != st.View || m.Set <= g.Applied {
		return
	}
	inc := g.Inc(m.Inc)
	if inc == nil || st.Pair(g, m.Set, wire.MarkPortion(inc.Primary)).Owner != from {
		return
	}
	w := c.watch(m.Group)
	key := incSet{m.Group, m.Set, m.Inc}
	d := w.done[key]
	if d == nil || d.view != m.View {
		d = &setDone{view: m.View}
		w.done[key] = d
	}
	d.complete = true
	d.written = d.written || m.Written
	d.last, d.broken, d.copied = m.Last, m.Broken, m.Copied
	c.advance(g, w)
}

// stateChanged drops what an older view was told.
func (c *captain) stateChanged() {
	st := c.n.state
	for _, id := range cluster.SortedKeys(c.groups) {
		w := c.groups[id]
		g := st.Groups[id]
		if g == nil {
			delete(c.groups, id)
			continue
		}
		for key, d := range w.done {
			if key.set <= g.Applied || d.view != st.View {
				delete(w.done, key)
			}
		}
		for id := range w.reports {
			if inc := g.Inc(id); inc == nil || (inc.Sealed && (inc.Marked || inc.Last <= g.Committed)) {
				delete(w.reports, id)
				continue
			}
			for a, pages := range w.reports[id] {
				if pages[0].View != st.View {
					delete(w.reports[id], a)
				}
			}
		}
		sealed := 0
		for _, inc := range g.Incs {
			if inc.Sealed {
				sealed++
			}
		}
		for id := range w.seen {
			if g.Inc(id) == nil {
				delete(w.seen, id)
			}
		}
		p := &w.progress
		if p.applied != g.Applied || p.view != st.View || p.sealed != sealed {
			p.applied, p.view, p.sealed, p.at = g.Applied, st.View, sealed, c.n.now
		}
		c.advance(g, w)
	}
}

// once reports whether a proposal of this name is due, and notes that it is made.
func (w *groupWatch) once(n *Node, name string) bool {
	if at, ok := w.proposed[name]; ok && n.now < at {
		return false
	}
	if len(w.proposed) > 256 {
		clear(w.proposed)
	}
	w.proposed[name] = n.now + n.cfg.RetryEvery
	return true
}

func (c *captain) tick() {
	st := c.n.state
	c.members()
	c.voters()
	for _, id := range cluster.SortedKeys(st.Groups) {
		g := st.Groups[id]
		w := c.watch(id)
		switch g.Phase {
		case cluster.Replicating:
			c.grant(g, w)
			c.callCut(g, w)
			c.seal(g, w)
			c.advance(g, w)
			c.giveUp(g, w)
		case cluster.Promoting:
			c.seal(g, w)
			c.advance(g, w)
			c.giveUp(g, w)
			c.final(g, w)
		}
	}
}

// members declares losses: one view at a time, and never the last component.
func (c *captain) members() {
	st := c.n.state
	joined := map[uint64]time.Duration{}
	for _, m := range st.Members {
		life := st.Agents[m].Life
		if at, ok := c.joined[life]; ok {
			joined[life] = at
		} else {
			joined[life] = c.n.now
		}
	}
	c.joined = joined
	if c.n.now < c.loseAt || len(st.Members) == 0 {
		return
	}
	limit := c.n.cfg.LossAfter
	if st.Settled != st.View {
		limit = c.n.cfg.LastLossAfter // the silent one may hold the only copy of something
		if c.settled() {
			c.n.Propose(cluster.Command{Settle: &cluster.Settle{View: st.View, MembersAt: st.MembersAt}})
			c.loseAt = c.n.now + c.n.cfg.RetryEvery
			return
		}
	}
	for _, m := range st.Members {
		at := c.joined[st.Agents[m].Life]
		if h := c.heard[m]; h != nil {
			at = max(at, h.at)
		}
		if c.n.now-at >= limit && len(st.Members) > 1 {
			c.loseAt = c.n.now + c.n.cfg.RetryEvery
			c.n.Propose(cluster.Command{Lose: &cluster.Lose{Agent: m, View: st.View}})
			c.n.event(0, "component.lost", "agent", m, "silent", c.n.now-at, "view", st.View+1)
			return
		}
	}
}

// settled reports whether every member has said, knowing who the members are, that all it owns has its second copy.
func (c *captain) settled() bool {
	st := c.n.state
	for _, m := range st.Members {
		h := c.heard[m]
		if h == nil || h.st.Component == nil || h.st.Component.Rebuilding || h.st.View != st.View || h.st.Applied < st.MembersAt>>8 {
			return false
		}
	}
	return true
}

// voters keeps an odd number of voters on agents that are heard: components first, then secondaries, then primaries.
func (c *captain) voters() {
	st := c.n.state
	if c.n.now < c.confAt || c.n.now-c.since < c.n.cfg.LossAfter {
		return
	}
	c.confAt = c.n.now + c.n.cfg.RetryEvery
	conf := c.n.control.conf
	known := append(slices.Clone(conf.GetVoters()), conf.GetLearners()...)
	for _, id := range cluster.SortedKeys(st.Agents) {
		if !slices.Contains(known, uint64(id)) {
			c.changeConf(confChange(raftpb.ConfChangeType_ConfChangeAddLearnerNode, id))
			return
		}
	}
	for _, id := range known {
		if st.Agents[wire.AgentID(id)] == nil {
			c.changeConf(confChange(raftpb.ConfChangeType_ConfChangeRemoveNode, wire.AgentID(id)))
			return
		}
	}
	var wanted []wire.AgentID
	for _, rank := range []func(*cluster.Agent) bool{
		func(a *cluster.Agent) bool { return st.IsMember(a.ID) },
		func(a *cluster.Agent) bool { return a.Secondary && !a.Backup },
		func(a *cluster.Agent) bool { return a.Primary && !a.Backup && !a.Secondary },
		func(a *cluster.Agent) bool { return true },
	} {
		for _, voting := range []bool{true, false} { // who votes stays
			for _, id := range cluster.SortedKeys(st.Agents) {
				votes := slices.Contains(conf.GetVoters(), uint64(id))
				if rank(st.Agents[id]) && votes == voting && !slices.Contains(wanted, id) && c.hears(id, c.n.cfg.LossAfter) {
					wanted = append(wanted, id)
				}
			}
		}
	}
	// The size follows how many there are, not how many are heard: a silent voter leaves when another takes its place.
	size := 1
	if len(st.Agents) >= 3 {
		size = 3
	}
	if len(st.Members) >= 5 {
		size = 5
	}
	wanted = wanted[:min(size, len(wanted))]
	if len(wanted) < size {
		return
	}
	if !slices.Contains(wanted, c.n.cfg.ID) {
		c.n.control.raft.TransferLeader(uint64(wanted[0]))
		return
	}
	var changes []*raftpb.ConfChangeSingle
	for _, id := range wanted {
		if !slices.Contains(conf.GetVoters(), uint64(id)) {
			changes = append(changes, confChange(raftpb.ConfChangeType_ConfChangeAddNode, id))
		}
	}
	for _, v := range conf.GetVoters() {
		if id := wire.AgentID(v); !slices.Contains(wanted, id) {
			changes = append(changes, confChange(raftpb.ConfChangeType_ConfChangeAddLearnerNode, id))
		}
	}
	if len(changes) > 0 {
		c.changeConf(changes...)
	}
}

func confChange(t raftpb.ConfChangeType, id wire.AgentID) *raftpb.ConfChangeSingle {
	return &raftpb.ConfChangeSingle{Type: t.Enum(), NodeId: new(uint64(id))}
}

// changeConf proposes changes of the membership; several are one joint change, which Raft leaves by itself.
func (c *captain) changeConf(changes ...*raftpb.ConfChangeSingle) {
	// Refused while another change is under way; the next tick asks again.
	_ = c.n.control.raft.ProposeConfChange(&raftpb.ConfChangeV2{Changes: changes})
}

// grant keeps a window of sets granted ahead of the primaries, and grants anew when the members or the incarnations have
// changed, which ends the running set early.
func (c *captain) grant(g *cluster.Group, w *groupWatch) {
	st := c.n.state
	var live []wire.Incarnation
	for _, inc := range g.Incs {
		if !inc.Ended {
			live = append(live, inc.ID)
		}
	}
	if len(live) == 0 || len(st.Members) == 0 {
		return
	}
	window := wire.Set(min(max(1000/g.PeriodMS, 4), 32))
	open := c.maxOpen(g)
	var last *cluster.Grant
	if len(g.Grants) > 0 {
		last = &g.Grants[len(g.Grants)-1]
	}
	changed := last == nil || !slices.Equal(last.Incs, live) || !slices.Equal(last.Members, st.Members)
	if !changed && g.Granted >= open+window/2 {
		return
	}
	if w.once(c.n, "grant") {
		c.n.Propose(cluster.Command{Open: &cluster.Open{
			Group: g.ID, First: g.Granted + 1, Last: g.Granted + window, View: st.View,
		}})
	}
}

// advance commits what is complete up to a recovery point, has committed sets applied, and records applied ones.
func (c *captain) advance(g *cluster.Group, w *groupWatch) {
	if g.Phase != cluster.Replicating && g.Phase != cluster.Promoting {
		return
	}
	c.commit(g, w)
	st := c.n.state
	if g.ApplyTo < g.Committed && w.once(c.n, "applyto"+label(g.Committed)) {
		c.n.Propose(cluster.Command{ApplyTo: &cluster.ApplyTo{Group: g.ID, UpTo: g.Committed, View: st.View}})
	}
	if n := g.Applied + 1; n <= g.ApplyTo && c.all(g, w, n, func(d *setDone) bool { return d.written }) {
		if w.once(c.n, "applied"+label(n)) {
			c.n.Propose(cluster.Command{Applied: &cluster.Applied{Group: g.ID, Set: n, View: st.View}})
		}
	}
}

func label(n wire.Set) string {
	var b [8]byte
	for i := range b {
		b[i] = byte(n >> (8 * i))
	}
	return string(b[:])
}

// all reports whether every incarnation that contributes to set n has said what ok asks for, in this view.
func (c *captain) all(g *cluster.Group, w *groupWatch, n wire.Set, ok func(*setDone) bool) bool {
	gr := g.Grant(n)
	if gr == nil {
		return false
	}
	for _, id := range gr.Incs {
		inc := g.Inc(id)
		if inc == nil || !inc.Contributes(n) {
			continue
		}
		if inc.Ended && !inc.Sealed {
			return false
		}
		d := w.done[incSet{g.ID, n, id}]
		if d == nil || d.view != c.n.state.View || !ok(d) {
			return false
		}
	}
	return true
}

// parts iterates over what was said of set n by the owners of its marks, of the incarnations that count in it.
func (w *groupWatch) parts(g *cluster.Group, n wire.Set) iter.Seq2[wire.Incarnation, *setDone] {
	return func(yield func(wire.Incarnation, *setDone) bool) {
		for _, id := range g.Grant(n).Incs {
			inc, d := g.Inc(id), w.done[incSet{g.ID, n, id}]
			if inc != nil && inc.Contributes(n) && d != nil && !yield(id, d) {
				return
			}
		}
	}
}

// run is what the sets after Committed say together, up to one of them.
type run struct {
	ends   map[wire.Incarnation]wire.Seq
	whole  map[wire.Incarnation]wire.Set
	copied map[wire.Incarnation][]wire.VolumeID // as its marks in the run say
	broken map[wire.Incarnation]bool            // in the last set taken
}

// take adds the marks of set n.
func (r *run) take(g *cluster.Group, w *groupWatch, n wire.Set) {
	if r.ends == nil {
		r.ends, r.whole = map[wire.Incarnation]wire.Seq{}, map[wire.Incarnation]wire.Set{}
		r.copied = map[wire.Incarnation][]wire.VolumeID{}
	}
	r.broken = map[wire.Incarnation]bool{}
	for id, d := range w.parts(g, n) {
		r.broken[id] = d.broken
		r.ends[id] = d.last
		if len(d.copied) > 0 { // a seal's manifest does not say it again
			r.copied[id] = d.copied
		}
		if !d.broken && r.whole[id] == 0 {
			r.whole[id] = n
		}
	}
}

// copiedAt lists the volumes whose first copy is whole at the end of set n: only the incarnation that writes there can
// say so, for a later one copies anew.
func (r *run) copiedAt(g *cluster.Group, n wire.Set) []wire.VolumeID {
	var vs []wire.VolumeID
	for _, p := range g.Primaries() {
		if inc := g.IncAt(p, n); inc != nil {
			vs = append(vs, r.copied[inc.ID]...)
		}
	}
	slices.Sort(vs)
	return vs
}

// isPoint reports whether the end of set n, a boundary that is a cut, is a recovery point.
func (c *captain) isPoint(g *cluster.Group, r *run, n wire.Set) bool {
	if c.n.mutant("broken-counts") {
		return true
	}
	copied := r.copiedAt(g, n)
	for id, broken := range r.broken {
		if inc := g.Inc(id); broken && inc != nil && g.AnyCopied(inc.Primary, copied) {
			return false
		}
	}
	for _, p := range g.Primaries() {
		if !g.WholeAt(p, n, r.whole, copied) {
			return false
		}
	}
	return true
}

// commit proposes the next run of complete sets that ends at a recovery point: one set as a rule, a chain when there are
// void or broken ones before it.
func (c *captain) commit(g *cluster.Group, w *groupWatch) {
	st := c.n.state
	var r run
	for n := g.Committed + 1; n <= g.Granted; n++ {
		if g.FinalChosen && n > g.Final {
			return
		}
		if !c.all(g, w, n, func(d *setDone) bool { return d.complete }) {
			return
		}
		r.take(g, w, n)
		cut, decided := g.Verdict(n)
		if g.FinalChosen && n == g.Final {
			cut, decided = true, true // the end of all seals
		}
		if !decided {
			return
		}
		if !cut || !c.isPoint(g, &r, n) {
			continue
		}
		if !w.once(c.n, "commit"+label(n)) {
			return
		}
		cmd := &cluster.Commit{Group: g.ID, UpTo: n, View: st.View, Label: w.label(n), Copied: r.copiedAt(g, n)}
		for _, id := range cluster.SortedKeys(r.ends) {
			cmd.Ends = append(cmd.Ends, cluster.IncEnd{Inc: id, Seq: r.ends[id], Whole: r.whole[id]})
		}
		c.n.Propose(cluster.Command{Commit: cmd})
		return
	}
}

// label returns the label of the end of set n: when it, or the last one before it, was last seen open.
func (w *groupWatch) label(n wire.Set) int64 {
	var at int64
	for set, l := range w.openAt {
		if set <= n {
			at = max(at, l)
		}
	}
	return at
}

// giveUp drops unapplied sets as lost when nothing has moved for GiveUpAfter, though every member is there and every
// primary says that all of the oldest set is held: then something of it is gone on all members. Giving up is always
// safe: what it drops is in the bitmaps.
func (c *captain) giveUp(g *cluster.Group, w *groupWatch) {
	st := c.n.state
	if c.n.now-w.progress.at < c.n.cfg.GiveUpAfter || c.n.now-c.since < c.n.cfg.GiveUpAfter {
		return
	}
	for _, m := range st.Members {
		if h := c.heard[m]; !c.hears(m, c.n.cfg.LossAfter) || h.st.Component == nil || h.st.Component.Rebuilding {
			return // what is missing may be on its way to a mirror
		}
	}
	oldest := g.Applied + 1
	if oldest > g.Granted || c.all(g, w, oldest, func(d *setDone) bool { return d.complete && (oldest > g.ApplyTo || d.written) }) {
		return // nothing is missing of it: it waits for a cut, a resync or a target
	}
	if oldest <= g.ApplyTo && c.all(g, w, oldest, func(d *setDone) bool { return d.complete }) {
		return // it is all there and waits for its targets
	}
	for _, id := range g.Grant(oldest).Incs {
		inc := g.Inc(id)
		if inc == nil || !inc.Contributes(oldest) || inc.Sealed {
			continue
		}
		if inc.Ended {
			return // every member is there: it will be sealed
		}
		if gs := c.groupStatus(inc); gs == nil || gs.HeldSet < oldest || !c.hears(inc.Primary, c.n.cfg.LossAfter) {
			return // it is open, or its primary still has what is missing
		}
	}
	if w.once(c.n, "giveup") {
		c.n.event(g.ID, "sets.lost", "from", oldest, "to", g.Granted, "for", c.n.Waiting(g.ID))
		c.n.Propose(cluster.Command{GiveUp: &cluster.GiveUp{Group: g.ID, View: st.View, Applied: g.Applied}})
	}
}
