package sim

import (
	"bytes"
	"fmt"
	"slices"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// oracle knows what every primary had at every seq, from the moment of numbering and not from what was sent, and
// compares with it whatever could be recovered.
type oracle struct {
	w      *World
	last   *cluster.State // the newest state of any process that has ended, or of those that are watched
	seen   seen
	next   uint64 // values given
	vols   map[wire.VolumeID]*truth
	incs   map[wire.Incarnation]*incTruth
	groups []*groupOracle // in the order of their numbers

	frames map[uint64]*core.Outgoing // sent and not yet acknowledged, by number

	heldBuf     []seqSet
	comparisons map[sentID]compared // of checks
}

// groupOracle is the oracle's part for one group.
type groupOracle struct {
	*oracle
	id       wire.GroupID
	sizes    map[wire.VolumeID]int         // in blocks, of its volumes' devices
	first    map[wire.VolumeID]int         // the number of their first block among all of the group's
	blocks   int                           // of all its volumes
	asked    bool                          // a promote was asked for
	degraded bool                          // P3 is suspended, as recorded
	early    map[wire.Incarnation]wire.Seq // what was acknowledged meanwhile
	promoted image                         // the targets when the promote was whole
	removed  image                         // what the targets of removed volumes are to hold; nil for one of no use
	before   *cluster.Group                // as it was at the state before
	giveUps  wire.Set
	// point is the newest one on the targets, with what wrote it: after a giving up the state may know that no more.
	point struct {
		set  wire.Set
		incs map[wire.AgentID]*cluster.Incarnation
	}
	lostUpTo wire.Set // both copies of something in the sets up to here may be gone
	seen     struct{ applied, committed wire.Set }
	stock    stock
	// Room that the next look uses again.
	roll   rolled
	anew   foldedSets
	incBuf []countedInc
}

// group returns the part for a group.
func (o *oracle) group(id wire.GroupID) *groupOracle { return o.groups[id-1] }

// now returns the group as the newest state has it.
func (o *groupOracle) now() *cluster.Group { return o.w.newest().Groups[o.id] }

// truth is a source volume as its numbered or remembered writes left it.
type truth struct {
	now []uint64
	// history of each block, for P3: values in the order of their writes, and how many of them were acknowledged.
	history map[int][]uint64
	acked   map[int]int
	early   map[int]int // so many were when their group was degraded
}

func newOracle(w *World, st *cluster.State) *oracle {
	o := &oracle{
		w: w, last: st, vols: map[wire.VolumeID]*truth{}, incs: map[wire.Incarnation]*incTruth{}, frames: map[uint64]*core.Outgoing{},
		seen: seen{index: st.Index, view: st.View},
	}
	for _, id := range cluster.SortedKeys(st.Groups) {
		g := &groupOracle{oracle: o, id: id, sizes: map[wire.VolumeID]int{}, first: map[wire.VolumeID]int{}, early: map[wire.Incarnation]wire.Seq{}}
		for _, v := range cluster.SortedKeys(st.Groups[id].Volumes) {
			g.sizes[v], g.first[v] = blocksOf(st.Groups[id].Volumes[v])+w.slack, g.blocks
			g.blocks += g.sizes[v]
		}
		o.groups = append(o.groups, g)
	}
	return o
}

// firstOf returns the number of a volume's first block among all of the group's.
func (o *groupOracle) firstOf(v wire.VolumeID) int {
	first, ok := o.first[v]
	if !ok {
		panic(fmt.Sprintf("an update of volume %d, which group %d does not have", v, o.id))
	}
	return first
}

// imageOf returns the image that lies in the blocks of a group.
func (o *groupOracle) imageOf(blocks []uint64) image {
	im := image{}
	for id, first := range o.first {
		im[id] = blocks[first : first+o.sizes[id]]
	}
	return im
}

// value gives a number that was never written before.
func (o *oracle) value() uint64 {
	o.next++
	return o.next
}

// begin takes the sources as they are before the first write.
func (o *oracle) begin() {
	for _, h := range o.w.hosts {
		for id, d := range h.sources {
			o.vols[id] = &truth{now: slices.Clone(d.now), history: map[int][]uint64{}, acked: map[int]int{}, early: map[int]int{}}
		}
	}
}

func (o *oracle) event(e core.Event) {
	switch e.Name {
	case "component.left":
		o.w.stats.Left++
	case "component.lost":
		o.w.stats.Losses++
		if r := o.w.survivors; o.w.faults && r != nil && r.Float64() < 0.4 {
			o.w.isolateSurvivor(r)
		}
	case "incarnation.sealed":
		o.w.stats.Seals++
	case "cut.forced":
		o.w.stats.Voids++
	}
}

// restarted takes the sources as a crash left them.
func (o *oracle) restarted(h *host) {
	for id, d := range h.sources {
		if t := o.vols[id]; t != nil {
			for b, v := range d.now {
				if v != t.now[b] {
					t.history[b] = append(t.history[b], v) // a power cut took back what was not flushed
				}
			}
			t.now = slices.Clone(d.now)
		}
	}
}

func (o *oracle) write(vol wire.VolumeID, u *wire.Update) {
	t := o.vols[vol]
	first := int(u.Offset / blockSize)
	for b := range u.Length / blockSize {
		v := decodeBlock(u, b)
		t.now[first+int(b)] = v
		t.history[first+int(b)] = append(t.history[first+int(b)], v)
	}
}

// unnumbered takes a write that went to the bitmap only.
func (o *oracle) unnumbered(vol wire.VolumeID, first int, values []uint64) {
	if o.w.outside != nil {
		o.w.outside(vol, first, len(values))
	}
	t := o.vols[vol]
	for i, v := range values {
		t.now[first+i] = v
		t.history[first+i] = append(t.history[first+i], v)
	}
}

// placed is the last seq of a write that is acknowledged, and whether the primary knows it to be held, if it has to.
type placed struct {
	inc  wire.Incarnation
	seq  wire.Seq
	held bool
}

// acked notes what a client was told. While the group is recorded as degraded P3 does not hold for it.
func (o *oracle) acked(vol wire.VolumeID, first int, values []uint64, at placed) {
	t := o.vols[vol]
	acked := t.acked
	switch g, v := o.w.newest().Volume(vol); {
	case g.Unpromised():
		acked = t.early
		o.w.stats.Early++
		early := o.group(g.ID).early
		early[at.inc] = max(early[at.inc], at.seq)
	case g.Mode == cluster.Sync && v.Removed == nil && !at.held:
		o.w.fail("P3: seq %d of incarnation %d is acknowledged, and neither held nor is it recorded that group %d is degraded", at.seq, at.inc, g.ID)
	}
	for i, v := range values {
		hist := t.history[first+i]
		for k := len(hist) - 1; k >= 0; k-- {
			if hist[k] == v {
				acked[first+i] = max(acked[first+i], k+1)
				break
			}
		}
	}
}

// follow keeps the newest state, and learns the ends of sets.
func (o *oracle) follow(h *host) {
	if h.node == nil {
		return
	}
	st := h.node.State()
	if st.Index <= o.seen.index || st.Generation < o.w.generation {
		return
	}
	for _, g := range o.groups {
		g.follow(st)
	}
	o.w.replaceTargets(st)
	before := o.seen
	o.seen = seen{st.Index, st.View}
	if o.w.watch != nil || st.Index%encodeEvery == 0 {
		c, err := cluster.Decode(st.Encode())
		if err != nil {
			o.w.fail("the state does not survive its encoding: %v", err)
			return
		}
		if o.w.watch != nil {
			was := o.last
			o.last = c // states are changed in place by their nodes
			if o.w.watch != nil {
				o.w.saw(h, stateChange{was, c})
			}
		} else if !bytes.Equal(c.Encode(), st.Encode()) {
			o.w.fail("the state is another after its encoding")
		}
	}
	for _, o := range o.groups {
		g := st.Groups[o.id]
		o.removals(g)
		was := o.seen
		o.seen.applied, o.seen.committed = g.Applied, g.Committed
		if was != o.seen || before.view != st.View {
			o.checkPoints() // between such changes journals only grow
		}
	}
}

// follow learns how far a group is.
func (o *groupOracle) follow(st *cluster.State) {
	g := st.Groups[o.id]
	o.w.stats.Sets += max(0, int(g.Applied)-int(o.seen.applied))
	if o.point.set != g.Point.Set {
		o.point.set, o.point.incs = g.Point.Set, map[wire.AgentID]*cluster.Incarnation{}
		for _, p := range g.Primaries() {
			if inc := g.IncAt(p, g.Point.Set); inc != nil {
				o.point.incs[p] = new(*inc)
			}
		}
	}
	if g.GivenUp > o.giveUps && g.Phase == cluster.Replicating {
		o.giveUps = g.GivenUp
		if g.Abandoned == g.GivenUp {
			o.w.stats.Abandoned++
		} else {
			o.w.stats.GiveUps++
			if !o.w.doubleLoss {
				o.w.fail("P2: sets up to %d were given up, though one component at a time was away, and only when all was mirrored", g.GivenUp)
			}
			o.w.excuse()
		}
	}
	switch {
	case g.Unpromised() && !o.degraded:
		o.degraded = true
		o.w.stats.Degraded++
	case !g.Unpromised() && o.degraded:
		o.degraded = false
		o.w.stats.Again++
		o.promised()
	}
	if g.Phase == cluster.Promoted && o.promoted == nil {
		o.promotedNow(st)
	}
}

// promised has P3 hold again: also for what was acknowledged while the group was degraded.
func (o *groupOracle) promised() {
	for _, h := range o.w.hosts {
		if h.node == nil {
			continue
		}
		if v, ok := h.node.View(o.id); ok && v.HeldUpTo < o.early[v.Inc] {
			o.w.fail("P3: group %d is synchronous again, and of incarnation %d seq %d was acknowledged and %d is held", o.id, v.Inc, o.early[v.Inc], v.HeldUpTo)
		}
	}
	clear(o.early)
	for id := range o.sizes {
		t := o.vols[id]
		for b, k := range t.early {
			t.acked[b] = max(t.acked[b], k)
		}
		clear(t.early)
	}
}

// seen is what follow compares with the next state.
type seen struct {
	index uint64
	view  wire.View
}

// encodeEvery is how many Raft entries pass until a state is held against its encoding.
const encodeEvery = 16

// died keeps the state of a process that ends: it may have been the only one to know it.
func (o *oracle) died(h *host) {
	if st := h.node.State(); st.Index > o.last.Index {
		o.last = st
	}
}

// ackedFrame checks P2 when an owner tells a primary that a frame is held: each of its updates is durable on two members
// of the owner's view, or on one where the view itself says so.
//
// An owner may not have heard yet that its mirror was declared lost, and the mirror, which has, dropped what it held. What
// the owner says is still true of its view, as if its ack had been sent before the loss: its own copy is there, it
// mirrors it anew when it hears of the loss, and until it says so in the new view that view is not settled and the owner
// is not declared lost after the short limit. So what counts is what a member held in the life that the owner knows.
func (o *oracle) ackedFrame(h *host, no uint64) {
	out := o.frames[no]
	if out == nil || out.To != h.id {
		return
	}
	delete(o.frames, no)
	st := h.node.State()
	g := st.Groups[out.Header.Group]
	if out.Header.Set <= o.group(g.ID).now().Applied {
		return // freed, or given up, where that is known already
	}
	held := o.heldBuf[:0]
	for _, m := range st.Members {
		held = append(held, o.w.host(m).journal.heldIn(st.Agents[m].Life, out.Header.Incarnation))
	}
	o.heldBuf = held
	for i := range out.Updates {
		u := &out.Updates[i]
		copies := 0
		for k, m := range st.Members {
			if held[k].has(u.Seq) {
				copies++
			} else if m == h.id {
				copies = -len(st.Members) // what it says of itself is not so
			}
		}
		if copies >= 2 || (copies == 1 && st.Pair(g, out.Header.Set, u.PortionID()).Mirror == 0) {
			continue
		}
		o.w.fail("P2: seq %d of incarnation %d (set %d, portion %v) was called held by component %d with %d durable copies",
			u.Seq, out.Header.Incarnation, out.Header.Set, u.PortionID(), h.id, copies)
		return
	}
}

// allMirrored reports whether every component could die now without losing what was held. What ails the journal of one
// that is about to die is of no interest.
func (o *oracle) allMirrored(dying *host) bool {
	st := o.w.newest()
	for _, h := range o.w.hosts {
		if !h.backup || h.removed {
			continue
		}
		if st.Agents[h.id] == nil {
			continue // removed just now
		}
		if h != dying && h.journal.ails() {
			return false
		}
		if st.Agents[h.id].Drain && !st.IsMember(h.id) {
			continue // nothing was asked of it any more
		}
		if h.node == nil || !st.IsMember(h.id) {
			return false
		}
	}
	captain := o.w.captain()
	if captain == nil || len(st.Eligible()) < 2 || st.Settled != st.View {
		return false
	}
	for _, hd := range captain.Heard() {
		if c := hd.Status.Component; c != nil && (c.Rebuilding || hd.Status.View != st.View) {
			return false
		}
	}
	return true
}

func (w *World) captain() *core.Node {
	for _, h := range w.hosts {
		if h.node != nil && h.node.Leads() && h.node.State().Generation == w.generation {
			return h.node
		}
	}
	return nil
}

// targetWritten checks P4 and P5 where they would first be broken.
func (o *oracle) targetWritten(h *host, a core.Apply) {
	if o.group(a.Group).promoted != nil {
		o.w.fail("P4: set %d of view %d was written to a promoted target", a.Set, a.View)
	}
}
