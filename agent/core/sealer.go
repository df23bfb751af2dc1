package core

import (
	"cmp"
	"slices"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// union is what the owners and mirrors together hold of an ended incarnation above what is committed.
type union struct {
	sets  map[wire.Seq]where
	more  []seqRun // where no prefix may end, ascending by their begins
	marks map[wire.Seq]MarkSeen
}

// seqRun is all seqs from lo to hi.
type seqRun struct{ lo, hi wire.Seq }

type where struct {
	set     wire.Set
	portion wire.Portion
	missing int // copies that it has less than the view has room for
}

// gather makes the union of the reports, once every member of the view has reported. An update that was held is durable
// on two of them, or on one in a view that says so; so after a single loss it is in the union. As all are fenced, the
// union does not grow; members bring each other what one of a pair lacks of it.
func (c *captain) gather(g *cluster.Group, w *groupWatch, inc *cluster.Incarnation) (union, bool) {
	if !c.reported(w, inc) {
		return union{}, false
	}
	reports := w.reports[inc.ID]
	u := union{sets: map[wire.Seq]where{}, marks: map[wire.Seq]MarkSeen{}}
	for _, m := range c.n.state.Members {
		for _, r := range reports[m] {
			for _, h := range r.Held {
				pair := c.n.state.Pair(g, h.Set, h.Portion)
				if pair.Owner != m && pair.Mirror != m {
					continue
				}
				if err := h.Seqs.Each(func(s wire.Seq) {
					at, ok := u.sets[s]
					if !ok {
						at = where{set: h.Set, portion: h.Portion, missing: 1}
						if pair.Mirror != 0 {
							at.missing = 2
						}
					}
					at.missing--
					u.sets[s] = at
				}); err != nil {
					return u, false
				}
				if err := h.More.EachRun(func(lo, hi wire.Seq) { u.more = append(u.more, seqRun{lo, hi}) }); err != nil {
					return u, false
				}
			}
			for _, mk := range r.Marks {
				u.marks[mk.Seq] = mk
			}
		}
	}
	u.mergeRuns()
	return u, true
}

// mergeRuns makes one of the runs that overlap or touch.
func (u *union) mergeRuns() {
	slices.SortFunc(u.more, func(a, b seqRun) int { return cmp.Compare(a.lo, b.lo) })
	merged := u.more[:0]
	for _, r := range u.more {
		if n := len(merged); n > 0 && r.lo <= merged[n-1].hi+1 {
			merged[n-1].hi = max(merged[n-1].hi, r.hi)
			continue
		}
		merged = append(merged, r)
	}
	u.more = merged
}

// prefix returns the highest seq up to s, but not below least, at which a prefix may end: it separates neither the pieces of a
// write nor a folded update from its absorber.
func (u *union) prefix(s, least wire.Seq) wire.Seq {
	k, _ := slices.BinarySearchFunc(u.more, s, func(r seqRun, s wire.Seq) int { return cmp.Compare(r.hi, s) })
	if k < len(u.more) && u.more[k].lo <= s {
		s = u.more[k].lo - 1
	}
	return max(s, least)
}

// reported reports whether every member of the view has sent all pages of a report that begins low enough.
func (c *captain) reported(w *groupWatch, inc *cluster.Incarnation) bool {
	for _, m := range c.n.state.Members {
		pages := w.reports[inc.ID][m]
		if c.n.mutant("seal-without-all") && len(pages) == 0 {
			continue
		}
		if len(pages) == 0 || len(pages) != pages[0].Pages || pages[0].View != c.n.state.View || pages[0].From > inc.CommittedSeq {
			return false
		}
	}
	return len(c.n.state.Members) > 0
}

// end returns the longest prefix of the union that separates nothing, and how many copies it lacks to be held: as long
// as it does, a loss may still make it shorter.
func (u *union) end(committed wire.Seq) (seq wire.Seq, missing int) {
	seq = committed
	for {
		at, ok := u.sets[seq+1]
		if !ok {
			break
		}
		missing += max(at.missing, 0)
		seq++
	}
	return u.prefix(seq, committed), missing
}

// lacking is how many copies a seal waits for, and since when it is so many.
type lacking struct {
	missing int
	since   time.Duration
}

// comeToRest reports whether a seal is to wait no longer for second copies: there is none to wait for, or none has come for
// so long that none may ever, because a journal is full or two components do not reach each other.
func (w *groupWatch) comeToRest(n *Node, inc *cluster.Incarnation, missing int) bool {
	if missing == 0 || n.mutant("seal-single-copy") {
		return true
	}
	was, ok := w.lacking[inc.ID]
	if !ok || was.missing != missing {
		was = lacking{missing: missing, since: n.now}
		w.lacking[inc.ID] = was
	}
	return n.now-was.since >= 2*n.cfg.LossAfter
}

// seal records the end of ended incarnations, and stands in for the manifest that a sealed one did not write.
func (c *captain) seal(g *cluster.Group, w *groupWatch) {
	if !w.news {
		return
	}
	w.news = false
	st := c.n.state
	for _, inc := range g.Incs {
		switch {
		case !inc.Ended:
		case !inc.Sealed:
			u, ok := c.gather(g, w, inc)
			if !ok {
				continue
			}
			end, missing := u.end(inc.CommittedSeq)
			if !w.comeToRest(c.n, inc, missing) || !w.once(c.n, "seal"+label(wire.Set(inc.ID))) {
				continue
			}
			s := &cluster.Seal{Group: g.ID, Inc: inc.ID, Seq: end, Last: lastOf(g, inc), Marked: true, View: st.View, Single: missing > 0}
			if s.Seq > inc.CommittedSeq {
				s.Last = max(s.Last, u.sets[s.Seq].set)
				_, s.Marked = u.marks[s.Seq]
			}
			c.n.event(g.ID, "incarnation.sealed", "incarnation", inc.ID, "seq", s.Seq, "set", s.Last, "marked", s.Marked, "missing_copies", missing)
			c.n.Propose(cluster.Command{Seal: s})
		case !inc.Marked && inc.Last > g.Committed && c.n.now >= w.markAt:
			if d := w.done[incSet{g.ID, inc.Last, inc.ID}]; d != nil {
				continue
			}
			w.markAt = c.n.now + c.n.cfg.RetryEvery
			u, ok := c.gather(g, w, inc)
			if !ok {
				continue
			}
			if m, ok := c.sealedManifest(inc, u); ok {
				owner := st.Pair(g, inc.Last, wire.MarkPortion(inc.Primary)).Owner
				c.n.send(owner, &SealMark{
					Group: g.ID, Inc: inc.ID, Primary: inc.Primary, Set: inc.Last, View: st.View, Mark: m,
				})
			}
		}
	}
}

// lastOf is the last set that an incarnation has committed updates in, or the one before its first.
func lastOf(g *cluster.Group, inc *cluster.Incarnation) wire.Set {
	if inc.First == 0 {
		return g.Committed
	}
	return max(g.Committed, inc.First-1)
}

// sealedManifest lists what counts of the last set of a sealed incarnation.
func (c *captain) sealedManifest(inc *cluster.Incarnation, u union) (Manifest, bool) {
	m := Manifest{First: inc.Seal + 1, Last: inc.Seal + 1, Sealed: true, Broken: inc.Whole == 0}
	var newest wire.Seq // what the last mark says holds
	for _, mk := range u.marks {
		if mk.Seq <= inc.Seal && mk.Seq > newest {
			newest, m.Broken = mk.Seq, mk.Broken
		}
	}
	lines := map[wire.Portion]*Tally{}
	for s := inc.CommittedSeq + 1; s <= inc.Seal; s++ {
		at, ok := u.sets[s]
		if !ok {
			return m, false // gone since the seal: the set is lost, and is given up in its time
		}
		if at.set != inc.Last {
			continue
		}
		m.First = min(m.First, s)
		t := lines[at.portion]
		if t == nil {
			t = &Tally{}
			lines[at.portion] = t
		}
		t.add(s)
	}
	for _, p := range portionsOf(lines) {
		m.Lines = append(m.Lines, Line{Portion: p, Tally: *lines[p]})
	}
	return m, true
}

// final chooses the point of a promote, the newest that can be reached, once every incarnation is sealed.
func (c *captain) final(g *cluster.Group, w *groupWatch) {
	if g.FinalChosen {
		return
	}
	lost := cluster.PromoteResult{Known: true}
	var r run
	end := g.Committed
	for _, inc := range g.Incs {
		if !inc.Sealed {
			return
		}
		end = max(end, inc.Last)
	}
	end = min(end, g.Granted)
	// A set counts only when it is complete, manifest of the seal included; so wait until all up to the end are.
	point := g.Committed
	for n := g.Committed + 1; n <= end; n++ {
		if !c.all(g, w, n, func(d *setDone) bool { return d.complete }) {
			return
		}
		r.take(g, w, n)
		// Where a prefix counts, the end of all seals is a point whatever the verdict: in sync whatever an acknowledged
		// write can have depended on is held too. Of a degraded group that is so up to the seals from before.
		cut, decided := g.Verdict(n)
		if ((decided && cut) || (g.PrefixAt(n) && (n == end || (g.Degraded != nil && n == g.Degraded.UpTo)))) && c.isPoint(g, &r, n) {
			point = n
			r.pass(g, n)
		}
	}
	primaries := g.Primaries()
	for _, inc := range g.Incs {
		if inc.First == 0 || !slices.Contains(primaries, inc.Primary) {
			continue // of volumes that were taken out nothing was to be reached
		}
		gs, ok := w.seen[inc.ID]
		if !ok {
			if newest := g.IncAt(inc.Primary, g.Granted); newest == inc {
				lost.Known = false
			}
			continue
		}
		kept := inc.Seal
		if inc.Last > point {
			kept = min(kept, inc.CommittedSeq)
			for n := g.Committed + 1; n <= point; n++ {
				for id, d := range w.parts(g, n) {
					if id == inc.ID {
						kept = max(kept, d.last)
					}
				}
			}
		}
		if gs.Seq > kept {
			lost.Updates += int64(gs.Seq - kept)
			if gs.Seq > 0 {
				lost.Bytes += int64(float64(gs.Bytes) / float64(gs.Seq) * float64(gs.Seq-kept))
			}
		}
	}
	if w.once(c.n, "final") {
		c.n.event(g.ID, "promote.point", "set", point, "lost_updates", lost.Updates)
		c.n.Propose(cluster.Command{Final: &cluster.Final{Group: g.ID, Set: point, View: c.n.state.View, Lost: lost}})
	}
}

// portionsOf returns the portions of a map in ascending order.
func portionsOf[T any](m map[wire.Portion]T) []wire.Portion {
	ps := make([]wire.Portion, 0, len(m))
	for p := range m {
		ps = append(ps, p)
	}
	slices.SortFunc(ps, comparePortions)
	return ps
}
