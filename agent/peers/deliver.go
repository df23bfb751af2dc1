package peers

import (
	"context"
	"fmt"
	"sync"

	"flotilla/agent/core"
	"flotilla/wire"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// read hands on what comes on a connection, in order, until it ends. payload is set whenever a message's buffer is of the
// pool. Applies run in applying.
func (in *incoming) read(ctx context.Context, conn *wire.Conn, payload **buffer, applying *sync.WaitGroup) error {
	p := in.p
	slots := make(chan struct{}, p.limits.ApplyCalls)
	for {
		m, err := conn.ReadMessage()
		b := *payload
		*payload = nil
		if err != nil {
			if b != nil {
				b.release()
			}
			return err
		}
		if ctx.Err() != nil { // Close or Drop may come while a callback blocks
			if b != nil {
				b.release()
			}
			return ctx.Err()
		}
		if m.Type == typeBeat {
			if b != nil {
				b.release()
			}
			continue
		}
		in.counter.receive(&m)
		switch m.Type { // of the kind's own: the connection's limits refuse others
		case typeMessage:
			in.takeMessage(m.Payload)
		case wire.TypeFrame:
			p.opts.OnFrame(in.peer, m.Route, m.Payload, b.release)
		case typeRaft, typeSnapshot:
			in.takeRaft(m.Payload)
		case typeApply:
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				b.release()
				return ctx.Err()
			}
			in.startCall(ctx, b, slots, applying)
		default:
			if b != nil {
				b.release()
			}
			return fmt.Errorf("%v on a connection for %v: %w", m.Type, in.kind, wire.ErrMessage)
		}
	}
}

// startCall performs the request in b on a goroutine of its own, and then gives its buffer and its slot back.
func (in *incoming) startCall(ctx context.Context, b *buffer, slots <-chan struct{}, applying *sync.WaitGroup) {
	applying.Go(func() {
		in.takeCall(ctx, b.data)
		b.release()
		<-slots
	})
}

func (in *incoming) takeMessage(raw []byte) {
	m, err := core.DecodeMessage(raw)
	if err != nil {
		in.refuseMessage(err)
		return
	}
	in.p.opts.OnMessage(in.peer, m)
}

// takeRaft hands on a Raft message that says of itself what is true of it.
func (in *incoming) takeRaft(raw []byte) {
	m := &raftpb.Message{}
	err := proto.Unmarshal(raw, m)
	switch {
	case err != nil:
	case m.GetFrom() != uint64(in.peer):
		err = fmt.Errorf("it names agent %d as its sender", m.GetFrom())
	case m.GetTo() != uint64(in.p.self):
		err = fmt.Errorf("it is for agent %d and this is agent %d", m.GetTo(), in.p.self)
	case raft.IsLocalMsg(m.GetType()), len(m.GetResponses()) > 0:
		err = fmt.Errorf("%v never travels", m.GetType())
	}
	if err != nil {
		in.refuseMessage(err)
		return
	}
	in.p.opts.OnRaft(in.peer, m)
}

// refuseMessage drops a message alone: a peer of another release may know more, and what comes after is not the worse
// for it. It logs the first and then each time that their number has doubled.
func (in *incoming) refuseMessage(err error) {
	if n := in.counter.refused.Add(1); n&(n-1) == 0 {
		in.p.log.Warn("message was refused", "peer", in.peer, "kind", in.kind, "error", err, "refused", n)
	}
}
