package peers

import (
	"context"
	"errors"
	"fmt"

	"flotilla/agent/core"
	"flotilla/wire"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Errors of sending.
var (
	ErrFull        = errors.New("the queue to the peer is full")
	ErrUnreachable = errors.New("the peer is not reached")
	ErrClosed      = errors.New("connections are closed")
	ErrTooLong     = errors.New("longer than a message may be")
)

// SendMessage queues a message of the protocol. It is dropped when the queue is full or the peer is not reached: the
// protocol repeats it. The message is encoded before SendMessage returns.
func (p *Peers) SendMessage(to wire.AgentID, m core.Message) {
	raw := core.EncodeMessage(m)
	if len(raw) > MaxMessage {
		p.log.Error("message is too long and was dropped", "peer", to, "message", fmt.Sprintf("%T", m), "bytes", len(raw), "limit", MaxMessage)
		p.counter(to, Control).dropped.Add(1)
		return
	}
	_ = p.put(to, Control, item{msg: wire.Message{Type: typeMessage, Payload: raw}, size: int64(len(raw))}) // counted there
}

// SendFrame queues a frame. The body is neither copied nor changed; release is called exactly once, when it has been
// written, or dropped (before SendFrame returns, if it returns an error). It fails without waiting: with ErrFull when
// the peer's queue is full, with ErrUnreachable while nobody may dial. A frame that is refused counts as lost on the
// way: the core sends it again after its ResendAfter. Who can wait calls WaitRoom before it takes a frame from the core.
func (p *Peers) SendFrame(to wire.AgentID, r wire.Route, body []byte, release func()) error {
	var err error
	if len(body) > wire.MaxBodyLength {
		err = ErrTooLong
		p.counter(to, Data).dropped.Add(1)
	} else {
		err = p.put(to, Data, item{
			msg: wire.Message{Type: wire.TypeFrame, Route: r, Payload: body}, size: wire.RouteLength + int64(len(body)), release: release,
		})
	}
	if err != nil {
		if release != nil {
			release()
		}
		return fmt.Errorf("send frame %d of %d bytes to agent %d: %w", r.No, len(body), to, err)
	}
	return nil
}

// SendRaft queues Raft messages to those whom they name. What is dropped is told to the core by OnRaftUnreachable, and by
// OnRaftSnapshotSent for a snapshot. A message that another agent has made, as a proposal that is forwarded a second
// time, is dropped: its receiver would refuse it.
func (p *Peers) SendRaft(msgs []*raftpb.Message) {
	for _, m := range msgs {
		to := wire.AgentID(m.GetTo())
		snapshot := m.GetType() == raftpb.MessageType_MsgSnap
		if to == p.self || to == 0 || m.GetFrom() != uint64(p.self) {
			if to != 0 {
				p.counter(to, Raft).dropped.Add(1)
			}
			continue
		}
		msg, limit := wire.Message{Type: typeRaft}, MaxMessage
		if snapshot {
			msg.Type, limit = typeSnapshot, MaxSnapshot
		}
		raw, err := proto.Marshal(m)
		if err == nil && len(raw) > limit {
			err = fmt.Errorf("%d bytes, limit %d: %w", len(raw), limit, ErrTooLong)
		}
		if err != nil {
			p.log.Error("raft message was dropped", "peer", to, "message", m.GetType(), "error", err)
			p.raftDropped(to, snapshot)
			continue
		}
		msg.Payload = raw
		if p.put(to, Raft, item{msg: msg, size: int64(len(raw)), snapshot: snapshot}) != nil {
			p.raftDropped(to, snapshot)
		}
	}
}

func (p *Peers) raftDropped(to wire.AgentID, snapshot bool) {
	_ = p.withLink(to, Raft, func(l *link) error {
		l.dropped = true
		l.snapLost = l.snapLost || snapshot
		l.signal()
		return nil
	})
}

// put queues an item for a peer.
func (p *Peers) put(to wire.AgentID, kind Kind, it item) error {
	err := p.withLink(to, kind, func(l *link) error { return l.putLocked(it) })
	if err != nil {
		p.counter(to, kind).dropped.Add(1)
	}
	return err
}

// WaitRoom waits until the peer is reached and at most half of its frame queue is taken: the other half is for those who
// can not wait. It dials where that is needed, and goes on trying. Who takes frames from the core only after it keeps
// them from becoming old in a queue to a peer that is gone. It fails with the context's error, or ErrClosed.
func (p *Peers) WaitRoom(ctx context.Context, to wire.AgentID) error {
	for {
		var changed chan struct{}
		var waitedOn *link
		err := p.withLink(to, Data, func(l *link) error {
			if (l.connected || to == p.self) && l.bytes <= l.limit/2 {
				return nil
			}
			l.waiters++
			l.signal()
			changed, waitedOn = l.changed, l
			return nil
		})
		if err != nil || changed == nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			err = ctx.Err()
		case <-p.ctx.Done():
			err = ErrClosed
		}
		waitedOn.mu.Lock()
		waitedOn.waiters--
		waitedOn.mu.Unlock()
		if err != nil {
			return fmt.Errorf("wait for room to agent %d: %w", to, err)
		}
	}
}
