package core

import (
	"slices"
	"sort"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// entry is one update that this component holds. Its pointer is stable.
type entry struct {
	seq      wire.Seq
	f        *frame
	h        *holding
	i        int32    // index of the update in the frame
	pump     uint32   // the newest component.pump in which it was on its way to the other component of the pair
	waits    *ackWait // whom it keeps back
	durable  bool     // in this component's journal
	mirrored bool     // and in that of the other component of the pair, as far as this one knows
	gone     bool     // dropped from the index
}

// frame is a stored frame. updates are headers, but for marks, whose data stays.
type frame struct {
	id      uint64
	updates []wire.Update
	ref     any
	durable bool
	entries []*entry // those that the index took from this frame
}

// mirrorFlight is a frame on its way from an owner to its mirror, or from a mirror to its owner.
type mirrorFlight struct {
	to       wire.AgentID
	hop      wire.AgentID // the component over which it goes, or to
	at       time.Duration
	entries  []*entry
	remirror bool // out of the owner's journal
	forward  bool // out of the mirror's
}

// copyTrack tells apart the frames to one component that are acknowledged in order: those that go on as they came, and
// those out of the journal.
type copyTrack struct {
	to      wire.AgentID
	journal bool
}

func (f *mirrorFlight) track() copyTrack { return copyTrack{f.to, f.remirror || f.forward} }

type component struct {
	n         *Node
	nextID    uint64 // of stored frames
	nextNo    uint64 // of frames sent by any role of this agent
	frames    map[uint64]*frame
	sets      map[setKey]*heldSet
	order     []*heldSet // of sets, ascending
	newMarks  bool       // findMarks may find something anywhere
	marked    []*holding // and here
	acking    ackWaits
	flights   map[uint64]*mirrorFlight
	flying    map[wire.AgentID]int // re-mirrored frames in flight
	pump      uint32               // counts what markFlying found out
	acks      map[copyTrack]ackSeen
	behind    int           // holdings that are
	forwardAt time.Duration // after a refusal
	view      wire.View
	members   uint64 // State.MembersAt
	life      uint64 // of this component; its journal is of this life
	booted    bool
	admitAt   time.Duration
	touched   bool // something happened that settle must look at
	pollAt    time.Duration
	pumpAt    time.Duration
	poll      bool // and so must pollTasks, which costs more: at a tick, or when somebody answered
	marks     map[incSet]*markTask
	told      wire.AgentID // the captain that marks were told to
	tasks     map[incSet]*lineTask
	due       []dueMark // room of pollTasks
	answers   []incSet
	freed     map[wire.GroupID]wire.Set
	sealedAt  map[wire.Incarnation]wire.Seq // the seal above which it was purged
	reportAt  time.Duration
	reportNo  uint64
	restored  bool
	lost      bool // the journal is; see SetJournalLost
	loseAt    time.Duration
	used      int64
	limit     int64
	reserve   int64
	load      load
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
		n: n, frames: map[uint64]*frame{}, sets: map[setKey]*heldSet{},
		flights: map[uint64]*mirrorFlight{}, flying: map[wire.AgentID]int{}, acks: map[copyTrack]ackSeen{},
		marks: map[incSet]*markTask{}, tasks: map[incSet]*lineTask{},
		freed: map[wire.GroupID]wire.Set{}, sealedAt: map[wire.Incarnation]wire.Seq{},
		// Frame numbers of a new run must not meet acks of an older one.
		nextNo: mix(wire.Seq(n.cfg.Seed)) >> 16 << 16,
		load:   load{stores: map[uint64]int64{}, at: n.now},
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
		if inc != nil && inc.Sealed && !belowSeal(inc, b.Set, u) && !c.n.mutant("revoked-accepted") {
			continue
		}
		if p := u.PortionID(); h == nil || h.Portion != p {
			h = c.holding(b, p)
			if p.Volume == wire.MarkVolume {
				c.marked = append(c.marked, h)
			}
		}
		at := len(h.entries)
		if at > 0 && h.entries[at-1].seq >= u.Seq {
			at = sort.Search(len(h.entries), func(k int) bool { return h.entries[k].seq >= u.Seq })
			if at < len(h.entries) && h.entries[at].seq == u.Seq {
				continue
			}
		}
		e := &block[i]
		*e = entry{seq: u.Seq, f: f, i: int32(i), h: h}
		if at == len(h.entries) {
			h.entries = append(h.entries, e)
		} else {
			h.entries = slices.Insert(h.entries, at, e)
		}
		f.entries = append(f.entries, e)
		h.bytes += size(u)
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

// stateChanged follows the replicated state.
func (c *component) stateChanged() {
	st := c.n.state
	c.followLife()
	var gone map[wire.GroupID]bool
	var last wire.GroupID
	for _, s := range c.order { // by group
		if s.group == last {
			continue
		}
		if last = s.group; st.Groups[last] == nil {
			if gone == nil {
				gone = map[wire.GroupID]bool{}
			}
			gone[last] = true
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
		c.acking.endAll(func(*ackWait) bool { return true })
		c.refresh(false)
		c.unmirrorFlying()
		c.marks, c.tasks = map[incSet]*markTask{}, map[incSet]*lineTask{}
		c.findMarks()
	}
	if c.members != st.MembersAt {
		c.members = st.MembersAt
		c.refresh(false)
		for _, w := range c.acking.all {
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
			c.drop(func(k setKey) bool { return (k.group == id || c.n.mutant("free-every-group")) && k.set <= past })
			c.n.eff.Free = append(c.n.eff.Free, Free{Group: id, UpTo: past})
		}
	}
	c.forgetSeals()
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
		c.acking.endAll(func(*ackWait) bool { return true })
		c.flights, c.flying = map[uint64]*mirrorFlight{}, map[wire.AgentID]int{}
		c.load.reset(c.n.now)
		c.n.eff.Wipe = true
		c.n.event(0, "component.reset", "agent", c.n.cfg.ID)
	}
	c.life = a.Life
}

// Life returns the life that this agent's journal belongs to, 0 when it is no component.
func (n *Node) Life() uint64 { return n.comp.life }

// SetJournal tells the node how full the journal is, in bytes; reserve is the part of limit that owners may not take.
func (n *Node) SetJournal(used, limit, reserve int64) {
	n.comp.used, n.comp.limit, n.comp.reserve = used, limit, reserve
}

func (c *component) status() *ComponentStatus {
	c.load.pass(c.n.now)
	st := &ComponentStatus{
		Used: c.used, Limit: c.limit, Reserve: c.reserve, Stranded: c.n.reach.stranded(), Sets: len(c.order),
		TakenOwned: c.load.owned, TakenMirrored: c.load.mirrored, Busy: c.load.busy, Waited: c.load.waited,
	}
	if a := c.n.state.Agents[c.n.cfg.ID]; a != nil {
		st.Life = a.Life
	}
	second := len(c.n.state.Eligible()) > 1 // there is one for every copy
	for _, s := range c.order {
		for _, h := range s.ascending() {
			if h.owned {
				st.Owned += int64(len(h.entries))
				st.OwnedBytes += h.bytes
				st.Unheld += h.unheld()
				if !h.known || h.behind || h.flying > 0 || (h.mirror == 0 && second) {
					st.Rebuilding = true
				}
			} else {
				st.Mirrored += int64(len(h.entries))
				st.MirroredBytes += h.bytes
			}
		}
	}
	if slices.ContainsFunc(c.acking.all, func(w *ackWait) bool { return w.back != nil && !w.over }) {
		st.Rebuilding = true // an owner lacks what is here
	}
	return st
}

func (c *component) tick() {
	c.touched, c.poll = true, true // retries are due by time
	if a := c.n.state.Agents[c.n.cfg.ID]; a != nil && a.Backup && a.Life == 0 && !a.Drain && !c.lost && c.n.now >= c.admitAt && c.n.reach.mayJoin() {
		c.admitAt = c.n.now + c.n.cfg.RetryEvery
		c.n.Propose(cluster.Command{Admit: &cluster.Admit{Agent: a.ID}})
	}
	c.proposeLoss()
	c.expireFlights()
	c.report()
	c.settle()
}
