package core

import (
	"iter"
	"slices"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

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
	passed []wire.VolumeID                      // that belong to points in the run
}

// take adds the marks of set n.
func (r *run) take(g *cluster.Group, w *groupWatch, n wire.Set) {
	if r.ends == nil {
		r.ends, r.whole = map[wire.Incarnation]wire.Seq{}, map[wire.Incarnation]wire.Set{}
		r.copied, r.broken = map[wire.Incarnation][]wire.VolumeID{}, map[wire.Incarnation]bool{}
	}
	clear(r.broken)
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
			for _, id := range r.copied[inc.ID] {
				if v := g.Volumes[id]; v == nil || v.Says(inc.ID) {
					vs = append(vs, id)
				}
			}
		}
	}
	slices.Sort(vs)
	return vs
}

// pass notes that the end of set n is a recovery point that the run goes on from. Whether or not it is committed by then, a volume
// that belongs to it has to be whole in a later one.
func (r *run) pass(g *cluster.Group, n wire.Set) { r.passed = append(r.passed, r.copiedAt(g, n)...) }

// isPoint reports whether the end of set n, a boundary that is a cut, is a recovery point.
func (c *captain) isPoint(g *cluster.Group, r *run, n wire.Set) bool {
	if c.n.mutant("broken-counts") {
		return true
	}
	copied := append(r.copiedAt(g, n), r.passed...)
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
	if c.n.mutant("removed-counts") {
		for _, v := range g.Volumes {
			if v.Removed != nil && !slices.ContainsFunc(g.Incs, func(inc *cluster.Incarnation) bool { return inc.Primary == v.Primary && inc.Contributes(n) }) {
				return false
			}
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
		cmd.Copies = g.Copies(cmd.Copied)
		for _, id := range cluster.SortedKeys(r.ends) {
			cmd.Ends = append(cmd.Ends, cluster.IncEnd{Inc: id, Seq: r.ends[id], Whole: r.whole[id]})
		}
		if !c.n.mutant("taken-not-said") {
			r.takenIn(g, n, cmd)
		}
		c.n.Propose(cluster.Command{Commit: cmd})
		return
	}
}

// takenIn adds to a commit what is whole by it as a part of the point, and was not by itself: ended incarnations whose
// resync a later one has finished.
func (r *run) takenIn(g *cluster.Group, n wire.Set, cmd *cluster.Commit) {
	for _, p := range g.Primaries() {
		at := g.IncAt(p, n)
		if at == nil || (at.Whole == 0 && r.whole[at.ID] == 0) {
			continue // its volumes are in their first copies, and it is in no point
		}
		for _, inc := range g.Taken(p, n) {
			if r.whole[inc.ID] != 0 {
				continue
			}
			k := slices.IndexFunc(cmd.Ends, func(e cluster.IncEnd) bool { return e.Inc == inc.ID })
			if k < 0 {
				k, cmd.Ends = len(cmd.Ends), append(cmd.Ends, cluster.IncEnd{Inc: inc.ID, Seq: inc.CommittedSeq})
			}
			cmd.Ends[k].Whole = n
		}
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

// giveUp drops unapplied sets as lost when for GiveUpAfter, without a break, nothing has moved though nothing was missing
// that could bring it: then something of the oldest set is gone on all members. Giving up is always safe: what it drops
// is in the bitmaps.
func (c *captain) giveUp(g *cluster.Group, w *groupWatch) {
	if !c.stuck(g, w) {
		w.progress.at = c.n.now
		return
	}
	if c.n.now-w.progress.at >= c.n.cfg.GiveUpAfter && w.once(c.n, "giveup") {
		c.n.event(g.ID, "sets.lost", "from", g.Applied+1, "to", g.Granted, "for", c.n.Waiting(g.ID))
		c.n.Propose(cluster.Command{GiveUp: &cluster.GiveUp{Group: g.ID, View: c.n.state.View, Applied: g.Applied}})
	}
}

// stuck reports whether a set is not complete, though every member is there, none of them waits for a copy, and every
// primary says that all of it is held.
func (c *captain) stuck(g *cluster.Group, w *groupWatch) bool {
	for _, m := range c.n.state.Members {
		if h := c.heard[m]; !c.hears(m, c.n.cfg.LossAfter) || h.st.Component == nil || h.st.Component.Rebuilding {
			return false // what is missing may be on its way to a mirror
		}
	}
	missing := c.firstIncomplete(g, w)
	if missing == 0 {
		return false // nothing is missing: it waits for a cut, a resync or a target
	}
	for _, id := range g.Grant(missing).Incs {
		inc := g.Inc(id)
		if inc == nil || !inc.Contributes(missing) || inc.Sealed {
			continue
		}
		if inc.Ended {
			return false // every member is there: it will be sealed
		}
		if gs := c.groupStatus(inc); gs == nil || gs.HeldSet < missing || !c.hears(inc.Primary, c.n.cfg.LossAfter) {
			return false // it is open, or its primary still has what is missing
		}
	}
	return true
}

// firstIncomplete returns the first set that keeps the others from being committed or applied for want of updates, 0 when
// there is none. While committed sets wait to be applied it looks at no others: those can be recovered.
func (c *captain) firstIncomplete(g *cluster.Group, w *groupWatch) wire.Set {
	last := g.Granted
	if g.Committed > g.Applied {
		last = g.Committed
	}
	for n := g.Applied + 1; n <= last; n++ {
		if !c.all(g, w, n, func(d *setDone) bool { return d.complete }) {
			return n
		}
	}
	return 0
}
