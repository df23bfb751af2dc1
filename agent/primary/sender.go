package primary

import (
	"context"
	"sync"
	"time"

	"flotilla/agent/core"
	"flotilla/wire"
)

// sender takes frames to one component, in rounds. What is queued when a round begins leaves in it; while that is encoded,
// and for Limits.Gather from the round's begin when nobody waits to hear that something is held, updates queue for the
// next: the busier the group, the larger the frames. A full round is followed by the next at once.
type sender struct {
	p      *Primary
	to     wire.AgentID
	more   chan struct{} // capacity 1: frames may be queued
	room   chan struct{} // capacity 1: a frame was released
	stop   context.CancelFunc
	done   sync.WaitGroup
	enc    *wire.Encoder
	window window
	full   bool   // the last round left something behind, or nearly so; only run uses it
	data   []byte // what was read back of a spool for a frame; only run uses it
	unsaid []sent // frames whose lengths the node has not been told; only run uses it
}

// sent is a frame that was encoded: what the node thinks that it costs, and what it does.
type sent struct {
	group        wire.GroupID
	taken, bytes int64
}

// startSender begins a sender; end stops it and waits.
func startSender(p *Primary, to wire.AgentID) *sender {
	enc, err := wire.NewEncoder(p.codec)
	if err != nil {
		panic(err) // New has tried the same
	}
	ctx, stop := context.WithCancel(p.ctx)
	s := &sender{
		p: p, to: to, more: make(chan struct{}, 1), room: make(chan struct{}, 1), stop: stop, enc: enc,
		window: window{size: p.limits.Window, max: p.limits.Window, min: p.limits.Frame},
	}
	s.done.Go(func() { s.run(ctx) })
	return s
}

func (s *sender) end() {
	s.stop()
	s.done.Wait()
}

func (s *sender) run(ctx context.Context) {
	rooms, _ := s.p.sender.(RoomWaiter)
	gather := time.NewTimer(0)
	defer gather.Stop()
	<-gather.C
	for {
		if rooms != nil && rooms.WaitRoom(ctx, s.to) != nil {
			return // this sender, or the Sender, has been ended
		}
		wait := s.more
		if !s.window.open() {
			wait = s.room
		} else if began := time.Now(); s.round() {
			if ctx.Err() != nil || !s.gather(ctx, gather, began) {
				return
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-wait:
		}
	}
}

// gather waits until so much has queued up that a round is worth its cost. It returns false when the sender is to end.
func (s *sender) gather(ctx context.Context, timer *time.Timer, began time.Time) bool {
	urged, pause := s.p.urge.wait(), s.p.limits.Gather-time.Since(began)
	if s.full || s.p.hurried.Load() || pause <= 0 {
		return true
	}
	timer.Reset(pause)
	select {
	case <-timer.C:
		return true
	case <-urged:
		return true
	case <-ctx.Done():
		return false
	}
}

// round takes up to Limits.Frame bytes of updates and sends them, as a frame for each set and pair. It reports whether
// there were any.
func (s *sender) round() bool {
	frames := s.take()
	for _, out := range frames {
		s.send(out)
	}
	return len(frames) > 0
}

// send encodes a frame and hands it to the Sender. Its payloads were retained by take.
func (s *sender) send(out *core.Outgoing) {
	var err error
	if s.data, err = unspill(out, s.data); err != nil {
		releaseHandles(out.Handles)
		s.p.lostSpooled(out.Header.Group, out, err)
		return
	}
	link := s.window.rate()
	if limit := uint64(out.Rate); limit > 0 && (link == 0 || limit < link) {
		link = limit
	}
	s.enc.SetLinkRate(link)
	buf := s.p.bodies.Get().(*[]byte)
	body, err := wire.EncodeBody((*buf)[:0], out.Header, out.Updates, s.enc)
	*buf = body
	releaseHandles(out.Handles)
	if err != nil {
		// An update that no component would take: a bug here. The node sends it again after ResendAfter.
		s.p.bodies.Put(buf)
		s.p.event(out.Header.Group, "frame.unencodable", "set", out.Header.Set, "error", err.Error())
		return
	}
	n, began := int64(len(body)), time.Now()
	s.unsaid = append(s.unsaid, sent{group: out.Header.Group, taken: out.Bytes, bytes: n})
	s.window.sent(n, began)
	s.p.sentFrames.Add(1)
	s.p.sentRaw.Add(out.Bytes)
	s.p.sentBytes.Add(n)
	// What is refused the node sends again like what is lost: seldom, for a frame is taken only when there is room.
	_ = s.p.sender.SendFrame(s.to, out.Route, body, func() {
		s.p.bodies.Put(buf)
		now := time.Now()
		s.window.released(n, now.Sub(began), now)
		kick(s.room)
	})
}

// take takes the frames of a round out of the node. Their payloads are retained before the node can release them.
func (s *sender) take() (frames []*core.Outgoing) {
	limit := s.p.limits.Frame
	left := limit
	s.p.loop.Do(func(n *core.Node, now time.Duration) {
		for _, f := range s.unsaid {
			n.Sent(now, f.group, f.taken, f.bytes)
		}
		s.unsaid = s.unsaid[:0]
		for left > 0 {
			out := n.NextFrame(now, s.to, left)
			if out == nil {
				break
			}
			for _, h := range out.Handles {
				if h != nil {
					h.(payload).Retain()
				}
			}
			frames = append(frames, out)
			left -= out.Bytes
		}
	})
	s.full = left < limit/8 // the next update may just not have fitted
	return frames
}

func releaseHandles(handles []any) {
	for _, h := range handles {
		if h != nil {
			h.(payload).Release()
		}
	}
}
