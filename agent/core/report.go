package core

import (
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// report tells the captain what is held of incarnations that have ended and whose end is not settled: not sealed, or
// sealed without a manifest for the last set. The incarnation is fenced here before this is listed, and what had been
// taken of it before is on the disk or refused, so nothing that is not listed can be held later (P4).
func (c *component) report() {
	st := c.n.state
	if c.lost || c.n.now < c.reportAt || !st.IsMember(c.n.cfg.ID) {
		return
	}
	c.reportAt = c.n.now + c.n.cfg.RetryEvery
	c.offer()
	for _, id := range cluster.SortedKeys(st.Groups) {
		g := st.Groups[id]
		for _, inc := range g.Incs {
			if inc.Ended && (!inc.Sealed || (!inc.Marked && inc.Last > g.Committed)) && (!c.storing(inc) || c.n.mutant("report-while-storing")) {
				for _, r := range c.holdings(g, inc) {
					c.n.send(c.n.control.lead(), r)
				}
			}
		}
	}
}

// reportSoon is how soon what changed of an incarnation that is not sealed is reported.
const reportSoon = 20 * time.Millisecond

// storing reports whether updates of an incarnation are on their way to the journal.
func (c *component) storing(inc *cluster.Incarnation) bool {
	for _, f := range c.frames {
		if !f.durable && f.entries[0].h.Inc == inc.ID {
			return true
		}
	}
	return false
}

// holdings makes the pages of a report.
func (c *component) holdings(g *cluster.Group, inc *cluster.Incarnation) []*Report {
	c.reportNo++
	page := func() *Report {
		return &Report{Group: g.ID, Inc: inc.ID, View: c.n.state.View, Round: c.reportNo, From: inc.CommittedSeq}
	}
	r, numbers := page(), 0
	pages := []*Report{r}
	for _, s := range c.order {
		if s.group != g.ID {
			continue
		}
		for _, h := range s.ascending() {
			if h.Inc != inc.ID {
				continue
			}
			if seqs, more := h.list(inc.CommittedSeq); len(seqs) > 0 {
				if numbers += len(seqs) + len(more); numbers > maxNumbers && len(r.Held) > 0 {
					r, numbers = page(), len(seqs)+len(more)
					pages = append(pages, r)
				}
				r.Held = append(r.Held, Holding{SetPortion: h.SetPortion, Seqs: seqs, More: more})
			}
			if h.Portion.Volume != wire.MarkVolume {
				continue
			}
			for _, e := range h.entries {
				if !e.durable || e.seq <= inc.CommittedSeq {
					continue
				}
				if m, err := DecodeManifest(e.f.updates[e.i].Data); err == nil {
					r.Marks = append(r.Marks, MarkSeen{Set: h.Set, Seq: e.seq, Broken: m.Broken})
				}
			}
		}
	}
	for i, r := range pages {
		r.Page, r.Pages = i, len(pages)
	}
	return pages
}
