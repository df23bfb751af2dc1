package core

import (
	"errors"
	"slices"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// A write passes these stages on its primary:
//
//  1. Submit numbers it (sequential per group) into the open set and queues it for its (owner, mirror) pair. What it
//     supersedes there is folded (superseded.go).
//  2. NextFrame takes what is queued for one pair and set as a frame (the sender encodes and sends it, outside).
//  3. acked marks the frame's updates held; held up to rises over every dense prefix, and their payload is released.
//  4. The end of the set appends its manifest as a mark, which takes the same way.
//
// Until it is held, an update stays in pending, and is queued again whenever its frame is refused, lost or too old, or
// its assignment has changed.

// Errors of Submit.
var (
	// ErrPaused says that the group stands still for a cut: try again when woken. It lasts HoldMax at most.
	ErrPaused = errors.New("the group stands still for a cut")
	// ErrDetached says that the group has no incarnation or no open set here: the write is to be remembered in the
	// bitmap.
	ErrDetached = errors.New("the group is not attached")
	// ErrSetFull says that the open set has reached twice its limit of bytes or portions and can not be closed, for want of a captain
	// or a grant: the group is to be suspended.
	ErrSetFull = errors.New("the open set is full and can not be closed")
)

// item is one update that is not yet known to be held.
type item struct {
	u       wire.Update
	set     wire.Set
	handle  any
	held    bool
	spilled uint32 // the length of its data while they are not in memory, see spill.go; 0 while they are
	at      int64  // what was numbered before it in this incarnation, in bytes
	since   time.Duration
	flight  uint64 // number of the frame it went out in, 0 while it is queued
	pair    cluster.Pair
}

// source is a primary's part in one group.
type source struct {
	n     *Node
	group wire.GroupID

	// ready is set by the shell once the volumes can be read and written. suspended keeps the primary from attaching.
	ready     bool
	suspended bool
	nonce     uint64
	attachAt  time.Duration // not before this time is an incarnation asked for (again)
	endAt     time.Duration
	need      int64 // bytes that the next incarnation would copy in a chain, -1 while the shell has not said
	saysNeed  bool  // the shell does say it
	room      int64 // what the captain said that the journals can take, at roomAt
	roomAt    time.Duration
	noRoom    bool // need is more
	abandoned int  // chains that were given up for want of room since one was whole

	inc       wire.Incarnation // 0 while detached
	open      wire.Set         // 0 until the first set of the incarnation is open
	openedAt  time.Duration
	view      wire.View // the assignments of queued items are of this view and of these members
	members   uint64
	next      wire.Seq
	first     wire.Seq // first seq of the open set
	setBytes  int64
	setFolded int64 // bytes of the open set that were folded
	lines     map[wire.Portion]*Tally
	lastKey   wire.Portion // the line used last
	lastLine  *Tally
	pairs     map[wire.Portion]cluster.Pair // of the open set
	again     bool                          // an older incarnation has uncommitted sets: a volume may turn out to be copied by them
	broken    bool                          // the resync of this incarnation is not whole
	copied    map[wire.VolumeID]bool        // volumes whose first copy was finished in this incarnation
	bytes     int64                         // submitted in this incarnation
	numbered  int64                         // those, and what manifests and updates without data count for
	resync    int64
	copyTotal int64
	copies    []CopyStatus

	pending []*item                  // ascending by seq, dense; pending[0] is not held
	queues  map[cluster.Pair][]*item // those of pending that are in no flight; see queue.go
	flights map[uint64]*flight
	pipes   map[wire.AgentID]*pipe
	acks    map[track]ackSeen
	queued  int64      // bytes in pending
	marks   []markHeld // closed sets whose mark is not yet below held up to
	heldSet wire.Set

	checked []Checked      // of this incarnation, for the shell
	check   *CheckProgress // what the shell says of it
	hold    hold
	folding folding
	spill   spilling
	load    *Overload // what the shell says of it
	band    bandwidth
	traffic Traffic
	promise promise
}

// AddSource tells the node that this agent can serve the group's volumes: it attaches as soon as it may. Calling it
// again changes nothing.
func (n *Node) AddSource(now time.Duration, g wire.GroupID) {
	n.now = max(n.now, now)
	s := n.sources[g]
	if s == nil {
		s = &source{n: n, group: g}
		s.nonce = n.nonce()
		s.detach()
		n.sources[g] = s
		n.order()
	}
	s.ready = true
	s.stateChanged()
}

// RemoveSource ends the group's incarnation here and forgets the group.
func (n *Node) RemoveSource(now time.Duration, g wire.GroupID) {
	n.now = max(n.now, now)
	s := n.sources[g]
	if s == nil {
		return
	}
	if s.inc != 0 {
		n.Propose(cluster.Command{End: &cluster.End{Group: g, Inc: s.inc}})
	}
	s.detach()
	delete(n.sources, g)
	n.order()
}

// order lists the sources, ascending by group.
func (n *Node) order() {
	n.ordered = nil
	for _, id := range cluster.SortedKeys(n.sources) {
		n.ordered = append(n.ordered, n.sources[id])
	}
}

// nonce draws the number of an attach from the seed of this run.
func (n *Node) nonce() uint64 {
	if n.mutant("reuse-seqs") {
		return 1
	}
	n.cfg.Seed++
	return mix(wire.Seq(n.cfg.Seed)) | 1
}

// Submit numbers the updates of one write, in order, in one set. The updates' Portion must be set, Seq and Sum are made
// here and by the sender. handle is given back in Effects.Release once for each update, when the update's payload is not
// needed any more. The returned seq is the last one; the caller may tell its client when the mode allows.
func (n *Node) Submit(now time.Duration, g wire.GroupID, ups []wire.Update, handle any) (wire.Incarnation, wire.Seq, error) {
	n.now = max(n.now, now)
	s := n.sources[g]
	if s == nil || s.inc == 0 || s.open == 0 {
		return 0, 0, ErrDetached
	}
	if s.hold.on {
		return 0, 0, ErrPaused
	}
	var total int64
	for i := range ups {
		total += int64(len(ups[i].Data)) + updateOverhead
	}
	if grp := n.state.Groups[g]; grp != nil && s.setBytes > 0 && (s.setBytes+total > grp.SetBytes || len(s.lines) >= setPortions) {
		s.closeLocal()
		if s.setBytes+total > 2*grp.SetBytes || len(s.lines) >= 2*setPortions {
			return 0, 0, ErrSetFull
		}
	}
	items := make([]item, len(ups))
	for i := range ups {
		items[i] = item{u: ups[i], set: s.open, handle: handle}
		items[i].u.More = i < len(ups)-1
		s.number(&items[i])
	}
	s.setBytes += total
	s.bytes += total
	return s.inc, s.next - 1, nil
}

// setPortions is how many portions a set may touch before it closes early. Twice as many lines still make a mark of less than
// wire.MaxUpdateLength: a line takes some 52 bytes.
const setPortions = 1 << 15

// updateOverhead is what an update without data counts for in the limits.
const updateOverhead = 64

// cost is what the update counts for in the limits, wherever its data are.
func (it *item) cost() int64 { return it.size() + updateOverhead }

// size is the length of the update's data.
func (it *item) size() int64 {
	return int64(it.spilled) + int64(len(it.u.Data))
}

// number gives the next seq and queues the update.
func (s *source) number(it *item) {
	it.u.Seq = s.next
	s.next++
	s.traffic.Written += it.size()
	p := it.u.PortionID()
	if s.lastLine == nil || s.lastKey != p {
		l := s.lines[p]
		if l == nil {
			l = &Tally{}
			s.lines[p] = l
		}
		s.lastKey, s.lastLine = p, l
	}
	s.lastLine.add(it.u.Seq)
	s.supersede(it)
	s.pending = append(s.pending, it)
	it.at, it.since = s.numbered, s.n.now
	s.numbered += it.cost()
	s.queued += it.cost()
	s.enqueue(it)
}

// detach drops everything that belongs to the incarnation: its end is recorded, or asked for.
func (s *source) detach() {
	for _, it := range s.pending {
		s.release(it)
	}
	s.inc, s.open, s.next, s.first = 0, 0, 1, 1
	s.pending, s.queued, s.bytes, s.numbered, s.setBytes = nil, 0, 0, 0, 0
	s.queues, s.pipes = map[cluster.Pair][]*item{}, map[wire.AgentID]*pipe{}
	s.forgetFlights()
	s.pairs, s.lines, s.lastLine = map[wire.Portion]cluster.Pair{}, map[wire.Portion]*Tally{}, nil
	s.marks, s.heldSet, s.acks = nil, 0, map[track]ackSeen{}
	s.copies = nil
	s.broken, s.copied = true, map[wire.VolumeID]bool{} // until SetResync says otherwise
	s.hold, s.folding, s.spill = hold{}, folding{}, spilling{}
	s.promise.fence = 0 // a later incarnation is whole only with all that was acknowledged before it
	if s.saysNeed {
		s.need = -1
	}
	s.checked = nil
	s.n.eff.Wake = true
}

// Suspend ends the group's incarnation and keeps the primary from attaching until Unsuspend: its writes go to the
// bitmap only.
func (n *Node) Suspend(now time.Duration, g wire.GroupID) {
	n.now = max(n.now, now)
	s := n.sources[g]
	if s == nil || s.suspended {
		return
	}
	s.suspended = true
	n.event(g, "group.suspended", "queued_bytes", s.queued, "held_up_to", s.heldUpTo())
	s.renew()
}

// Unsuspend lets the primary attach again.
func (n *Node) Unsuspend(now time.Duration, g wire.GroupID) {
	n.now = max(n.now, now)
	if s := n.sources[g]; s != nil && s.suspended {
		s.suspended = false
		n.event(g, "group.resumed")
		s.stateChanged()
	}
}

// renew leaves the incarnation: the next attach asks for another.
func (s *source) renew() {
	s.detach()
	s.nonce = s.n.nonce()
	s.attachAt, s.endAt = 0, 0
	s.stateChanged()
}

// stateChanged follows the replicated state.
func (s *source) stateChanged() {
	n := s.n
	g := n.state.Groups[s.group]
	s.followDegraded(g)
	if g == nil || g.Phase != cluster.Replicating || !slices.Contains(g.Primaries(), n.cfg.ID) {
		if s.inc != 0 {
			s.renew()
		}
		return
	}
	if s.inc != 0 {
		if inc := g.Inc(s.inc); inc == nil || inc.Ended {
			n.event(s.group, "incarnation.ended", "incarnation", s.inc)
			if s.broken && g.Abandoned != 0 && g.Abandoned >= s.open {
				s.abandoned++
			}
			s.renew()
			return
		}
	} else if inc := g.Live(n.cfg.ID); inc != nil && inc.Nonce == s.nonce {
		s.inc = inc.ID
		s.again = slices.ContainsFunc(g.Incs, func(o *cluster.Incarnation) bool {
			return o.Primary == inc.Primary && o != inc && (!o.Sealed || o.Last > g.Committed)
		})
		n.event(s.group, "incarnation.attached", "incarnation", inc.ID)
	} else if slices.ContainsFunc(g.Incs, func(o *cluster.Incarnation) bool { return o.Ended && o.Primary == n.cfg.ID && o.Nonce == s.nonce }) {
		s.nonce, s.attachAt = n.nonce(), 0 // it was ended before it was seen here: another is to be asked for
	}
	if s.inc == 0 {
		return
	}
	s.appliedIsHeld(g.Applied)
	if s.view != n.state.View || s.members != n.state.MembersAt {
		s.view, s.members = n.state.View, n.state.MembersAt
		s.reassign()
	}
	if s.open == 0 {
		s.openFirst(g)
	}
}

// appliedIsHeld marks what is applied held: its ack may be lost, and nobody can be sent it any more.
func (s *source) appliedIsHeld(applied wire.Set) {
	for _, it := range s.pending {
		if it.set > applied {
			break
		}
		it.held = true
	}
	s.unqueueHeld()
	s.advance()
}

func (s *source) tick() {
	n := s.n
	s.holdTick()
	s.bandTick()
	g := n.state.Groups[s.group]
	if g == nil {
		return
	}
	s.promiseTick(g)
	switch {
	case s.inc != 0:
		if period := time.Duration(g.PeriodMS) * time.Millisecond; s.open != 0 && n.now-s.openedAt >= period && !s.foldsOn(period) {
			s.closeLocal()
		}
		s.resend()
	case g.Phase != cluster.Replicating:
	case s.suspended || !s.ready || !s.fits(): // the incarnation of an earlier run is ended all the same, so that it is sealed
		if inc := g.Live(n.cfg.ID); inc != nil && n.now >= s.endAt {
			s.endAt = n.now + n.cfg.RetryEvery
			n.Propose(cluster.Command{End: &cluster.End{Group: s.group, Inc: inc.ID}})
		}
	case n.now >= s.attachAt && len(n.state.Members) > 0:
		s.attachAt = n.now + n.cfg.RetryEvery
		n.Propose(cluster.Command{Attach: &cluster.Attach{Group: s.group, Primary: n.cfg.ID, Nonce: s.nonce}})
	}
}

// SetResync tells the node how the copies of the group's volumes stand, for its next manifests: broken while a resync of
// a volume that has recovery points is not whole; copied are the volumes whose first copy is. left and total are bytes.
func (n *Node) SetResync(g wire.GroupID, broken bool, copied []wire.VolumeID, left, total int64) {
	s := n.sources[g]
	if s == nil {
		return
	}
	s.broken, s.resync, s.copyTotal = broken, left, total
	if !broken {
		s.abandoned = 0
	}
	for _, v := range copied {
		s.copied[v] = true
	}
}

// SetCopies tells the node how far the copies are, volume by volume, for the status.
func (n *Node) SetCopies(g wire.GroupID, copies []CopyStatus) {
	if s := n.sources[g]; s != nil {
		s.copies = copies
	}
}

// View returns what the shell needs to know of one of this agent's groups as a primary.
func (n *Node) View(g wire.GroupID) (GroupView, bool) {
	s, grp := n.sources[g], n.state.Groups[g]
	if s == nil || grp == nil {
		return GroupView{}, false
	}
	v := GroupView{
		Group: g, Inc: s.inc, Mode: grp.Mode, Open: s.open, Applied: grp.Applied,
		Seq: s.next - 1, HeldUpTo: s.heldUpTo(), HeldSet: s.heldSet, Queued: s.queued, Folded: s.folding.pending,
		Spilled: s.spill.bytes, SpilledUpdates: s.spill.updates,
	}
	if inc := grp.Inc(s.inc); inc != nil {
		v.Whole = inc.Whole != 0
	}
	v.Early, v.Index = s.early(grp), n.state.Index
	return v, true
}

func (s *source) status() GroupStatus {
	gs := GroupStatus{
		Group: s.group, Inc: s.inc, Open: s.open, Seq: s.next - 1, HeldUpTo: s.heldUpTo(), HeldSet: s.heldSet,
		Bytes: s.bytes, Queued: s.queued, Resync: s.resync, CopyTotal: s.copyTotal, Copies: s.copies, Traffic: s.traffic,
		Check: s.check, Overload: s.load,
	}
	if g := s.n.state.Groups[s.group]; g != nil && g.Mode == cluster.Sync {
		gs.Lag, gs.Covers = s.lag(), s.covers(g)
	}
	if s.inc == 0 && s.need != 0 {
		gs.Need, gs.NoRoom = max(s.wants(), -1), s.noRoom
	}
	return gs
}
