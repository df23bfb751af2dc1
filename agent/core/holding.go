package core

import (
	"maps"
	"slices"
	"sort"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// holding is what this component holds of one portion in one set.
type holding struct {
	SetPortion
	of      *heldSet
	primary wire.AgentID
	entries []*entry // ascending by seq
	durable Tally
	bytes   int64 // that the entries carry

	owned    bool // by the folded assignment of the view
	owner    wire.AgentID
	mirror   wire.AgentID
	life     uint64 // of the mirror: one that was lost and came back as new holds nothing
	known    bool   // mirrored says what the mirror holds; otherwise it is to be asked
	behind   bool   // the mirror is to be asked or lacks something; component.behind counts these
	askAt    time.Duration
	mirrored Tally // of entries that are durable here or not
	flying   int   // re-mirrored frames on their way with updates of it
}

// heldSet is what this component holds of a set.
type heldSet struct {
	setKey
	holdings map[wire.Portion]*holding
	sorted   []*holding // holdings by ascending portion, as far as ascending was called
	marked   []*holding // those of the primaries' pseudo-portions
	behind   int        // so many holdings are
}

// ascending returns the holdings by ascending portion. They only become more.
func (s *heldSet) ascending() []*holding {
	if len(s.sorted) != len(s.holdings) {
		s.sorted = slices.AppendSeq(make([]*holding, 0, len(s.holdings)), maps.Values(s.holdings))
		slices.SortFunc(s.sorted, func(a, b *holding) int { return comparePortions(a.Portion, b.Portion) })
	}
	return s.sorted
}

// at returns what is held of a portion in a set, or nil.
func (c *component) at(group wire.GroupID, set wire.Set, p wire.Portion) *holding {
	if s := c.sets[setKey{group, set}]; s != nil {
		return s.holdings[p]
	}
	return nil
}

// holding returns the holding of a portion, made if there is none.
func (c *component) holding(b *wire.Body, p wire.Portion) *holding {
	k := setKey{b.Group, b.Set}
	s := c.sets[k]
	if s == nil {
		s = &heldSet{setKey: k, holdings: map[wire.Portion]*holding{}}
		c.sets[k] = s
		at := sort.Search(len(c.order), func(i int) bool { return !c.order[i].less(k) })
		c.order = slices.Insert(c.order, at, s)
	}
	h := s.holdings[p]
	if h == nil {
		h = &holding{
			SetPortion: SetPortion{Group: b.Group, Set: b.Set, Inc: b.Incarnation, Portion: p}, of: s, primary: b.Primary, known: true,
		}
		c.assign(h)
		s.holdings[p] = h
		if p.Volume == wire.MarkVolume {
			s.marked = append(s.marked, h)
		}
	}
	return h
}

// assign looks up who is responsible in the current view. It returns whether the mirror changed.
func (c *component) assign(h *holding) bool {
	g := c.n.state.Groups[h.Group]
	if g == nil {
		return false
	}
	pair := c.n.state.Pair(g, h.Set, h.Portion)
	owned := pair.Owner == c.n.cfg.ID
	var life uint64
	if a := c.n.state.Agents[pair.Mirror]; a != nil {
		life = a.Life
	}
	changed := owned && (!h.owned || h.mirror != pair.Mirror || h.life != life) || !owned && h.owner != pair.Owner
	h.owned, h.owner, h.mirror, h.life = owned, pair.Owner, pair.Mirror, life
	return changed
}

// refresh folds every holding's assignment over the view. What has a new mirror is mirrored anew; after a restart
// nothing is known of any mirror.
func (c *component) refresh(restart bool) {
	c.newMarks = true
	c.acking.changedAll()
	for _, s := range c.order {
		for _, h := range s.ascending() {
			if c.assign(h) || restart {
				c.forgetMirror(h)
			}
		}
	}
	c.dropForwards()
}

// forgetMirror makes an owner ask the mirror what it holds.
func (c *component) forgetMirror(h *holding) {
	h.known, h.askAt, h.mirrored = h.mirror == 0 || !h.owned, 0, Tally{}
	for _, e := range h.entries {
		e.mirrored = false
	}
	c.setBehind(h)
	if c.n.mutant("no-remirror") {
		h.known = true
		for _, e := range h.entries {
			e.mirrored = true
			h.mirrored.add(e.seq)
		}
	}
	c.touched = true
}

func comparePortions(a, b wire.Portion) int {
	if a.Volume != b.Volume {
		if a.Volume < b.Volume {
			return -1
		}
		return 1
	}
	switch {
	case a.Index < b.Index:
		return -1
	case a.Index > b.Index:
		return 1
	}
	return 0
}

// find returns the entry of a seq, or nil.
func (h *holding) find(seq wire.Seq) *entry {
	k := len(h.entries) - 1
	if k < 0 {
		return nil
	}
	if h.entries[k].seq != seq {
		k = sort.Search(len(h.entries), func(i int) bool { return h.entries[i].seq >= seq })
		if k == len(h.entries) || h.entries[k].seq != seq {
			return nil
		}
	}
	return h.entries[k]
}

// unheld counts the entries that an owner does not know to be held.
func (h *holding) unheld() int64 {
	copies := h.durable.Count
	if h.mirror != 0 {
		copies = min(copies, h.mirrored.Count)
	}
	return int64(len(h.entries)) - int64(copies)
}

// unmirrorFlying makes owners ask about what was on its way to a mirror when the view rose.
func (c *component) unmirrorFlying() {
	for _, s := range c.order {
		for _, h := range s.ascending() {
			h.flying = 0
			if h.owned && h.mirror != 0 && h.mirrored.Count < uint64(len(h.entries)) {
				h.known, h.askAt = false, 0
				c.setBehind(h)
			}
		}
	}
}

// purge drops what lies above the seal of an incarnation.
func (c *component) purge(g *cluster.Group) {
	for _, inc := range g.Incs {
		if at, ok := c.sealedAt[inc.ID]; !inc.Sealed || (ok && at == inc.Seal) {
			continue
		}
		c.sealedAt[inc.ID] = inc.Seal
		for _, s := range c.order {
			if s.group != g.ID {
				continue
			}
			for _, h := range s.ascending() {
				if h.Inc == inc.ID {
					c.cut(h, inc)
				}
			}
		}
		c.poll = true
	}
}

// forgetSeals drops the seals of incarnations that nobody speaks of any more.
func (c *component) forgetSeals() {
	if len(c.sealedAt) == 0 {
		return
	}
	known := map[wire.Incarnation]bool{}
	for _, g := range c.n.state.Groups {
		for _, inc := range g.Incs {
			known[inc.ID] = true
		}
	}
	maps.DeleteFunc(c.sealedAt, func(id wire.Incarnation, _ wire.Seq) bool { return !known[id] })
}

// cut drops a holding's entries above the seal.
func (c *component) cut(h *holding, inc *cluster.Incarnation) {
	if c.n.mutant("seal-not-cut") || c.n.mutant("revoked-accepted") {
		return
	}
	c.newMarks = true
	kept := h.entries[:0]
	h.durable, h.mirrored = Tally{}, Tally{}
	for _, e := range h.entries {
		if !belowSeal(inc, h.Set, &e.f.updates[e.i]) {
			e.gone = true
			c.acking.changed(e)
			h.bytes -= size(&e.f.updates[e.i])
			if !slices.ContainsFunc(e.f.entries, func(e *entry) bool { return !e.gone }) {
				delete(c.frames, e.f.id)
			}
			continue
		}
		kept = append(kept, e)
		if e.durable {
			h.durable.add(e.seq)
		}
		if e.mirrored {
			h.mirrored.add(e.seq)
		}
	}
	clear(h.entries[len(kept):])
	h.entries = kept
	delete(c.marks, incSet{h.Group, h.Set, h.Inc})
}

// drop forgets sets.
func (c *component) drop(which func(setKey) bool) {
	kept := c.order[:0]
	for _, s := range c.order {
		if !which(s.setKey) {
			kept = append(kept, s)
			continue
		}
		for _, h := range s.holdings {
			for _, e := range h.entries {
				e.gone = true
				c.acking.changed(e)
				delete(c.frames, e.f.id)
			}
			delete(c.marks, incSet{h.Group, h.Set, h.Inc})
			delete(c.tasks, incSet{h.Group, h.Set, h.Inc})
			if h.behind {
				c.behind--
			}
		}
		delete(c.sets, s.setKey)
	}
	clear(c.order[len(kept):])
	c.order = kept
}
