package core

import (
	"slices"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// captain is the Raft leader's part: it grants sets, calls cuts, commits, has sets applied, seals, and declares losses.
// All that it knows beyond the replicated state it was told since its election, and is told again by those who have had
// no effect yet; so a new captain takes over without being handed anything. It proposes what the state does not show yet;
// commands that come twice or too late change nothing.
type captain struct {
	n        *Node
	term     uint64
	since    time.Duration
	heard    map[wire.AgentID]*heard
	joined   map[uint64]time.Duration // when a life was first seen among the members
	groups   map[wire.GroupID]*groupWatch
	apart    map[[2]wire.AgentID]time.Duration // since when two members find no way to each other for updates
	confAt   time.Duration
	loseAt   time.Duration // no loss is declared before, in loseView
	loseView wire.View
	leaveAt  time.Duration
	// abandonAt is before when no chain is given up.
	abandonAt time.Duration
	balance   balance
	tickAt    time.Duration // of the newest tick
}

// heard is the newest status of an agent.
type heard struct {
	at     time.Duration // when a status came whose answer the agent has seen: it hears, and is heard
	st     *Status
	groups map[wire.Incarnation]*GroupStatus // those of st
	rounds [64]arrival                       // the newest statuses, by their rounds
}

type arrival struct {
	round uint64
	at    time.Duration
}

// groupWatch is what the captain follows of one group.
type groupWatch struct {
	id      wire.GroupID
	done    map[incSet]*setDone
	reports map[wire.Incarnation]map[wire.AgentID][]*Report // pages of the newest round
	news    bool                                            // of reports, or of seals, since they were last looked at
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
	proposed map[string]time.Duration     // not to repeat a proposal while it may be under way
	lacking  map[wire.Incarnation]lacking // the ended incarnations whose seal waits for second copies
	markAt   time.Duration
	calm     time.Duration // since when the writes of a degraded group are held in time, 0 while they are not
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
	return &captain{n: n, term: term, since: n.now, heard: map[wire.AgentID]*heard{}, joined: map[uint64]time.Duration{}, groups: map[wire.GroupID]*groupWatch{}, balance: newBalance(), tickAt: n.now}
}

func (c *captain) watch(id wire.GroupID) *groupWatch {
	w := c.groups[id]
	if w == nil {
		w = &groupWatch{
			id: id, done: map[incSet]*setDone{}, reports: map[wire.Incarnation]map[wire.AgentID][]*Report{}, seen: map[wire.Incarnation]GroupStatus{},
			openAt: map[wire.Set]int64{}, proposed: map[string]time.Duration{}, lacking: map[wire.Incarnation]lacking{},
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
	w.news = w.news || len(pages) == m.Pages
}

func (c *captain) status(from wire.AgentID, m *Status) {
	h := c.heard[from]
	if h == nil {
		h = &heard{at: c.n.now}
		c.heard[from] = h
	}
	if h.st != nil && m.Run == h.st.Run && m.Round <= h.st.Round {
		return // overtaken
	}
	if h.st != nil && m.Run != h.st.Run {
		h.rounds = [64]arrival{}
	}
	h.st, h.groups = m, make(map[wire.Incarnation]*GroupStatus, len(m.Groups))
	c.noteWork(from, m)
	h.rounds[m.Round%64] = arrival{m.Round, c.n.now}
	if a := h.rounds[m.Seen%64]; m.Seen != 0 && a.round == m.Seen {
		h.at = max(h.at, a.at)
	}
	c.n.send(from, &CaptainSees{Run: m.Run, Round: m.Round, Rooms: c.rooms(m)})
	for i := range m.Groups {
		gs := &m.Groups[i]
		h.groups[gs.Inc] = gs
	}
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
	if h := c.heard[inc.Primary]; h != nil {
		return h.groups[inc.ID]
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
		for id := range w.lacking {
			if inc := g.Inc(id); inc == nil || inc.Sealed {
				delete(w.lacking, id)
			}
		}
		for id := range w.seen {
			if g.Inc(id) == nil {
				delete(w.seen, id)
			}
		}
		p := &w.progress
		if p.applied != g.Applied || p.view != st.View || p.sealed != sealed {
			w.news = w.news || p.sealed != sealed
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
	c.slept()
	c.members()
	c.voters()
	now := &cluster.Grant{Shares: st.Shares()}
	c.weigh(&now.Shares)
	for _, id := range cluster.SortedKeys(st.Groups) {
		g := st.Groups[id]
		w := c.watch(id)
		switch g.Phase {
		case cluster.Replicating:
			c.grant(g, w, now)
			c.callCut(g, w)
			c.seal(g, w)
			c.advance(g, w)
			c.giveUp(g, w)
			c.abandon(g)
			c.scheduleCheck(g, w)
			c.degrade(g, w)
		case cluster.Promoting:
			c.seal(g, w)
			c.advance(g, w)
			c.giveUp(g, w)
			c.final(g, w)
		}
	}
}

// slept takes the time in which this agent did not run, as when its machine was suspended, out of the silence of others and
// out of what has not moved, not come or stayed well: nobody was heard in it, for nobody listened. Of the time between two
// ticks a quarter of the limit counts, so a starved captain still finds the dead.
func (c *captain) slept() {
	now := c.n.now
	leap := now - c.tickAt - c.n.cfg.LossAfter/4
	c.tickAt = now
	if leap <= 0 {
		return
	}
	later := func(at *time.Duration) { *at = min(*at+leap, now) }
	for _, h := range c.heard {
		later(&h.at)
	}
	for life, at := range c.joined {
		later(&at)
		c.joined[life] = at
	}
	for pair, at := range c.apart {
		later(&at)
		c.apart[pair] = at
	}
	for _, w := range c.groups {
		later(&w.progress.at)
		for inc, l := range w.lacking {
			later(&l.since)
			w.lacking[inc] = l
		}
		if w.calm != 0 {
			later(&w.calm)
		}
	}
}

// grant keeps a window of sets granted ahead of the primaries, and grants anew when the assignment or the incarnations have
// changed, which ends the running set early. now is the assignment of today.
func (c *captain) grant(g *cluster.Group, w *groupWatch, now *cluster.Grant) {
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
	now.Targets = st.Targets(g)
	changed := last == nil || !slices.Equal(last.Incs, live) || !last.SameAssignment(now)
	if !changed && g.Granted >= open+window/2 {
		return
	}
	if w.once(c.n, "grant") {
		c.n.Propose(cluster.Command{Open: &cluster.Open{
			Group: g.ID, First: g.Granted + 1, Last: g.Granted + window, View: st.View,
		}})
	}
}
