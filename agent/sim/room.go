package sim

import (
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

const (
	// smallSet is the size at which sets close where journals are small, in bytes.
	smallSet = 8 << 10
	// updateOverhead is what an update takes beside its data.
	updateOverhead = 64
	// extentTakes is what the copy of an extent takes.
	extentTakes = updateOverhead + extentSize/blockSize*8
)

// hasRoom reports whether the journal takes a record; a third of it is for those that are urgent.
func (h *host) hasRoom(r *record, urgent bool) bool {
	limit := h.w.journalLimit
	if limit != 0 && !urgent {
		limit -= limit / 3
	}
	return limit == 0 || h.journal.used+r.size <= limit
}

// tellJournal tells the node how full the journal is.
func (h *host) tellJournal() {
	if limit := h.w.journalLimit; h.node != nil && h.backup && limit != 0 {
		h.node.SetJournal(h.journal.used, limit, limit/3)
	}
}

// tellNeed tells the node what its next incarnation in the group would copy in a chain.
func (s *sourceGroup) tellNeed() {
	need := int64(0)
	st := s.h.node.State()
	g := st.Groups[s.id]
	for _, v := range s.vols {
		vol := g.Volumes[v.id]
		if vol == nil || vol.CopiedAt == 0 || vol.Removed != nil {
			continue
		}
		need += int64(v.ext.Marked()) * extentTakes
		switch {
		case v.ext.Keeps() == 0:
		case v.counts(g):
			need -= int64(v.ext.Keeps()) * extentTakes
		case st.Undecided(g, v.by.inc):
			s.h.node.SetNeed(s.h.time(), s.id, -1)
			return
		}
	}
	s.h.node.SetNeed(s.h.time(), s.id, need)
}

// How the primary's shell looks after its queue where journals are small.
const (
	queueLimit = 16 << 10
	stallAfter = 2 * time.Second
	suspendFor = time.Second
)

// queueSeen is what was last seen of a group's queue.
type queueSeen struct {
	suspended bool
	heldUpTo  wire.Seq
	movedAt   time.Duration // when one of these last changed
}

// overload suspends an async group whose queue is long and has not moved for a while, as the shell does, and lets it
// attach again.
func (s *sourceGroup) overload(v core.GroupView) {
	q, now := &s.queue, s.h.time()
	switch {
	case q.suspended:
		if now-q.movedAt >= suspendFor {
			q.suspended = false
			s.h.node.Unsuspend(now, s.id)
		}
	case (s.h.w.journalLimit == 0 && !s.h.w.overload) || (v.Mode != cluster.Async && !v.Early):
	case v.Inc == 0 || v.Queued < queueLimit || v.HeldUpTo != q.heldUpTo:
		q.heldUpTo, q.movedAt = v.HeldUpTo, now
	case now-q.movedAt >= stallAfter:
		s.h.w.trace("host %d suspends group %d", s.h.id, s.id)
		q.suspended, q.movedAt = true, now
		s.h.node.Suspend(now, s.id)
	}
}

// allowInconsistent is the operator's word that a resync may be applied in place. It reports whether there is one.
func (o *groupOracle) allowInconsistent() bool {
	g := o.now()
	if g.Phase != cluster.Replicating || len(g.Resyncing()) == 0 {
		return false
	}
	o.w.ask(func(n *core.Node) {
		o.w.trace("asked of %d: allow inconsistent targets in group %d", n.ID(), o.id)
		n.Propose(cluster.Command{AllowInconsistent: &cluster.AllowInconsistent{Group: o.id}})
	})
	return true
}

// patience is how long the operator looks at a resync that has no room, and longPatience at journals that stay full: of
// committed sets nothing is ever dropped, and what has lost its second copies more than once may find no room for new ones.
const (
	patience     = 3 * time.Second
	longPatience = 20 * time.Second
)

// operate has the operator allow it when, in peace, a resync waits for room. In a sync group nothing that was acknowledged is
// dropped for want of room, so where there is one the operator makes some.
func (w *World) operate() {
	for _, g := range w.oracle.groups {
		if g.now().Mode == cluster.Sync {
			w.journalLimit = 0
		}
	}
	for _, h := range w.hosts {
		if w.journalLimit == 0 && h.node != nil && h.backup {
			h.node.SetJournal(0, 0, 0)
		}
	}
	since, peace := map[wire.GroupID]time.Duration{}, w.now
	var look func()
	look = func() {
		if w.journalLimit != 0 && w.now-peace >= longPatience {
			w.trace("the operator doubles the journals")
			w.journalLimit *= 2
			w.stats.RoomMade++
			peace = w.now
		}
		waiting := w.waitForRoom()
		for _, o := range w.oracle.groups {
			at, ok := since[o.id]
			switch {
			case !waiting[o.id]:
				delete(since, o.id)
			case !ok:
				since[o.id] = w.now
			case w.now-at >= patience && o.allowInconsistent():
				w.stats.InPlace++
				delete(since, o.id)
			}
		}
		w.after(200*time.Millisecond, "operator looks", look)
	}
	look()
}

// waitForRoom returns the groups of which a primary has said so to the captain.
func (w *World) waitForRoom() map[wire.GroupID]bool {
	groups := map[wire.GroupID]bool{}
	if n := w.captain(); n != nil {
		for _, heard := range n.Heard() {
			for i := range heard.Status.Groups {
				if gs := &heard.Status.Groups[i]; gs.NoRoom {
					groups[gs.Group] = true
				}
			}
		}
	}
	return groups
}
