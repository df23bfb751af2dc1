package core

import (
	"time"

	"flotilla/wire"
)

// Traffic counts what a primary did with a group's updates since its agent's start, in bytes.
type Traffic struct {
	Written int64 `cbor:",omitempty"` // data of what was numbered: writes, and copies of a resync
	Folded  int64 `cbor:",omitempty"` // of it, superseded before it was sent: it never is
	Framed  int64 `cbor:",omitempty"` // data that went into frames, what was sent again included
	Sent    int64 `cbor:",omitempty"` // length of these frames, without what the transport adds
}

// Compressed is what compression saved, less what frames take for themselves.
func (t *Traffic) Compressed() int64 { return max(0, t.Framed-t.Sent) }

// bandwidth holds a group's frames back to so many bytes a second: a token bucket, kept as the time at which it is even.
// A frame may leave when that has come, whatever its length, and is paid for by those after it. How long it is shows
// only when it is encoded, so first it is charged as if nothing compressed it.
type bandwidth struct {
	evenAt  time.Duration
	refused bool // a frame was held back: senders are woken when one may leave
}

// What a bucket lets through at once.
const (
	bandwidthCredit   = 100 * time.Millisecond // what a group that sent nothing may catch up
	bandwidthFrame    = 20                     // frames are no longer than the bytes of a second, divided by this …
	bandwidthFrameMin = 64 << 10               // … but may be as long as this
)

// rate is what the group may send in bytes a second, 0 for no limit.
func (s *source) rate() int64 {
	if g := s.n.state.Groups[s.group]; g != nil {
		return g.Bandwidth
	}
	return 0
}

// heldBack reports whether no frame may leave now.
func (s *source) heldBack() bool {
	if s.rate() == 0 || s.n.now >= s.band.evenAt {
		return false
	}
	s.band.refused = true
	return true
}

// frameMax bounds the updates of one frame, in bytes.
func (s *source) frameMax(most int64) int64 {
	if rate := s.rate(); rate > 0 {
		return min(most, max(rate/bandwidthFrame, bandwidthFrameMin))
	}
	return most
}

// charge takes what a frame costs out of the bucket; less than nothing goes back.
func (s *source) charge(bytes int64) {
	if rate := s.rate(); rate > 0 {
		s.band.evenAt = max(s.band.evenAt, s.n.now-bandwidthCredit) + time.Duration(bytes*int64(time.Second)/rate)
	}
}

// bandTick wakes the senders when a frame may leave that was held back.
func (s *source) bandTick() {
	if s.band.refused && !s.heldBack() {
		s.band.refused = false
		s.n.eff.Wake = true
	}
}

// Sent says how long frames of NextFrame became whose Bytes were taken, in all, for a group's bandwidth and its traffic.
func (n *Node) Sent(now time.Duration, g wire.GroupID, taken, sent int64) {
	n.now = max(n.now, now)
	if s := n.sources[g]; s != nil {
		s.traffic.Sent += sent
		s.charge(sent - taken)
	}
}
