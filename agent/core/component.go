package core

import (
	"slices"
	"sort"
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

// fromComponent is the flag of a Route that a component sends, to tell it from the primary's on an agent that is both.
const fromComponent uint16 = 1

// rebuilding is the flag of a Route that brings what was held once, or is held by the sender alone: it may use the
// journal's reserve.
const rebuilding uint16 = 2

// entry is one update that this component holds. Its pointer is stable.
type entry struct {
	seq      wire.Seq
	f        *frame
	i        int // index of the update in the frame
	h        *holding
	durable  bool // in this component's journal
	mirrored bool // in the mirror's, as far as this owner knows
	gone     bool // dropped from the index
}

// frame is a stored frame. updates are headers, but for marks, whose data stays.
type frame struct {
	id      uint64
	updates []wire.Update
	ref     any
	durable bool
	entries []*entry // those that the index took from this frame
}

// holding is what this component holds of one portion in one set.
type holding struct {
	SetPortion
	primary wire.AgentID
	entries []*entry // ascending by seq
	durable Tally

	owned    bool // by the folded assignment of the view
	mirror   wire.AgentID
	life     uint64 // of the mirror: one that was lost and came back as new holds nothing
	known    bool   // mirrored says what the mirror holds; otherwise it is to be asked
	behind   bool   // the mirror is to be asked or lacks something; component.behind counts these
	askAt    time.Duration
	mirrored Tally // of entries that are durable here or not
	flying   int   // re-mirrored frames on their way with updates of it
}

// ackWait is a frame whose sender waits for an ack.
type ackWait struct {
	to      wire.AgentID
	no      uint64
	entries []*entry
	next    int  // entries before it are settled
	mirror  bool // the sender is an owner: durable here is enough
	dead    bool
}

// mirrorFlight is a frame on its way to a mirror.
type mirrorFlight struct {
	to       wire.AgentID
	at       time.Duration
	entries  []*entry
	remirror bool
}

type component struct {
	n        *Node
	nextID   uint64 // of stored frames
	nextNo   uint64 // of frames sent by any role of this agent
	frames   map[uint64]*frame
	sets     map[setKey]map[wire.Portion]*holding
	keys     []setKey              // of sets, ascending
	marked   map[setKey][]*holding // of the primaries' pseudo-portions
	waits    []*ackWait
	flights  map[uint64]*mirrorFlight
	flying   map[wire.AgentID]int // re-mirrored frames in flight
	behind   int                  // holdings that are
	view     wire.View
	members  uint64 // State.MembersAt
	life     uint64 // of this component; its journal is of this life
	booted   bool
	admitAt  time.Duration
	touched  bool // something happened that settle must look at
	pollAt   time.Duration
	pumpAt   time.Duration
	poll     bool // and so must pollTasks, which costs more: at a tick, or when somebody answered
	marks    map[incSet]*markTask
	told     wire.AgentID // the captain that marks were told to
	tasks    map[incSet]*lineTask
	freed    map[wire.GroupID]wire.Set
	sealedAt map[wire.Incarnation]wire.Seq // the seal above which it was purged
	reportAt time.Duration
	reportNo uint64
	restored bool
	lost     bool // the journal is; see SetJournalLost
	loseAt   time.Duration
	used     int64
	limit    int64
}

type setKey struct {
	group wire.GroupID
	set   wire.Set
}

// incSet is one incarnation's part of a set: what one manifest speaks of.
type incSet struct {
	group wire.GroupID
	set   wire.Set
	inc   wire.Incarnation
}

func (a setKey) less(b setKey) bool {
	if a.group != b.group {
		return a.group < b.group
	}
	return a.set < b.set
}

func newComponent(n *Node) *component {
	return &component{
		n: n, frames: map[uint64]*frame{}, sets: map[setKey]map[wire.Portion]*holding{}, marked: map[setKey][]*holding{},
		flights: map[uint64]*mirrorFlight{}, flying: map[wire.AgentID]int{},
		marks: map[incSet]*markTask{}, tasks: map[incSet]*lineTask{},
		freed: map[wire.GroupID]wire.Set{}, sealedAt: map[wire.Incarnation]wire.Seq{},
		// Frame numbers of a new run must not meet acks of an older one.
		nextNo: mix(wire.Seq(n.cfg.Seed)) >> 16 << 16,
	}
}

// Restore enters a frame that the journal holds. It is called for every one of them, in any order, before anything else.
// Marks must be unpacked. It returns false when nothing of it is needed any more.
func (n *Node) Restore(ref any, b *wire.Body) bool {
	c := n.comp
	g := n.state.Groups[b.Group]
	if g == nil || b.Set <= g.Applied {
		return false
	}
	f := c.enter(g, b)
	if f == nil {
		return false
	}
	f.ref, f.durable = ref, true
	for _, e := range f.entries {
		e.durable = true
		e.h.durable.add(e.seq)
	}
	c.restored = true
	return true
}

// Restored ends the calls of Restore.
func (n *Node) Restored() {
	n.comp.refresh(true)
	n.comp.stateChanged()
}

// enter puts the updates of a frame that are not yet in the index into it. It returns nil when all were.
func (c *component) enter(g *cluster.Group, b *wire.Body) *frame {
	c.nextID++
	f := &frame{id: c.nextID, updates: b.Updates}
	inc := g.Inc(b.Incarnation)
	block := make([]entry, len(b.Updates))
	var h *holding
	for i := range b.Updates {
		u := &b.Updates[i]
		if inc != nil && inc.Sealed && !belowSeal(inc, b.Set, u) {
			continue
		}
		if p := u.PortionID(); h == nil || h.Portion != p {
			h = c.holding(b, p)
		}
		at := len(h.entries)
		if at > 0 && h.entries[at-1].seq >= u.Seq {
			at = sort.Search(len(h.entries), func(k int) bool { return h.entries[k].seq >= u.Seq })
			if at < len(h.entries) && h.entries[at].seq == u.Seq {
				continue
			}
		}
		e := &block[i]
		*e = entry{seq: u.Seq, f: f, i: i, h: h}
		if at == len(h.entries) {
			h.entries = append(h.entries, e)
		} else {
			h.entries = slices.Insert(h.entries, at, e)
		}
		f.entries = append(f.entries, e)
	}
	if len(f.entries) == 0 {
		return nil
	}
	c.frames[f.id] = f
	return f
}

// belowSeal reports whether an update of a sealed incarnation counts. The manifest that a seal makes for its last set
// has the seq above the seal.
func belowSeal(inc *cluster.Incarnation, set wire.Set, u *wire.Update) bool {
	return u.Seq <= inc.Seal || (!inc.Marked && u.Kind == wire.KindMark && u.Seq == inc.Seal+1 && set == inc.Last)
}

// holding returns the holding of a portion, made if there is none.
func (c *component) holding(b *wire.Body, p wire.Portion) *holding {
	k := setKey{b.Group, b.Set}
	ps := c.sets[k]
	if ps == nil {
		ps = map[wire.Portion]*holding{}
		c.sets[k] = ps
		at := sort.Search(len(c.keys), func(i int) bool { return !c.keys[i].less(k) })
		c.keys = slices.Insert(c.keys, at, k)
	}
	h := ps[p]
	if h == nil {
		h = &holding{
			SetPortion: SetPortion{Group: b.Group, Set: b.Set, Inc: b.Incarnation, Portion: p}, primary: b.Primary, known: true,
		}
		c.assign(h)
		ps[p] = h
		if p.Volume == wire.MarkVolume {
			c.marked[k] = append(c.marked[k], h)
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
	changed := owned && (!h.owned || h.mirror != pair.Mirror || h.life != life)
	h.owned, h.mirror, h.life = owned, pair.Mirror, life
	return changed
}

// refresh folds every holding's assignment over the view. What has a new mirror is mirrored anew; after a restart
// nothing is known of any mirror.
func (c *component) refresh(restart bool) {
	for _, k := range c.keys {
		for _, p := range portionsOf(c.sets[k]) {
			h := c.sets[k][p]
			changed := c.assign(h)
			if (changed || restart) && len(h.entries) > 0 {
				c.forgetMirror(h)
			}
		}
	}
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

// portionsOf returns the portions of a set in ascending order.
func portionsOf[T any](m map[wire.Portion]T) []wire.Portion {
	ps := make([]wire.Portion, 0, len(m))
	for p := range m {
		ps = append(ps, p)
	}
	slices.SortFunc(ps, comparePortions)
	return ps
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

// ReceiveFrame takes a frame from a primary or from a component. Sums are checked by the shell; data of marks is there.
func (n *Node) ReceiveFrame(now time.Duration, from wire.AgentID, r wire.Route, b *wire.Body) {
	n.now = max(n.now, now)
	c := n.comp
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
	if r.View != st.View && !c.n.mutant("lower-view-accepted") {
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
		if !inc.Sealed {
			return NackEnded, false
		}
		for i := range b.Updates {
			if !belowSeal(inc, b.Set, &b.Updates[i]) {
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
			if h := c.sets[setKey{b.Group, b.Set}][p]; h != nil && h.Inc != b.Incarnation {
				return NackBad, false
			}
			pair := st.Pair(g, b.Set, p)
			if fromPrimary && pair.Owner != c.n.cfg.ID {
				return NackView, false
			}
			back := pair.Owner == c.n.cfg.ID && pair.Mirror == from && inc.Sealed
			if !fromPrimary && !back && (pair.Owner != from || pair.Mirror != c.n.cfg.ID) {
				return NackView, false
			}
			seen = p
		}
		if !c.fits(g, u) {
			return NackBad, false
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

// fits reports whether an update lies inside its portion and volume.
func (c *component) fits(g *cluster.Group, u *wire.Update) bool {
	if u.Kind == wire.KindMark || u.Volume == wire.MarkVolume {
		if u.Kind != wire.KindMark || u.Volume != wire.MarkVolume {
			return false
		}
		_, err := DecodeManifest(u.Data)
		return err == nil
	}
	if v := g.Volumes[u.Volume]; v != nil && u.End() > uint64(v.Size) {
		return false
	}
	start := uint64(u.Portion) * g.PortionSize
	return u.Offset >= start && u.End() <= start+g.PortionSize
}

// take enters a checked frame and asks for its copies.
func (c *component) take(from wire.AgentID, r wire.Route, b *wire.Body, asMirror bool) {
	c.touched = true
	g := c.n.state.Groups[b.Group]
	w := &ackWait{to: from, no: r.No, mirror: asMirror}
	f := c.enter(g, b)
	if f != nil {
		// The set that is to be committed next may use the reserve too: nothing is freed before it is applied, and later
		// sets must not keep it out.
		urgent := r.Flags&rebuilding != 0 || b.Set <= g.Committed+1
		c.n.eff.Store = append(c.n.eff.Store, Store{ID: f.id, Group: b.Group, Set: b.Set, Body: b, Urgent: urgent})
		if !asMirror && f.entries[0].h.mirror != 0 {
			c.mirrorFrame(f, r, b)
		}
	}
	for i := range b.Updates {
		if e := c.find(b, &b.Updates[i]); e != nil {
			w.entries = append(w.entries, e)
			if asMirror {
				c.mirroredBy(e, from) // sent back by the mirror: it has it
			}
		}
	}
	if f == nil && len(w.entries) > 0 { // sent again: the number of the newest sending is the one to acknowledge
		for _, old := range c.waits {
			if old.to == from && old.mirror == asMirror && slices.Equal(old.entries, w.entries) {
				old.no = r.No
				return
			}
		}
	}
	c.waits = append(c.waits, w)
}

// mirrorFrame sends a frame on to the mirror, as it came.
func (c *component) mirrorFrame(f *frame, r wire.Route, b *wire.Body) {
	to := f.entries[0].h.mirror
	if c.n.mutant("drop-mirror") {
		for _, e := range f.entries {
			e.mirrored = true
			e.h.mirrored.add(e.seq)
		}
		return
	}
	no := c.n.frameNo()
	c.flights[no] = &mirrorFlight{to: to, at: c.n.now, entries: f.entries}
	r.No, r.View, r.Flags = no, c.n.state.View, fromComponent
	c.n.eff.Frames = append(c.n.eff.Frames, FrameOut{To: to, Route: r, Body: b})
}

// find returns the entry of an update, or nil.
func (c *component) find(b *wire.Body, u *wire.Update) *entry {
	h := c.sets[setKey{b.Group, b.Set}][u.PortionID()]
	if h == nil {
		return nil
	}
	return h.find(u.Seq)
}

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

// Stored says what came of a Store. With an error the frame is not in the journal, and its sender is refused.
func (n *Node) Stored(now time.Duration, id uint64, ref any, err error) {
	n.now = max(n.now, now)
	c := n.comp
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
		e.gone = true
		h := e.h
		if k := slices.Index(h.entries, e); k >= 0 {
			h.entries = slices.Delete(h.entries, k, k+1)
		}
		if e.mirrored {
			h.mirrored.Count--
			h.mirrored.Digest -= mix(e.seq)
		}
	}
	for _, w := range c.waits {
		if !w.dead && slices.ContainsFunc(w.entries[w.next:], func(e *entry) bool { return e.f == f }) {
			w.dead = true
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
	acks := map[wire.AgentID][]uint64{}
	kept := c.waits[:0]
	for _, w := range c.waits {
		for w.next < len(w.entries) && c.settled(w.entries[w.next], w.mirror) {
			w.next++
		}
		switch {
		case w.dead || (w.next < len(w.entries) && w.entries[w.next].gone):
			// Applied, given up or cut off by a seal: the sender is told what holds when it asks again.
		case w.next == len(w.entries):
			acks[w.to] = append(acks[w.to], w.no)
		default:
			kept = append(kept, w)
		}
	}
	clear(c.waits[len(kept):])
	c.waits = kept
	for _, to := range cluster.SortedKeys(acks) {
		c.n.send(to, &FrameAck{Nos: acks[to]})
	}
	// Both walk everything that is held: not for every frame.
	if c.poll && c.n.now >= c.pollAt {
		c.poll, c.pollAt = false, c.n.now+pollEvery
		c.pollTasks()
	}
	if c.behind > 0 && c.n.now >= c.pumpAt {
		c.pumpAt = c.n.now + pollEvery
		c.pumpMirrors()
	}
}

// pollEvery bounds how often tasks and mirrors are looked after.
const pollEvery = 4 * time.Millisecond

// settled reports whether an entry is durable where its sender wants it.
func (c *component) settled(e *entry, mirror bool) bool {
	if e.gone {
		return false
	}
	if !e.durable && !c.n.mutant("journal-not-synced") {
		return false
	}
	return mirror || e.h.mirror == 0 || e.mirrored
}

// stateChanged follows the replicated state.
func (c *component) stateChanged() {
	st := c.n.state
	c.followLife()
	gone := map[wire.GroupID]bool{}
	for _, k := range c.keys {
		if st.Groups[k.group] == nil {
			gone[k.group] = true
		}
	}
	for _, id := range cluster.SortedKeys(gone) {
		delete(c.freed, id)
		c.drop(func(k setKey) bool { return k.group == id })
		c.n.eff.Free = append(c.n.eff.Free, Free{Group: id, UpTo: ^wire.Set(0)})
	}
	for key := range c.tasks {
		if g := st.Groups[key.group]; g == nil || key.set <= g.Applied {
			delete(c.tasks, key)
		}
	}
	if c.view != st.View {
		c.view = st.View
		c.flights, c.flying = map[uint64]*mirrorFlight{}, map[wire.AgentID]int{}
		// Frames taken in an older view are refused when they are sent again; their senders know.
		c.waits = nil
		c.refresh(false)
		c.unmirrorFlying()
		c.marks, c.tasks = map[incSet]*markTask{}, map[incSet]*lineTask{}
		c.findMarks()
	}
	if c.members != st.MembersAt {
		c.members = st.MembersAt
		c.refresh(false)
		for _, w := range c.waits {
			w.next = 0 // what one copy was enough for may want two now
		}
	}
	for _, id := range cluster.SortedKeys(st.Groups) {
		g := st.Groups[id]
		c.purge(g)
		past := g.Applied
		if g.Phase == cluster.Promoted {
			past = g.Granted
		}
		if c.freed[id] < past {
			c.freed[id] = past
			c.drop(func(k setKey) bool { return k.group == id && k.set <= past })
			c.n.eff.Free = append(c.n.eff.Free, Free{Group: id, UpTo: past})
		}
	}
	c.touched = true
}

// followLife drops everything when this component was declared lost: what it held is mirrored elsewhere by now, or lost.
// It comes back as new.
func (c *component) followLife() {
	a := c.n.state.Agents[c.n.cfg.ID]
	if a == nil || a.Life == c.life {
		return
	}
	if c.booted { // also when it is admitted: from here on the journal is of the new life
		c.drop(func(setKey) bool { return true })
		c.waits, c.flights, c.flying = nil, map[uint64]*mirrorFlight{}, map[wire.AgentID]int{}
		c.n.eff.Wipe = true
		c.n.event(0, "component.reset", "agent", c.n.cfg.ID)
	}
	c.life = a.Life
}

// Life returns the life that this agent's journal belongs to, 0 when it is no component.
func (n *Node) Life() uint64 { return n.comp.life }

// unmirrorFlying makes owners ask about what was on its way to a mirror when the view rose.
func (c *component) unmirrorFlying() {
	for _, k := range c.keys {
		for _, p := range portionsOf(c.sets[k]) {
			h := c.sets[k][p]
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
		for _, k := range c.keys {
			if k.group != g.ID {
				continue
			}
			for _, p := range portionsOf(c.sets[k]) {
				if h := c.sets[k][p]; h.Inc == inc.ID {
					c.cut(h, inc)
				}
			}
		}
		c.poll = true
	}
	for id := range c.sealedAt {
		if id>>8 < wire.Incarnation(c.n.state.Index) && !slices.ContainsFunc(cluster.SortedKeys(c.n.state.Groups), func(g wire.GroupID) bool { return c.n.state.Groups[g].Inc(id) != nil }) {
			delete(c.sealedAt, id)
		}
	}
}

// cut drops a holding's entries above the seal.
func (c *component) cut(h *holding, inc *cluster.Incarnation) {
	if c.n.mutant("seal-not-cut") {
		return
	}
	kept := h.entries[:0]
	h.durable, h.mirrored = Tally{}, Tally{}
	for _, e := range h.entries {
		if !belowSeal(inc, h.Set, &e.f.updates[e.i]) {
			e.gone = true
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
	kept := c.keys[:0]
	for _, k := range c.keys {
		if !which(k) {
			kept = append(kept, k)
			continue
		}
		for _, h := range c.sets[k] {
			for _, e := range h.entries {
				e.gone = true
				delete(c.frames, e.f.id)
			}
			delete(c.marks, incSet{h.Group, h.Set, h.Inc})
			delete(c.tasks, incSet{h.Group, h.Set, h.Inc})
			if h.behind {
				c.behind--
			}
		}
		delete(c.sets, k)
		delete(c.marked, k)
	}
	c.keys = kept
}

// SetJournal tells the node how full the journal is, in bytes.
func (n *Node) SetJournal(used, limit int64) { n.comp.used, n.comp.limit = used, limit }

func (c *component) status() *ComponentStatus {
	st := &ComponentStatus{Used: c.used, Limit: c.limit}
	if a := c.n.state.Agents[c.n.cfg.ID]; a != nil {
		st.Life = a.Life
	}
	for _, k := range c.keys {
		for _, h := range c.sets[k] {
			if h.owned {
				st.Owned += int64(len(h.entries))
				if !h.known || h.behind || h.flying > 0 || (h.mirror == 0 && len(c.n.state.Members) > 1) {
					st.Rebuilding = true
				}
			} else {
				st.Mirrored += int64(len(h.entries))
			}
		}
	}
	return st
}

func (c *component) tick() {
	c.touched, c.poll = true, true // retries are due by time
	if a := c.n.state.Agents[c.n.cfg.ID]; a != nil && a.Backup && a.Life == 0 && !c.lost && c.n.now >= c.admitAt {
		c.admitAt = c.n.now + c.n.cfg.RetryEvery
		c.n.Propose(cluster.Command{Admit: &cluster.Admit{Agent: a.ID}})
	}
	c.proposeLoss()
	c.expireFlights()
	c.report()
	c.settle()
}
