package primary

import (
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/blockdev"
	"flotilla/nbd"
)

// heldWait is a request that is done but for its reply. In sync groups it waits in group.waits; nobody sleeps for it.
type heldWait struct {
	v      *volume
	r      *nbd.Request
	at     placed
	veil   blockdev.RangeGuard
	veiled bool
}

// complete replies.
func (w *heldWait) complete(err error) {
	if w.veiled {
		w.veil.Unlock()
	}
	w.r.Done(err)
	w.v.ops.leave()
}

// heldLocked reports whether the write, and all lower seqs, are held, and a promote would find them: the incarnation is
// whole, and either everything up to the write's seq is held in it, or it is a later one and the volume's copy, which
// began after the write was on the source, is held. Nor need it be held if the group was degraded when the view was taken
// and the write had its place by then: what comes after that may be after the end of the degradation. g.mu is held.
func (w *heldWait) heldLocked(view *core.GroupView) bool {
	if view.Early && w.at.index <= view.Index {
		return true
	}
	if !view.Whole {
		return false
	}
	if view.Inc == w.at.inc {
		return view.HeldUpTo >= w.at.seq
	}
	return w.v.inc == view.Inc && w.v.whole && view.HeldUpTo >= w.v.wholeSeq
}

// tellWaiting tells the node whether clients wait for a sync group that can not hold what they write, for it may degrade then.
func (g *group) tellWaiting(view *core.GroupView) {
	waiting := false
	if view.Mode == cluster.Sync && (view.Open == 0 || !view.Whole) {
		g.mu.Lock()
		waiting = len(g.waits) > 0 || g.blocked.Load() > 0
		g.mu.Unlock()
	}
	if waiting != g.told {
		g.told = waiting
		g.p.loop.Do(func(n *core.Node, now time.Duration) { n.SetWaiting(now, g.id, waiting) })
	}
}

// awaitHeld completes the request when it is held.
func (g *group) awaitHeld(w heldWait) {
	g.mu.Lock()
	closing := g.closing || w.v.closing
	if !closing {
		g.waits = append(g.waits, w)
	}
	g.mu.Unlock()
	if closing {
		w.complete(errClosing)
		return
	}
	g.p.hurry()
	g.p.kick() // what it waits for may have come before it was listed
}

// waitedFor reports whether requests of the group wait for what the watcher tells: writes for being held, others for the end of a
// cut or for an incarnation.
func (g *group) waitedFor() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waits) > 0 || g.changed.awaited()
}

// takeHeldLocked removes what is held from the list and returns it.
func (g *group) takeHeldLocked(out []heldWait) []heldWait {
	kept := g.waits[:0]
	for i := range g.waits {
		if w := &g.waits[i]; w.heldLocked(&g.view) {
			out = append(out, *w)
		} else {
			kept = append(kept, *w)
		}
	}
	clear(g.waits[len(kept):])
	g.waits = kept
	return out
}

// abandonWaits completes everything that waits with an error: the volumes are being closed. What it wrote is on the
// source and marked, but it can not be said to be held.
func (g *group) abandonWaits() {
	g.mu.Lock()
	g.closing = true
	waits := g.waits
	g.waits = nil
	g.mu.Unlock()
	for i := range waits {
		waits[i].complete(errClosing)
	}
}
