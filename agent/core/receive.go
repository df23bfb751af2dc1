package core

import (
	"slices"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// A frame passes these stages on a component:
//
//  1. ReceiveFrame checks it against the assignment of its set, enters its updates into the index and asks for two
//     things at once: Store (the journal) and, as the owner, a Frame to the mirror.
//  2. Stored makes its entries durable here; the mirror's ack makes them mirrored.
//  3. settle acknowledges the frames all of whose entries have what their sender waits for.
//
// Entries stay until their set is applied or given up. What the journal holds is entered again by Restore.

// The flags of a Route.
const (
	// fromComponent: a component sends it, to tell it from the primary's on an agent that is both.
	fromComponent uint16 = 1
	// rebuilding: it brings what was held once, or is held by the sender alone. It may use the journal's reserve.
	rebuilding uint16 = 2
	// toOwner: it goes from a mirror to the owner, and the mirror has it on its disk.
	toOwner uint16 = 4
	// forward: the primary does not reach the owner. The mirror stores it and brings it to the owner.
	forward uint16 = 8
)

// ends returns who made a frame and whom it is for, whoever passes it on.
func ends(r wire.Route, b *wire.Body) (from, to wire.AgentID) {
	switch {
	case r.Flags&fromComponent == 0:
		return b.Primary, r.Owner
	case r.Flags&toOwner != 0:
		return r.Mirror, r.Owner
	}
	return r.Owner, r.Mirror
}

// ReceiveFrame takes a frame from a primary or from a component. Sums are checked by the shell; data of marks is there.
func (n *Node) ReceiveFrame(now time.Duration, from wire.AgentID, r wire.Route, b *wire.Body) {
	n.now = max(n.now, now)
	c := n.comp
	if r.Via != 0 {
		origin, to := ends(r, b)
		if r.Via == n.cfg.ID && to != n.cfg.ID {
			if from == origin && n.state.Agents[to] != nil { // over one component at most
				n.eff.Frames = append(n.eff.Frames, FrameOut{To: to, Route: r, Body: b})
			}
			return
		}
		if from != r.Via || n.state.Agents[origin] == nil {
			return
		}
		from = origin
	}
	reason, drop := c.check(from, r, b)
	switch {
	case reason != 0:
		n.send(from, &FrameNack{No: r.No, Reason: reason, View: n.state.View})
		return
	case drop:
		n.send(from, &FrameAck{Nos: []uint64{r.No}})
		return
	}
	c.take(from, r, b, r.Flags&fromComponent != 0)
}

// check looks a frame up in the cluster state: whether it is refused, or acknowledged and dropped.
func (c *component) check(from wire.AgentID, r wire.Route, b *wire.Body) (reason NackReason, drop bool) {
	st := c.n.state
	if c.lost {
		return NackFull, false
	}
	g := st.Groups[b.Group]
	if g == nil || len(b.Updates) == 0 {
		return NackBad, false
	}
	inc := g.Inc(b.Incarnation)
	fromPrimary := r.Flags&fromComponent == 0
	if fromPrimary && from != b.Primary {
		return NackBad, false
	}
	if fromPrimary && (inc == nil || inc.Ended) && !c.n.mutant("revoked-accepted") {
		return NackEnded, false // even of a set that is past: what lies above the seal, or was given up, is not held
	}
	if b.Set <= g.Applied {
		return 0, true
	}
	// The second fence. The first is that a frame must fit the assignment that this component folds over its own view: a
	// frame of a lower view that passes it has the owner and the mirror that the higher view has, too.
	if r.View != st.View {
		return NackView, false
	}
	if !st.IsMember(c.n.cfg.ID) {
		return NackView, false
	}
	gr := g.Grant(b.Set)
	if gr == nil {
		return NackView, false
	}
	if inc == nil || inc.Primary != b.Primary || !slices.Contains(gr.Incs, inc.ID) {
		return NackBad, false
	}
	if inc.Ended && !c.n.mutant("revoked-accepted") {
		if r.Flags&(rebuilding|toOwner) == 0 && !inc.Sealed {
			return NackEnded, false // but out of a journal: who sends that has it, and reports it when it is fenced
		}
		for i := range b.Updates {
			if inc.Sealed && !belowSeal(inc, b.Set, &b.Updates[i]) {
				return NackEnded, false
			}
		}
	}
	var seen wire.Portion
	for i := range b.Updates {
		u := &b.Updates[i]
		p := u.PortionID()
		if i == 0 || p != seen {
			if !c.placed(g, b, p) {
				return NackBad, false
			}
			if h := c.at(b.Group, b.Set, p); h != nil && h.Inc != b.Incarnation {
				return NackBad, false
			}
			pair, want := st.Pair(g, b.Set, p), cluster.Pair{Owner: c.n.cfg.ID, Mirror: from}
			switch {
			case fromPrimary && r.Flags&forward != 0:
				want = cluster.Pair{Owner: pair.Owner, Mirror: c.n.cfg.ID}
			case fromPrimary:
				want.Mirror = pair.Mirror
			case r.Flags&toOwner == 0:
				want = cluster.Pair{Owner: from, Mirror: c.n.cfg.ID}
			}
			if pair != want {
				return NackView, false
			}
			seen = p
		}
		switch {
		case !c.fits(g, u):
			return NackBad, false
		case !c.reached(g, u):
			return NackView, false // this agent may not have heard yet that the volume grows: sent again, it is taken
		}
	}
	return 0, false
}

// placed reports whether the primary may write the portion.
func (c *component) placed(g *cluster.Group, b *wire.Body, p wire.Portion) bool {
	if p.Volume == wire.MarkVolume {
		return p == wire.MarkPortion(b.Primary)
	}
	v := g.Volumes[p.Volume]
	return v == nil || v.Primary == b.Primary // a volume that was just deleted may still have updates under way
}

// reached reports whether an update lies inside its volume, as large as it may become.
func (c *component) reached(g *cluster.Group, u *wire.Update) bool {
	v := g.Volumes[u.Volume]
	return v == nil || u.End() <= uint64(v.Reach())
}

// fits reports whether an update lies inside its portion.
func (c *component) fits(g *cluster.Group, u *wire.Update) bool {
	if u.Kind == wire.KindMark || u.Volume == wire.MarkVolume {
		if u.Kind != wire.KindMark || u.Volume != wire.MarkVolume {
			return false
		}
		_, err := DecodeManifest(u.Data)
		return err == nil
	}
	start := uint64(u.Portion) * g.PortionSize
	return u.Offset >= start && u.End() <= start+g.PortionSize
}

// take enters a checked frame and asks for its copies.
func (c *component) take(from wire.AgentID, r wire.Route, b *wire.Body, asMirror bool) {
	c.touched = true
	g := c.n.state.Groups[b.Group]
	w := &ackWait{to: from, no: r.No, mirror: asMirror, forward: r.Flags&forward != 0 && !asMirror}
	f := c.enter(g, b)
	if f != nil {
		// The set that is to be committed next may use the reserve too: nothing is freed before it is applied, and later
		// sets must not keep it out.
		urgent := r.Flags&rebuilding != 0 || b.Set <= g.Committed+1
		c.store(f, Store{ID: f.id, Group: b.Group, Set: b.Set, Body: b, Urgent: urgent})
		if !asMirror && !w.forward {
			c.mirrorFrame(f, r, b)
		}
	}
	var h *holding
	for i := range b.Updates {
		if p := b.Updates[i].PortionID(); i == 0 || p != b.Updates[i-1].PortionID() {
			h = c.at(b.Group, b.Set, p)
		}
		if h == nil {
			continue
		}
		if e := h.find(b.Updates[i].Seq); e != nil {
			w.entries = append(w.entries, e)
			if asMirror && r.Flags&toOwner != 0 {
				c.copiedAt(e, from) // the mirror brings what it has on its disk
			}
		}
	}
	if f == nil && len(w.entries) > 0 { // sent again: the number of the newest sending is the one to acknowledge
		for _, old := range c.acking.all {
			if !old.over && old.to == from && old.mirror == asMirror && slices.Equal(old.entries, w.entries) {
				old.no = r.No
				return
			}
		}
	}
	c.acking.add(w)
}

// mirrorFrame sends a frame on to the mirror, as it came. A primary that has not heard yet of a component that joined, or this
// owner itself, may be behind: then what stands in one frame may have several mirrors here, and each gets its part out of the
// journal, for none of them takes the whole frame.
func (c *component) mirrorFrame(f *frame, r wire.Route, b *wire.Body) {
	to := f.entries[0].h.mirror
	if slices.ContainsFunc(f.entries, func(e *entry) bool { return e.h.mirror != to }) {
		for _, e := range f.entries {
			c.setBehind(e.h)
		}
		return
	}
	if to == 0 {
		return
	}
	if c.n.mutant("drop-mirror") {
		for _, e := range f.entries {
			e.mirrored = true
			e.h.mirrored.add(e.seq)
		}
		return
	}
	no := c.n.frameNo()
	r.No, r.View, r.Mirror, r.Flags = no, c.n.state.View, to, fromComponent
	fl := &mirrorFlight{to: to, at: c.n.now, entries: f.entries}
	fl.hop, r.Via = c.n.reach.frameHop(to)
	c.flights[no] = fl
	c.n.eff.Frames = append(c.n.eff.Frames, FrameOut{To: fl.hop, Route: r, Body: b})
}

// Stored says what came of a Store. With an error the frame is not in the journal, and its sender is refused.
func (n *Node) Stored(now time.Duration, id uint64, ref any, err error) {
	n.now = max(n.now, now)
	c := n.comp
	c.load.answered(id, n.now)
	f := c.frames[id]
	if f == nil {
		return // its set was applied or given up meanwhile
	}
	c.touched = true
	if err != nil {
		c.unstore(f)
		return
	}
	f.ref, f.durable = ref, true
	for _, e := range f.entries {
		if !e.gone && !e.durable {
			e.durable = true
			e.h.durable.add(e.seq)
			c.acking.changed(e)
		}
	}
	if g := n.state.Groups[f.entries[0].h.Group]; g != nil {
		if inc := g.Inc(f.entries[0].h.Inc); inc != nil && inc.Ended && !inc.Sealed {
			c.reportAt = min(c.reportAt, n.now+reportSoon) // its seal waits for this copy
		}
	}
}

// unstore takes back the entries of a frame that the journal refused, and refuses whoever waits for them.
func (c *component) unstore(f *frame) {
	delete(c.frames, f.id)
	for _, e := range f.entries {
		if e.gone {
			continue
		}
		e.gone, c.newMarks = true, true
		c.acking.changed(e)
		h := e.h
		if k := slices.Index(h.entries, e); k >= 0 {
			h.entries = slices.Delete(h.entries, k, k+1)
			h.bytes -= size(&f.updates[e.i])
		}
		if e.mirrored {
			h.mirrored.remove(e.seq)
		}
	}
	for _, w := range c.acking.all {
		if !w.over && !w.dead && slices.ContainsFunc(w.entries[w.next:], func(e *entry) bool { return e.f == f }) {
			w.dead = true
			c.acking.look(w)
			c.n.send(w.to, &FrameNack{No: w.no, Reason: NackFull, View: c.n.state.View})
		}
	}
}

// settle acknowledges what has what its sender waits for. It runs once for a batch of calls.
func (c *component) settle() {
	if !c.touched {
		return
	}
	c.touched = false
	c.acknowledge()
	// Both walk everything that is held: not for every frame.
	if c.poll && c.n.now >= c.pollAt {
		c.poll, c.pollAt = false, c.n.now+pollEvery
		c.pollTasks()
	}
	if (c.behind > 0 || c.acking.forwards > 0) && c.n.now >= c.pumpAt {
		c.pumpAt = c.n.now + pollEvery
		c.pumpMirrors()
		c.pumpForwards()
	}
}

// pollEvery bounds how often tasks and mirrors are looked after.
const pollEvery = 4 * time.Millisecond
