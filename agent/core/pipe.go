package core

import (
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// pipe bounds what a primary has on its way to one component until that acknowledges it. On a slow link, or before a slow
// mirror, updates so wait at the primary, where they are counted, and not in queues on the way, where they would grow so
// old that they count as lost and are sent again.
type pipe struct {
	flying   int64 // bytes
	size     int64
	best     time.Duration // the shortest that an ack has taken: the way without queues; 0 before the first
	shrinkAt time.Duration // not before
}

// Of a pipe. A frame passes one link after the other, and waits at each for its last byte: only several small ones keep
// all links of their way busy.
const (
	pipeMin    = int64(1) << 20
	pipeStart  = int64(4) << 20
	pipeMax    = int64(16) << 20
	pipeFrames = 8 // so many frames at least fill it
)

// A pipe that is used grows while acks take less than a sixth of ResendAfter longer than the shortest, and is halved when
// they take half of it longer. The shortest is not forgotten: under steady load none comes near it again, and a pipe that
// took what it sees for the way itself would grow for ever.
const (
	pipeGrow   = 6
	pipeShrink = 2
)

func (p *pipe) full() bool { return p.flying >= p.size }

func (s *source) pipe(to wire.AgentID) *pipe {
	p := s.pipes[to]
	if p == nil {
		p = &pipe{size: pipeStart}
		s.pipes[to] = p
	}
	return p
}

// landed takes a frame off its pipe, because it was acknowledged or is to be sent again.
func (s *source) landed(fl *flight, acked bool) {
	p, took := s.pipe(fl.to), s.n.now-fl.at
	used := p.flying >= p.size/2 // one that is not is not seen to be too small
	p.flying -= fl.bytes
	if acked && (p.best == 0 || took < p.best) {
		p.best = max(took, 1)
	}
	waited, limit := took-p.best, s.n.cfg.ResendAfter
	switch {
	case acked && used && waited < limit/pipeGrow:
		p.size = min(pipeMax, p.size+fl.bytes)
	case waited > limit/pipeShrink && s.n.now >= p.shrinkAt:
		p.size, p.shrinkAt = max(pipeMin, p.size/2), s.n.now+took
	}
	s.n.eff.Wake = true
}

// forgetFlights empties the pipes: what was on its way is queued again, or dropped.
func (s *source) forgetFlights() {
	s.flights = map[uint64]*flight{}
	for _, p := range s.pipes {
		p.flying = 0
	}
}

// track is a way on which frames are acknowledged in the order in which they were sent.
type track struct {
	to   wire.AgentID // who acknowledges
	pair cluster.Pair
}

// ackSeen is the newest ack on a track: by it a slow link is told from a lost frame.
type ackSeen struct {
	at time.Duration
	no uint64 // highest frame acknowledged
}

// note takes an ack.
func (a *ackSeen) note(no uint64, now time.Duration) { a.at, a.no = now, max(a.no, no) }

// lost reports whether a frame seems to be: it is older than a time, and a later one was acknowledged, or nothing for as
// long. On a slow link acks keep coming.
func (a *ackSeen) lost(no uint64, sent, now, after time.Duration) bool {
	return now-sent >= after && (a.no > no || now-a.at >= after)
}
