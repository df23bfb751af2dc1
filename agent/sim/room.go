package sim

import (
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
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
	return limit == 0 || h.journal.used+r.size() <= limit
}

// tellJournal tells the node how full the journal is.
func (h *host) tellJournal() {
	if limit := h.w.journalLimit; h.node != nil && h.backup && limit != 0 {
		h.node.SetJournal(h.journal.used, limit, limit/3)
	}
}

// tellNeed tells the node what its next incarnation would copy in a chain.
func (h *host) tellNeed() {
	need := int64(0)
	vols := h.node.State().Groups[h.w.group].Volumes
	for id, v := range h.primary {
		if vol := vols[id]; vol != nil && vol.CopiedAt != 0 && vol.Removed == nil {
			need += int64(v.ext.Marked()) * extentTakes
		}
	}
	h.node.SetNeed(h.time(), h.w.group, need)
}

// How the primary's shell looks after its queue where journals are small.
const (
	queueLimit = 16 << 10
	stallAfter = 2 * time.Second
	suspendFor = time.Second
)

// overload suspends an async group whose queue is long and has not moved for a while, as the shell does, and lets it
// attach again.
func (h *host) overload(v core.GroupView) {
	switch {
	case h.w.journalLimit == 0 || v.Mode != cluster.Async:
	case h.suspended:
		if h.time()-h.movedAt >= suspendFor {
			h.suspended = false
			h.node.Unsuspend(h.time(), h.w.group)
		}
	case v.Inc == 0 || v.Queued < queueLimit || v.HeldUpTo != h.heldUpTo:
		h.heldUpTo, h.movedAt = v.HeldUpTo, h.time()
	case h.time()-h.movedAt >= stallAfter:
		h.w.trace("host %d suspends the group", h.id)
		h.suspended, h.movedAt = true, h.time()
		h.node.Suspend(h.time(), h.w.group)
	}
}

// allowInconsistent is the operator's word that a resync may be applied in place. It reports whether there is one.
func (w *World) allowInconsistent() bool {
	g := w.newest().Groups[w.group]
	if g.Phase != cluster.Replicating || len(g.Resyncing()) == 0 {
		return false
	}
	w.ask(func(n *core.Node) {
		w.trace("asked of %d: allow inconsistent targets", n.ID())
		n.Propose(cluster.Command{AllowInconsistent: &cluster.AllowInconsistent{Group: w.group}})
	})
	return true
}

// patience is how long the operator looks at a resync that has no room.
const patience = 3 * time.Second

// operate has the operator allow it when, in peace, a resync waits for room. In a sync group nothing that was acknowledged is
// dropped for want of room, so there the operator makes some.
func (w *World) operate() {
	if w.stats.SyncRuns > 0 {
		w.journalLimit = 0
		for _, h := range w.hosts {
			if h.node != nil && h.backup {
				h.node.SetJournal(0, 0, 0)
			}
		}
	}
	since := time.Duration(0)
	var look func()
	look = func() {
		if w.waitsForRoom() {
			if since == 0 {
				since = w.now
			}
			if w.now-since >= patience && w.allowInconsistent() {
				w.stats.InPlace++
				since = 0
			}
		} else {
			since = 0
		}
		w.after(200*time.Millisecond, "operator looks", look)
	}
	look()
}

// waitsForRoom reports whether a primary has said so to the captain.
func (w *World) waitsForRoom() bool {
	n := w.captain()
	if n == nil {
		return false
	}
	for _, heard := range n.Heard() {
		for i := range heard.Status.Groups {
			if heard.Status.Groups[i].NoRoom {
				return true
			}
		}
	}
	return false
}
