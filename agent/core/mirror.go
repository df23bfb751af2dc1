package core

import (
	"slices"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// The second copy. While nothing goes wrong a frame goes to the mirror as it came and is acked there. Whenever an owner
// does not know what its mirror holds (after a restart, a change of mirrors, an ack that did not come) it asks, and then
// sends what is missing out of its journal. There is no other way, so there is one to get right.

// mirrorAcked takes the ack of a frame that this owner sent to a mirror. It returns false for a number of another role.
func (c *component) mirrorAcked(from wire.AgentID, no uint64) bool {
	fl := c.flights[no]
	if fl == nil || fl.to != from {
		return false
	}
	c.land(no, fl)
	seen := c.acks[fl.track()]
	seen.note(no, c.n.now)
	c.acks[fl.track()] = seen
	for _, e := range fl.entries {
		c.copiedAt(e, from)
	}
	return true
}

// copiedAt notes that the other component of the pair has an entry on its disk.
func (c *component) copiedAt(e *entry, at wire.AgentID) {
	other := e.h.owner
	if e.h.owned {
		other = e.h.mirror
	}
	if !e.gone && !e.mirrored && at == other {
		e.mirrored = true
		e.h.mirrored.add(e.seq)
		c.acking.changed(e)
	}
}

// land takes a frame off the list of those on their way.
func (c *component) land(no uint64, fl *mirrorFlight) {
	delete(c.flights, no)
	c.touched = true
	if fl.remirror || fl.forward {
		c.flying[fl.to]--
	}
	if fl.remirror {
		for _, h := range flownHoldings(fl) {
			h.flying--
		}
	}
}

func flownHoldings(fl *mirrorFlight) []*holding {
	var hs []*holding
	for _, e := range fl.entries {
		if len(hs) == 0 || hs[len(hs)-1] != e.h {
			hs = append(hs, e.h)
		}
	}
	return hs
}

// mirrorFailed takes a mirror's refusal.
func (c *component) mirrorFailed(from wire.AgentID, no uint64) bool {
	fl := c.flights[no]
	if fl == nil || (fl.to != from && fl.hop != from) {
		return false
	}
	c.land(no, fl)
	c.askAgain(fl, c.n.cfg.RetryEvery)
	if fl.forward {
		c.forwardAt = c.n.now + c.n.cfg.RetryEvery
	}
	return true
}

// askAgain makes the owner ask about the holdings of a frame that may not have arrived.
func (c *component) askAgain(fl *mirrorFlight, after time.Duration) {
	for _, h := range flownHoldings(fl) {
		if h.owned && h.mirror == fl.to && h.known {
			h.known, h.askAt = false, c.n.now+after
			c.setBehind(h)
		}
	}
}

// landAll takes back what was sent straight to a peer.
func (c *component) landAll(peer wire.AgentID) {
	for _, no := range cluster.SortedKeys(c.flights) {
		if fl := c.flights[no]; fl.hop == peer {
			c.land(no, fl)
			c.askAgain(fl, 0)
		}
	}
}

func (c *component) disconnected(peer wire.AgentID) {
	c.landAll(peer)
	c.acking.endAll(func(w *ackWait) bool { return w.to == peer })
}

// maxAsked bounds the portions of one MirrorAsk.
const maxAsked = 1024

// expireFlights takes back the frames that seem lost.
func (c *component) expireFlights() {
	var lost []uint64
	for no, fl := range c.flights {
		if c.n.now-fl.at < c.n.cfg.ResendAfter {
			continue // as a rule
		}
		if seen := c.acks[fl.track()]; seen.lost(no, fl.at, c.n.now, c.n.cfg.ResendAfter) {
			lost = append(lost, no)
		}
	}
	slices.Sort(lost)
	for _, no := range lost {
		fl := c.flights[no]
		c.land(no, fl)
		c.askAgain(fl, 0)
	}
}

// setBehind puts a holding on the list of those whose mirror is to be asked, or lacks something.
func (c *component) setBehind(h *holding) {
	if !h.behind {
		h.behind = true
		h.of.behind++
		c.behind++
	}
}

// pumpMirrors asks mirrors, and sends them what they lack. In the ordinary course no holding is behind.
func (c *component) pumpMirrors() {
	if c.behind == 0 {
		return
	}
	asks := map[wire.AgentID]*MirrorAsk{}
	for _, s := range c.order {
		if s.behind == 0 {
			continue
		}
		for _, h := range s.ascending() {
			if !h.behind {
				continue
			}
			if !h.owned || h.mirror == 0 || (h.known && h.mirrored.Count == uint64(len(h.entries))) {
				h.behind = false
				s.behind--
				c.behind--
				continue
			}
			if h.known {
				if h.flying == 0 {
					c.remirror(h)
				}
				continue
			}
			if c.n.now < h.askAt {
				continue
			}
			a := asks[h.mirror]
			if a == nil {
				a = &MirrorAsk{View: c.n.state.View}
				asks[h.mirror] = a
			}
			if len(a.Portions) < maxAsked {
				h.askAt = c.n.now + c.n.cfg.RetryEvery
				a.Portions = append(a.Portions, h.SetPortion)
			}
		}
	}
	for _, to := range cluster.SortedKeys(asks) {
		c.n.send(to, asks[to])
	}
}

// mirrorAsk answers with what is durable here.
func (c *component) mirrorAsk(from wire.AgentID, m *MirrorAsk) {
	if c.lost || m.View != c.n.state.View || len(m.Portions) > maxAsked {
		return
	}
	p := havePager{c: c, to: from}
	for _, sp := range m.Portions {
		hold := Holding{SetPortion: sp}
		if h := c.at(sp.Group, sp.Set, sp.Portion); h != nil && h.Inc == sp.Inc {
			hold.Seqs, _ = h.list(0)
		}
		p.add(hold)
	}
	p.flush()
}

// maxNumbers bounds the numbers in the lists of one message.
const maxNumbers = 1 << 17

// havePager sends holdings in messages of a bounded size.
type havePager struct {
	c       *component
	to      wire.AgentID
	msg     *MirrorHave
	numbers int
}

func (p *havePager) add(h Holding) {
	if p.msg != nil && (len(p.msg.Holdings) >= maxAsked || p.numbers+len(h.Seqs) > maxNumbers) {
		p.flush()
	}
	if p.msg == nil {
		p.msg, p.numbers = &MirrorHave{View: p.c.n.state.View}, 0
	}
	p.msg.Holdings = append(p.msg.Holdings, h)
	p.numbers += len(h.Seqs)
}

func (p *havePager) flush() {
	if p.msg != nil {
		p.c.n.send(p.to, p.msg)
		p.msg = nil
	}
}

// list returns the seqs above from that are durable here, and those at which for their sake no prefix may end.
func (h *holding) list(from wire.Seq) (seqs, more SeqRanges) {
	var end, moreEnd wire.Seq
	for _, e := range h.entries {
		if e.durable && e.seq > from {
			seqs = seqs.Add(&end, e.seq)
			if hi := e.f.updates[e.i].Prefix() - 1; hi >= e.seq && hi > moreEnd {
				more = more.AddRun(&moreEnd, max(e.seq, moreEnd+1), hi)
			}
		}
	}
	return seqs, more
}

// mirrorHave takes the answer: from here on the owner knows what the mirror lacks.
func (c *component) mirrorHave(from wire.AgentID, m *MirrorHave) {
	if m.View != c.n.state.View || len(m.Holdings) > maxAsked || !bounded(m.Holdings) {
		return
	}
	c.touched = true
	want := &MirrorWant{View: m.View}
	for _, hold := range m.Holdings {
		g := c.n.state.Groups[hold.Group]
		if g == nil || hold.Set <= g.Applied || g.Grant(hold.Set) == nil {
			continue
		}
		inc := g.Inc(hold.Inc)
		if inc == nil || c.n.state.Pair(g, hold.Set, hold.Portion) != (cluster.Pair{Owner: c.n.cfg.ID, Mirror: from}) {
			continue
		}
		h := c.at(hold.Group, hold.Set, hold.Portion)
		if h != nil && (h.Inc != hold.Inc || !h.owned || h.mirror != from) {
			continue
		}
		lack := Holding{SetPortion: hold.SetPortion}
		var end wire.Seq
		if err := hold.Seqs.Each(func(s wire.Seq) {
			if h != nil {
				if e := h.find(s); e != nil {
					c.copiedAt(e, from)
					return
				}
			}
			if inc.Ended && (!inc.Sealed || s <= inc.Seal+1) {
				lack.Seqs = lack.Seqs.Add(&end, s)
			}
		}); err != nil {
			continue
		}
		if h != nil {
			h.known = true
		}
		if len(lack.Seqs) > 0 {
			want.Holdings = append(want.Holdings, lack)
		}
	}
	if len(want.Holdings) > 0 {
		c.n.send(from, want)
	}
}

// bounded reports whether the lists of a message together stand for no more seqs than anyone may hold.
func bounded(hs []Holding) bool {
	total := uint64(0)
	for _, h := range hs {
		for i := 1; i < len(h.Seqs); i += 2 {
			if h.Seqs[i] > maxListedSeqs || total+h.Seqs[i] > maxListedSeqs {
				return false
			}
			total += h.Seqs[i]
		}
	}
	return true
}

// offer tells the owners what this mirror holds of incarnations that have ended: their primaries send nothing again.
func (c *component) offer() {
	st := c.n.state
	pages := map[wire.AgentID]*havePager{}
	for _, s := range c.order {
		g := st.Groups[s.group]
		if g == nil {
			continue
		}
		for _, h := range s.ascending() {
			if inc := g.Inc(h.Inc); h.owned || inc == nil || !inc.Ended || !inc.Contributes(h.Set) {
				continue
			}
			pair := st.Pair(g, h.Set, h.Portion)
			if pair.Mirror != c.n.cfg.ID {
				continue
			}
			page := pages[pair.Owner]
			if page == nil {
				page = &havePager{c: c, to: pair.Owner}
				pages[pair.Owner] = page
			}
			seqs, _ := h.list(0)
			page.add(Holding{SetPortion: h.SetPortion, Seqs: seqs})
		}
	}
	for _, to := range cluster.SortedKeys(pages) {
		pages[to].flush()
	}
}

// mirrorWant sends back to the owner what it lost.
func (c *component) mirrorWant(from wire.AgentID, m *MirrorWant) {
	c.touched = true
	if m.View != c.n.state.View || len(m.Holdings) > maxAsked || !bounded(m.Holdings) {
		return
	}
	for _, hold := range m.Holdings {
		g := c.n.state.Groups[hold.Group]
		if g == nil || c.n.mutant("no-giving-back") || c.n.state.Pair(g, hold.Set, hold.Portion) != (cluster.Pair{Owner: from, Mirror: c.n.cfg.ID}) {
			continue
		}
		h := c.at(hold.Group, hold.Set, hold.Portion)
		if h == nil || h.Inc != hold.Inc {
			continue
		}
		c.giveBack(h, hold.Seqs)
	}
}

// remirror sends what the mirror lacks of a holding, grouped by the stored frames that it lies in. What is on its way in
// frames as received is not sent a second time.
func (c *component) remirror(h *holding) {
	if c.flying[h.mirror] >= c.n.cfg.MirrorWindow {
		return
	}
	var parts []*Remirror
	byFrame := map[uint64]*Remirror{}
	entries := map[uint64][]*entry{}
	c.pump++
	for _, fl := range c.flights {
		if fl.to == h.mirror {
			for _, e := range fl.entries {
				e.pump = c.pump
			}
		}
	}
	for _, e := range h.entries {
		if e.mirrored || !e.f.durable || e.pump == c.pump {
			continue
		}
		r := byFrame[e.f.id]
		if r == nil {
			if c.flying[h.mirror]+len(parts) >= c.n.cfg.MirrorWindow {
				break
			}
			r = c.again(e.f, h.mirror, cluster.Pair{Owner: c.n.cfg.ID, Mirror: h.mirror}, rebuilding)
			byFrame[e.f.id] = r
			parts = append(parts, r)
		}
		r.Index = append(r.Index, int(e.i))
		entries[r.Route.No] = append(entries[r.Route.No], e)
	}
	for _, r := range parts {
		c.flights[r.Route.No] = &mirrorFlight{to: h.mirror, hop: r.To, at: c.n.now, entries: entries[r.Route.No], remirror: true}
		c.flying[h.mirror]++
		h.flying++
		c.n.eff.Remirror = append(c.n.eff.Remirror, *r)
	}
}

// again begins a frame of some updates of a stored one.
func (c *component) again(f *frame, to wire.AgentID, pair cluster.Pair, flags uint16) *Remirror {
	r := &Remirror{Ref: f.ref, Route: wire.Route{
		No: c.n.frameNo(), View: c.n.state.View, Owner: pair.Owner, Mirror: pair.Mirror, Flags: fromComponent | flags,
	}}
	r.To, r.Route.Via = c.n.reach.frameHop(to)
	return r
}
