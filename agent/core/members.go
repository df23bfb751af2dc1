package core

import (
	"slices"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"

	"go.etcd.io/raft/v3/raftpb"
)

// members declares losses: one view at a time, and never the last component.
func (c *captain) members() {
	st := c.n.state
	joined := map[uint64]time.Duration{}
	for _, m := range st.Members {
		life := st.Agents[m].Life
		if at, ok := c.joined[life]; ok {
			joined[life] = at
		} else {
			joined[life] = c.firstSeen(m)
		}
	}
	c.joined = joined
	c.leaves()
	if (c.n.now < c.loseAt && c.loseView == st.View) || len(st.Members) == 0 {
		return
	}
	c.loseView = st.View
	limit := c.n.cfg.LossAfter
	if len(st.Eligible()) < 2 {
		limit = c.n.cfg.LastLossAfter // new updates have one copy, though a draining member is still there
	}
	if st.Settled != st.View {
		if !c.n.mutant("loss-unsettled") {
			limit = c.n.cfg.LastLossAfter // the silent one may hold the only copy of something
		}
		if c.settled() {
			c.n.Propose(cluster.Command{Settle: &cluster.Settle{View: st.View, MembersAt: st.MembersAt}})
			c.loseAt = c.n.now + c.n.cfg.RetryEvery
			return
		}
	}
	if m, by := c.stranded(); m != 0 {
		c.loseAt = c.n.now + c.n.cfg.RetryEvery
		c.n.Propose(cluster.Command{Lose: &cluster.Lose{Agent: m, View: st.View}})
		c.n.event(0, "component.lost", "agent", m, "not_reached_by", by, "view", st.View+1)
		return
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

// firstSeen returns since when a member's silence counts when it is first looked at: as a rule from now. A new captain has
// asked it before its election whether it reaches it. Where neither this agent nor anybody that it reaches gets an answer,
// that counts, but for a quarter of the limit, in which its status would come.
func (c *captain) firstSeen(m wire.AgentID) time.Duration {
	p := c.n.reach.peers[m]
	if p == nil || !p.down || p.via != 0 {
		return c.n.now
	}
	return max(p.at, c.n.now-c.n.cfg.LossAfter*3/4)
}

// stranded returns the member to be declared lost because others find no way to it for updates, though the captain hears it:
// of two that do not reach each other one must go, or nothing is held twice any more. It is the one that most others miss, and
// of those the one that came last. While a view is not settled a member may hold the only copy of something: it is alive, and
// what it holds a link away, so it is not declared lost however long that takes.
//
// Both must be alive for it. Who is silent may be what the other misses, or may have said its last word while the other was
// away: half the limit of silence and the two are counted anew, a quarter and nothing is decided yet. Otherwise the one that is
// alive would go first, and the silent one after it.
func (c *captain) stranded() (lost wire.AgentID, by []wire.AgentID) {
	st := c.n.state
	missed := map[wire.AgentID][]wire.AgentID{}
	seen := map[[2]wire.AgentID]time.Duration{}
	for _, m := range st.Members {
		h := c.heard[m]
		if !c.current(m) || !c.hears(m, c.n.cfg.LossAfter/2) {
			continue
		}
		for _, o := range h.st.Component.Stranded {
			if o == m || !st.IsMember(o) || !c.hears(o, c.n.cfg.LossAfter/2) {
				continue
			}
			pair := [2]wire.AgentID{min(m, o), max(m, o)}
			if _, ok := seen[pair]; ok {
				continue
			}
			since, ok := c.apart[pair]
			if !ok {
				since = c.n.now
			}
			seen[pair] = since
			if c.n.now-since >= c.n.cfg.LossAfter && c.hears(m, c.n.cfg.LossAfter/4) && c.hears(o, c.n.cfg.LossAfter/4) {
				missed[m], missed[o] = append(missed[m], o), append(missed[o], m)
			}
		}
	}
	for pair, since := range c.apart {
		if _, ok := seen[pair]; !ok && (!c.current(pair[0]) || !c.current(pair[1])) {
			seen[pair] = since // not yet said again in this view
		}
	}
	c.apart = seen
	for _, m := range cluster.SortedKeys(missed) {
		if st.Settled != st.View && !c.mirrored(m) {
			continue
		}
		if n := len(missed[m]); lost == 0 || n > len(by) || (n == len(by) && st.Agents[m].Life > st.Agents[lost].Life) {
			lost, by = m, missed[m]
		}
	}
	return lost, by
}

// current reports whether a member's newest status is of the view.
func (c *captain) current(m wire.AgentID) bool {
	h := c.heard[m]
	return h != nil && h.st.Component != nil && h.st.View == c.n.state.View
}

// leaves lets the drained components go, one at a time.
func (c *captain) leaves() {
	st := c.n.state
	if c.n.now < c.leaveAt {
		return
	}
	for _, m := range st.Members {
		if st.Agents[m].Drain && st.Uses(m) == nil {
			c.leaveAt = c.n.now + c.n.cfg.RetryEvery
			c.n.event(0, "component.left", "agent", m)
			c.n.Propose(cluster.Command{Leave: &cluster.Leave{Agent: m, MembersAt: st.MembersAt}})
			return
		}
	}
}

// settled reports whether every member has said, knowing the members, that all it owns has its second copy.
func (c *captain) settled() bool {
	st := c.n.state
	for _, m := range st.Members {
		if !c.mirrored(m) {
			return false
		}
	}
	return true
}

// mirrored reports whether a member has said, knowing the members, that all it owns has its second copy.
func (c *captain) mirrored(m wire.AgentID) bool {
	st, h := c.n.state, c.heard[m]
	return h != nil && h.st.Component != nil && !h.st.Component.Rebuilding && h.st.View == st.View && h.st.Applied >= st.MembersAt>>8
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
		if !slices.Contains(known, uint64(id)) && !st.Agents[id].Behind {
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
		func(a *cluster.Agent) bool { return st.IsMember(a.ID) && !a.Drain },
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
