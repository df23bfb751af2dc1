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
//  1. Submit numbers it (sequential per group) into the open set and queues it for its (owner, mirror) pair.
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
	// ErrSetFull says that the open set has reached twice its byte limit and can not be closed, for want of a captain
	// or a grant: the group is to be suspended.
	ErrSetFull = errors.New("the open set is full and can not be closed")
)

// item is one update that is not yet known to be held.
type item struct {
	u      wire.Update
	set    wire.Set
	handle any
	held   bool
	flight uint64 // number of the frame it went out in, 0 while it is queued
	pair   cluster.Pair
}

// flight is a frame on its way.
type flight struct {
	to      wire.AgentID
	at      time.Duration
	retryAt time.Duration // when a refused frame goes out again, 0 while it is not refused
	items   []*item
}

// ackSeen is the newest ack of a component: by it a slow link is told from a lost frame.
type ackSeen struct {
	at time.Duration
	no uint64 // highest frame acknowledged
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

	inc       wire.Incarnation // 0 while detached
	open      wire.Set         // 0 until the first set of the incarnation is open
	openedAt  time.Duration
	view      wire.View // the assignments of queued items are of this view and of these members
	members   uint64
	next      wire.Seq
	first     wire.Seq // first seq of the open set
	setBytes  int64
	lines     map[wire.Portion]*Tally
	lastKey   wire.Portion // the line used last
	lastLine  *Tally
	pairs     map[wire.Portion]cluster.Pair // of the open set
	broken    bool                          // the resync of this incarnation is not whole
	copied    map[wire.VolumeID]bool        // volumes whose first copy was finished in this incarnation
	bytes     int64
	resync    int64
	copyTotal int64

	pending []*item // ascending by seq, dense; pending[0] is not held
	queues  map[cluster.Pair][]*item
	order   []cluster.Pair // pairs in the order in which they were first queued, for a fair and repeatable choice
	flights map[uint64]*flight
	acks    map[wire.AgentID]ackSeen
	queued  int64      // bytes in pending
	marks   []markHeld // closed sets whose mark is not yet below held up to
	heldSet wire.Set

	hold hold
}

type markHeld struct {
	set wire.Set
	seq wire.Seq
}

// frameNo gives numbers to frames; it is shared by an agent's roles, so that an ack finds its frame.
func (n *Node) frameNo() uint64 {
	n.comp.nextNo++
	return n.comp.nextNo
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
	if grp := n.state.Groups[g]; grp != nil && s.setBytes > 0 && s.setBytes+total > grp.SetBytes {
		s.closeLocal()
		if s.setBytes+total > 2*grp.SetBytes {
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

// updateOverhead is what an update without data counts for in the limits.
const updateOverhead = 64

// number gives the next seq and queues the update.
func (s *source) number(it *item) {
	it.u.Seq = s.next
	s.next++
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
	s.pending = append(s.pending, it)
	s.queued += int64(len(it.u.Data)) + updateOverhead
	s.enqueue(it)
}

// enqueue puts an item into the queue of its pair. It goes out in the next frame to that owner.
func (s *source) enqueue(it *item) {
	g := s.n.state.Groups[s.group]
	p := it.u.PortionID()
	var pair cluster.Pair
	if it.set == s.open {
		var ok bool
		if pair, ok = s.pairs[p]; !ok {
			pair = s.n.state.Pair(g, it.set, p)
			s.pairs[p] = pair
		}
	} else {
		pair = s.n.state.Pair(g, it.set, p)
	}
	it.pair, it.flight = pair, 0
	if _, ok := s.queues[pair]; !ok {
		s.order = append(s.order, pair)
	}
	s.queues[pair] = append(s.queues[pair], it)
	s.n.eff.Wake = true
}

// Owners returns the components for which frames are queued.
func (n *Node) Owners() []wire.AgentID {
	var to []wire.AgentID
	for _, id := range cluster.SortedKeys(n.sources) {
		s := n.sources[id]
		for _, pair := range s.order {
			if len(s.queues[pair]) > 0 && pair.Owner != 0 && !slices.Contains(to, pair.Owner) {
				to = append(to, pair.Owner)
			}
		}
	}
	return to
}

// NextFrame takes up to maxBytes of updates that are queued for owner to, of one group, set and pair. It returns nil
// when there are none. The caller makes each update's Sum, encodes the body and sends the frame, or calls Disconnected.
func (n *Node) NextFrame(now time.Duration, to wire.AgentID, maxBytes int64) *Outgoing {
	n.now = max(n.now, now)
	for _, id := range cluster.SortedKeys(n.sources) {
		if out := n.sources[id].nextFrame(to, maxBytes); out != nil {
			return out
		}
	}
	return nil
}

func (s *source) nextFrame(to wire.AgentID, maxBytes int64) *Outgoing {
	for k, pair := range s.order {
		q := s.queues[pair]
		if pair.Owner != to || len(q) == 0 {
			continue
		}
		out := &Outgoing{
			To:     to,
			Route:  wire.Route{No: s.n.frameNo(), View: s.view, Owner: pair.Owner, Mirror: pair.Mirror},
			Header: wire.BodyHeader{Group: s.group, Primary: s.n.cfg.ID, Incarnation: s.inc, Set: q[0].set},
		}
		fl := &flight{to: to, at: s.n.now}
		taken := 0
		last := wire.Seq(0)
		for _, it := range q {
			if it.held {
				taken++
				continue
			}
			cost := int64(len(it.u.Data)) + updateOverhead
			if len(fl.items) > 0 && (it.set != out.Header.Set || out.Bytes+cost > maxBytes || it.u.Seq < last ||
				it.u.Kind == wire.KindMark || len(fl.items) >= wire.MaxUpdatesPerFrame) {
				break
			}
			out.Header.Set = it.set
			out.Bytes += cost
			out.Updates = append(out.Updates, it.u)
			out.Handles = append(out.Handles, it.handle)
			it.flight = out.Route.No
			fl.items = append(fl.items, it)
			last = it.u.Seq
			taken++
			if it.u.Kind == wire.KindMark {
				break // a mark travels alone: whoever reads it need not unpack others
			}
		}
		s.queues[pair] = q[taken:]
		if len(s.queues[pair]) == 0 {
			s.queues[pair] = nil
		}
		// The next choice begins behind this pair.
		s.order = append(append(slices.Clone(s.order[:k]), s.order[k+1:]...), pair)
		if len(fl.items) == 0 {
			return s.nextFrame(to, maxBytes)
		}
		s.flights[out.Route.No] = fl
		return out
	}
	return nil
}

// acked marks a frame's updates held. It returns false for a number that is not of this source.
func (s *source) acked(from wire.AgentID, no uint64) bool {
	fl := s.flights[no]
	if fl == nil || fl.to != from {
		return false
	}
	delete(s.flights, no)
	s.acks[from] = ackSeen{at: s.n.now, no: max(s.acks[from].no, no)}
	for _, it := range fl.items {
		it.held = true
	}
	s.advance()
	return true
}

// advance drops the dense prefix of held updates. A mutant drops what is not held.
func (s *source) advance() {
	k := 0
	for k < len(s.pending) && s.pending[k].held {
		it := s.pending[k]
		s.queued -= int64(len(it.u.Data)) + updateOverhead
		s.release(it)
		k++
	}
	if k == 0 {
		return
	}
	clear(s.pending[:k])
	s.pending = s.pending[k:]
	if len(s.pending) == 0 {
		s.pending = nil
	}
	for len(s.marks) > 0 && s.marks[0].seq <= s.heldUpTo() {
		s.heldSet = s.marks[0].set
		s.marks = s.marks[1:]
	}
	s.n.eff.Wake = true
}

func (s *source) release(it *item) {
	if it.handle != nil {
		s.n.eff.Release = append(s.n.eff.Release, it.handle)
		it.handle = nil
	}
}

// heldUpTo is the seq below and at which everything is held.
func (s *source) heldUpTo() wire.Seq {
	if len(s.pending) == 0 {
		return s.next - 1
	}
	return s.pending[0].u.Seq - 1
}

// requeue sends a frame's updates again.
func (s *source) requeue(no uint64) {
	fl := s.flights[no]
	delete(s.flights, no)
	for _, it := range fl.items {
		if !it.held {
			s.enqueue(it)
		}
	}
}

func (s *source) nacked(from wire.AgentID, m *FrameNack) bool {
	fl := s.flights[m.No]
	if fl == nil || fl.to != from {
		return false
	}
	if m.Reason == NackBad {
		s.n.event(s.group, "frame.refused", "by", from, "reason", m.Reason.String())
	}
	// Sent again only when its time has come: at once it would meet the same refusal. A change of the view or of the
	// state requeues it earlier.
	fl.retryAt = s.n.now + s.n.cfg.RetryEvery
	return true
}

// disconnected requeues what was on its way to a peer.
func (s *source) disconnected(peer wire.AgentID) {
	for _, no := range cluster.SortedKeys(s.flights) {
		if s.flights[no].to == peer {
			s.requeue(no)
		}
	}
}

// detach drops everything that belongs to the incarnation: its end is recorded, or asked for.
func (s *source) detach() {
	for _, it := range s.pending {
		s.release(it)
	}
	s.inc, s.open, s.next, s.first = 0, 0, 1, 1
	s.pending, s.queued, s.bytes, s.setBytes = nil, 0, 0, 0
	s.queues, s.order, s.flights = map[cluster.Pair][]*item{}, nil, map[uint64]*flight{}
	s.pairs, s.lines, s.lastLine = map[wire.Portion]cluster.Pair{}, map[wire.Portion]*Tally{}, nil
	s.marks, s.heldSet, s.acks = nil, 0, map[wire.AgentID]ackSeen{}
	s.broken, s.copied = true, map[wire.VolumeID]bool{} // until SetResync says otherwise
	s.hold = hold{}
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
	if g == nil || g.Phase != cluster.Replicating || !slices.Contains(g.Primaries(), n.cfg.ID) {
		if s.inc != 0 {
			s.renew()
		}
		return
	}
	if s.inc != 0 {
		if inc := g.Inc(s.inc); inc == nil || inc.Ended {
			n.event(s.group, "incarnation.ended", "incarnation", s.inc)
			s.renew()
			return
		}
	} else if inc := g.Live(n.cfg.ID); inc != nil && inc.Nonce == s.nonce {
		s.inc = inc.ID
		n.event(s.group, "incarnation.attached", "incarnation", inc.ID)
	}
	if s.inc == 0 {
		return
	}
	if s.view != n.state.View || s.members != n.state.MembersAt {
		s.view, s.members = n.state.View, n.state.MembersAt
		s.reassign()
	}
	if s.open == 0 {
		s.openFirst(g)
	}
}

// reassign queues everything that is not held by the assignments of the view.
func (s *source) reassign() {
	s.queues, s.order, s.flights = map[cluster.Pair][]*item{}, nil, map[uint64]*flight{}
	s.pairs = map[wire.Portion]cluster.Pair{}
	for _, it := range s.pending {
		if !it.held {
			s.enqueue(it)
		}
	}
}

// openFirst opens the first set of the incarnation when it is alone in it; with several primaries a cut does.
func (s *source) openFirst(g *cluster.Group) {
	inc := g.Inc(s.inc)
	if inc.First == 0 {
		return
	}
	if gr := g.Grant(inc.First); gr != nil && len(gr.Incs) == 1 {
		s.openSet(inc.First)
	}
}

func (s *source) openSet(set wire.Set) {
	if s.open == 0 {
		s.n.event(s.group, "incarnation.open", "incarnation", s.inc, "set", set)
	}
	s.open, s.openedAt, s.first, s.setBytes = set, s.n.now, s.next, 0
	s.lines, s.lastLine = map[wire.Portion]*Tally{}, nil
	s.pairs = map[wire.Portion]cluster.Pair{}
	s.n.eff.Wake = true
}

// closeSet ends the open set with its manifest and opens the next.
func (s *source) closeSet(next wire.Set) {
	m := Manifest{First: s.first, Last: s.next, Broken: s.broken}
	for p, t := range s.lines {
		m.Lines = append(m.Lines, Line{Portion: p, Tally: *t})
	}
	slices.SortFunc(m.Lines, func(a, b Line) int {
		if a.Portion.Volume != b.Portion.Volume {
			return int(int64(a.Portion.Volume) - int64(b.Portion.Volume))
		}
		return int(int64(a.Portion.Index) - int64(b.Portion.Index))
	})
	m.Copied = cluster.SortedKeys(s.copied)
	data := m.Encode()
	p := wire.MarkPortion(s.n.cfg.ID)
	s.lastLine = &Tally{} // the mark is not a line of its own manifest
	s.lastKey = p
	it := &item{set: s.open, u: wire.Update{
		Volume: p.Volume, Portion: p.Index, Kind: wire.KindMark, Length: uint32(len(data)), Data: data,
	}}
	s.number(it)
	s.marks = append(s.marks, markHeld{set: s.open, seq: it.u.Seq})
	s.openSet(next)
}

// closeUpTo closes every set below m, with an empty manifest where nothing was written, and opens m.
func (s *source) closeUpTo(m wire.Set) {
	if s.open == 0 {
		if inc := s.n.state.Groups[s.group].Inc(s.inc); inc.First != 0 {
			s.openSet(min(inc.First, m))
		}
	}
	for s.open < m {
		s.closeSet(s.open + 1)
	}
}

// closeLocal closes the open set if its boundary is this primary's own business and the next set is granted.
func (s *source) closeLocal() {
	g := s.n.state.Groups[s.group]
	if g == nil || s.open == 0 || s.hold.on {
		return
	}
	this, next := g.Grant(s.open), g.Grant(s.open+1)
	if this == nil || next == nil || len(this.Incs) != 1 || len(next.Incs) != 1 || next.Incs[0] != s.inc {
		return
	}
	s.closeSet(s.open + 1)
}

func (s *source) tick() {
	n := s.n
	s.holdTick()
	g := n.state.Groups[s.group]
	if g == nil {
		return
	}
	switch {
	case s.inc != 0:
		if s.open != 0 && n.now-s.openedAt >= time.Duration(g.PeriodMS)*time.Millisecond {
			s.closeLocal()
		}
		s.resend()
	case g.Phase != cluster.Replicating:
	case s.suspended || !s.ready:
		if inc := g.Live(n.cfg.ID); inc != nil && n.now >= s.endAt {
			s.endAt = n.now + n.cfg.RetryEvery
			n.Propose(cluster.Command{End: &cluster.End{Group: s.group, Inc: inc.ID}})
		}
	case n.now >= s.attachAt && len(n.state.Members) > 0:
		s.attachAt = n.now + n.cfg.RetryEvery
		n.Propose(cluster.Command{Attach: &cluster.Attach{Group: s.group, Primary: n.cfg.ID, Nonce: s.nonce}})
	}
}

// resend queues again what was refused, and what seems lost: a frame older than ResendAfter to a component that has
// acknowledged a later one, or nothing for as long. On a slow link acks keep coming, in the order of the frames.
func (s *source) resend() {
	n := s.n
	var due []uint64
	for no, fl := range s.flights {
		ack := s.acks[fl.to]
		lost := n.now-fl.at >= n.cfg.ResendAfter && (ack.no > no || n.now-ack.at >= n.cfg.ResendAfter)
		if lost || (fl.retryAt != 0 && n.now >= fl.retryAt) {
			due = append(due, no)
		}
	}
	slices.Sort(due)
	for _, no := range due {
		s.requeue(no)
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
	for _, v := range copied {
		s.copied[v] = true
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
		Seq: s.next - 1, HeldUpTo: s.heldUpTo(), Queued: s.queued,
	}
	if inc := grp.Inc(s.inc); inc != nil {
		v.Whole = inc.Whole != 0
	}
	return v, true
}

func (s *source) status() GroupStatus {
	return GroupStatus{
		Group: s.group, Inc: s.inc, Open: s.open, Seq: s.next - 1, HeldUpTo: s.heldUpTo(), HeldSet: s.heldSet,
		Bytes: s.bytes, Queued: s.queued, Resync: s.resync, CopyTotal: s.copyTotal,
	}
}
