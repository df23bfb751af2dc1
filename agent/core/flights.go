package core

import (
	"maps"
	"slices"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// flight is a frame on its way.
type flight struct {
	to      wire.AgentID // who acknowledges it
	at      time.Duration
	retryAt time.Duration // when a refused frame goes out again, 0 while it is not refused
	items   []*item
	pair    cluster.Pair
	bytes   int64
}

// frameNo gives numbers to frames; it is shared by an agent's roles, so that an ack finds its frame.
func (n *Node) frameNo() uint64 {
	n.comp.nextNo++
	return n.comp.nextNo
}

// way is how a primary's frames of a pair go.
type way struct {
	hop   wire.AgentID // where they are sent
	acks  wire.AgentID // who acknowledges them
	via   wire.AgentID
	flags uint16
}

// way goes straight to the owner, or to the mirror, which forwards, or over another component.
func (s *source) way(pair cluster.Pair) way {
	r := s.n.reach
	if !r.reaches(pair.Owner) && pair.Mirror != 0 && r.reaches(pair.Mirror) && !s.n.mutant("no-forward") {
		return way{hop: pair.Mirror, acks: pair.Mirror, flags: forward}
	}
	hop, via := r.frameHop(pair.Owner)
	return way{hop: hop, acks: pair.Owner, via: via}
}

// Hops returns the components to which queued frames are to be sent, ascending.
func (n *Node) Hops() []wire.AgentID {
	to := map[wire.AgentID]bool{}
	for _, s := range n.ordered {
		if s.heldBack() {
			continue
		}
		for pair := range s.queues {
			if pair.Owner != 0 {
				to[s.way(pair).hop] = true
			}
		}
	}
	return cluster.SortedKeys(to)
}

// NextFrame takes up to maxBytes of updates that are to be sent to component to, of one group, set and pair. It returns nil
// when there are none. The caller makes each update's Sum, encodes the body and sends the frame, or calls Disconnected; and
// Sent says how long it became.
func (n *Node) NextFrame(now time.Duration, to wire.AgentID, maxBytes int64) *Outgoing {
	n.now = max(n.now, now)
	for _, s := range n.ordered {
		if out := s.nextFrame(to, maxBytes); out != nil {
			return out
		}
	}
	return nil
}

// nextFrame takes from the queue that begins with the oldest update.
func (s *source) nextFrame(to wire.AgentID, maxBytes int64) *Outgoing {
	if s.heldBack() {
		return nil
	}
	pair, found := s.oldest(to)
	if !found {
		return nil
	}
	way, q := s.way(pair), s.queues[pair]
	pipe := s.pipe(way.acks)
	maxBytes = min(s.frameMax(maxBytes), pipe.size/pipeFrames)
	out := &Outgoing{
		To:     to,
		Rate:   s.rate(),
		Route:  wire.Route{No: s.n.frameNo(), View: s.view, Owner: pair.Owner, Mirror: pair.Mirror, Via: way.via, Flags: way.flags},
		Header: wire.BodyHeader{Group: s.group, Primary: s.n.cfg.ID, Incarnation: s.inc, Set: q[0].set},
	}
	room := min(len(q), 256, int(maxBytes/updateOverhead)+1)
	fl := &flight{to: way.acks, pair: pair, at: s.n.now, items: make([]*item, 0, room)}
	out.Updates, out.Handles = make([]wire.Update, 0, room), make([]any, 0, room)
	for _, it := range q {
		if len(fl.items) > 0 && (it.set != out.Header.Set || out.Bytes+it.cost() > maxBytes ||
			it.u.Kind == wire.KindMark || len(fl.items) >= wire.MaxUpdatesPerFrame) {
			break
		}
		out.Bytes += it.cost()
		s.traffic.Framed += it.size()
		out.Updates = append(out.Updates, it.u)
		out.Handles = append(out.Handles, it.handle)
		it.flight = out.Route.No
		s.sending(it)
		fl.items = append(fl.items, it)
		if it.u.Kind == wire.KindMark {
			break // a mark travels alone: whoever reads it need not unpack others
		}
	}
	s.dequeue(pair, len(fl.items))
	fl.bytes = out.Bytes
	s.charge(out.Bytes)
	pipe.flying += fl.bytes
	s.flights[out.Route.No] = fl
	return out
}

// acked marks a frame's updates held. It returns false for a number that is not of this source.
func (s *source) acked(from wire.AgentID, no uint64) bool {
	fl := s.flights[no]
	if fl == nil || fl.to != from {
		return false
	}
	delete(s.flights, no)
	s.landed(fl, true)
	seen := s.acks[track{fl.to, fl.pair}]
	seen.note(no, s.n.now)
	s.acks[track{fl.to, fl.pair}] = seen
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
		s.queued -= it.cost()
		if it.u.Kind == wire.KindFolded {
			s.folding.pending--
		}
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
	s.unspill(it)
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
	s.landed(fl, false)
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

// reassign queues everything that is not held by the assignments of the view.
func (s *source) reassign() {
	s.queues = map[cluster.Pair][]*item{}
	s.forgetFlights()
	maps.DeleteFunc(s.pipes, func(to wire.AgentID, _ *pipe) bool { return !s.n.state.IsMember(to) })
	s.pairs = map[wire.Portion]cluster.Pair{}
	for _, it := range s.pending {
		if !it.held {
			s.enqueue(it)
		}
	}
}

// resend queues again what was refused, and what seems lost.
func (s *source) resend() {
	n := s.n
	var due []uint64
	for no, fl := range s.flights {
		ack := s.acks[track{fl.to, fl.pair}]
		if ack.lost(no, fl.at, n.now, n.cfg.ResendAfter) || (fl.retryAt != 0 && n.now >= fl.retryAt) {
			due = append(due, no)
		}
	}
	slices.Sort(due)
	for _, no := range due {
		s.requeue(no)
	}
}
