package peers_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/peers"
	"flotilla/wire"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"
)

func status(round uint64) *core.Status { return &core.Status{Run: 1, Round: round} }

// Messages arrive in order, between any two of four agents and from an agent to itself, under the sender's name.
func TestMessages(t *testing.T) {
	c := newCluster(t)
	var nodes []*node
	for id := wire.AgentID(1); id <= 4; id++ {
		nodes = append(nodes, c.start(id, nil))
	}
	const count = 200
	for round := uint64(1); round <= count; round++ {
		for _, from := range nodes {
			for _, to := range nodes {
				from.SendMessage(to.id, status(round))
			}
		}
	}
	for _, n := range nodes {
		next := map[wire.AgentID]uint64{}
		for range count * len(nodes) {
			g := within(t, "message", n.messages)
			next[g.from]++
			if diff := cmp.Diff(core.Message(status(next[g.from])), g.message); diff != "" {
				t.Fatalf("agent %d from %d (-want +have):\n%s", n.id, g.from, diff)
			}
		}
	}
}

func body(i uint64, length int) []byte {
	b := bytes.Repeat([]byte{byte(i)}, length)
	binary.LittleEndian.PutUint64(b, i)
	return b
}

// Frames of all sizes arrive whole and in order, and every release is called once.
func TestFrames(t *testing.T) {
	c := newCluster(t)
	a, b := c.start(1, nil), c.start(2, nil)
	for _, to := range []*node{b, a} {
		sizes := []int{8, 100, 4096, 4097, 70_000, 1 << 20, 3<<20 + 1, wire.MaxBodyLength}
		released := make([]atomic.Int32, len(sizes)*3)
		for i := range released {
			if err := a.WaitRoom(testContext(t), to.id); err != nil {
				t.Fatal(err)
			}
			r := wire.Route{No: uint64(i), View: 7, Owner: 2, Mirror: 3, Via: 4, Flags: 5}
			if err := a.SendFrame(to.id, r, body(uint64(i), sizes[i%len(sizes)]), func() { released[i].Add(1) }); err != nil {
				t.Fatal(err)
			}
			g := within(t, "frame", to.frames)
			if want := (wire.Route{No: uint64(i), View: 7, Owner: 2, Mirror: 3, Via: 4, Flags: 5}); g.route != want || g.from != 1 {
				t.Fatalf("frame %d came from %d as %+v", i, g.from, g.route)
			}
			if !bytes.Equal(g.body, body(uint64(i), sizes[i%len(sizes)])) {
				t.Fatalf("frame %d of %d bytes is not what was sent", i, len(g.body))
			}
			g.release()
		}
		eventually(t, "all is written", func() bool { return a.lane(to.id, peers.Data).Queued == 0 })
		for i := range released {
			if n := released[i].Load(); n != 1 {
				t.Errorf("frame %d to agent %d was released %d times", i, to.id, n)
			}
		}
	}
	if err := a.SendFrame(2, wire.Route{}, make([]byte, wire.MaxBodyLength+1), nil); !errors.Is(err, peers.ErrTooLong) {
		t.Errorf("a frame that is too long: %v", err)
	}
	sent, received := a.lane(2, peers.Data), b.lane(1, peers.Data)
	if sent.Sent != received.Received || sent.MessagesSent != 24 || received.MessagesReceived != 24 || sent.Dropped != 1 || received.Sent != 0 {
		t.Errorf("statistics of the sender %+v, of the receiver %+v", sent, received)
	}
}

// A receiver that does not take frames holds back the sender, whose queue is bounded; then everything arrives.
func TestBackPressure(t *testing.T) {
	c := newCluster(t)
	open := make(chan struct{})
	arrived := make(chan uint64, 10_000)
	b := c.start(2, func(o *peers.Options) {
		o.OnFrame = func(_ wire.AgentID, r wire.Route, _ []byte, release func()) {
			<-open
			arrived <- r.No
			release()
		}
	})
	const limit = 4 << 20
	a := c.start(1, func(o *peers.Options) { o.Limits.FrameQueue = limit })
	payload := body(1, 256<<10)
	var accepted uint64
	var released atomic.Uint64
	fill := func() {
		for {
			err := a.SendFrame(2, wire.Route{No: accepted}, payload, func() { released.Add(1) })
			if errors.Is(err, peers.ErrFull) {
				released.Add(^uint64(0)) // it was, because it was refused
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			accepted++
		}
	}
	// Once the sockets are full as well, there is no room, however long one waits.
	eventually(t, "no room", func() bool {
		fill()
		if q := a.lane(2, peers.Data).Queued; q > limit {
			t.Fatalf("%d bytes are queued, limit %d", q, limit)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		return errors.Is(a.WaitRoom(ctx, 2), context.DeadlineExceeded)
	})
	// Others are not held up: neither other kinds nor other peers.
	a.SendMessage(2, status(1))
	within(t, "message beside a full data connection", b.messages)
	room := make(chan error, 1)
	go func() { room <- a.WaitRoom(testContext(t), 2) }()
	close(open)
	if err := within(t, "room", room); err != nil {
		t.Error(err)
	}
	for i := range accepted {
		if no := within(t, "frame", arrived); no != i {
			t.Fatalf("frame %d arrived in the place of %d", no, i)
		}
	}
	eventually(t, "all is released", func() bool { return released.Load() == accepted })
	if len(a.disconnected) != 0 {
		t.Error("a slow receiver was taken for a dead one")
	}
}

// When a peer dies, what is queued for it is dropped and the core is told; when it is back, frames flow again.
func TestReconnect(t *testing.T) {
	c := newCluster(t)
	stuck, unstick := make(chan struct{}, 1), make(chan struct{})
	a := c.start(1, nil)
	b := c.start(2, func(o *peers.Options) {
		o.OnFrame = func(_ wire.AgentID, _ wire.Route, _ []byte, release func()) {
			release()
			select {
			case stuck <- struct{}{}:
			default:
			}
			<-unstick
		}
	})
	var sent, released atomic.Int64
	for range 100 {
		sent.Add(1)
		if err := a.SendFrame(2, wire.Route{}, body(1, 256<<10), func() { released.Add(1) }); err != nil {
			t.Fatal(err)
		}
	}
	within(t, "first frame", stuck)
	go close(unstick)
	b.kill()
	if peer := within(t, "disconnect", a.disconnected); peer != 2 {
		t.Errorf("agent %d is disconnected", peer)
	}
	if released.Load() != sent.Load() {
		t.Errorf("%d of %d frames were released before the core was told", released.Load(), sent.Load())
	}
	// While nobody is there a frame is refused, or dropped with another word to the core.
	for refused := 0; refused < 3; {
		err := a.SendFrame(2, wire.Route{}, body(1, 100), nil)
		switch {
		case errors.Is(err, peers.ErrUnreachable):
			refused++
		case err != nil:
			t.Fatal(err)
		default:
			within(t, "disconnect after a failed dial", a.disconnected)
		}
	}
	// What waits for room dials until somebody answers, and drops nothing meanwhile.
	told := len(a.disconnected)
	room := make(chan error, 1)
	go func() { room <- a.WaitRoom(testContext(t), 2) }()
	dials := a.lane(2, peers.Data).Dials
	eventually(t, "dials go on", func() bool { return a.lane(2, peers.Data).Dials > dials+2 })
	b = c.start(2, nil)
	if err := within(t, "room", room); err != nil {
		t.Fatal(err)
	}
	if len(a.disconnected) != told {
		t.Error("the core was told of dials that lost nothing")
	}
	if err := a.SendFrame(2, wire.Route{No: 9}, body(9, 100), nil); err != nil {
		t.Fatal(err)
	}
	if g := within(t, "frame", b.frames); g.route.No != 9 {
		t.Errorf("frame %d arrived", g.route.No)
	}
	a.SendMessage(2, status(3))
	within(t, "message", b.messages)
}

// A peer that comes back is dialed as soon as it is heard of, however long it was away.
func TestBackAgain(t *testing.T) {
	c := newCluster(t)
	a := c.start(1, func(o *peers.Options) { o.Limits.BackoffMin, o.Limits.BackoffMax = time.Hour, time.Hour })
	b := c.start(2, nil)
	b.kill()
	if err := a.SendFrame(2, wire.Route{}, body(1, 100), nil); err != nil {
		t.Fatal(err)
	}
	within(t, "disconnect after a failed dial", a.disconnected)
	if err := a.SendFrame(2, wire.Route{}, body(1, 100), nil); !errors.Is(err, peers.ErrUnreachable) {
		t.Fatalf("while nobody is there: %v", err)
	}
	b = c.start(2, nil)
	b.SendMessage(1, status(1))
	within(t, "message", a.messages)
	if err := a.SendFrame(2, wire.Route{No: 9}, body(9, 100), nil); err != nil {
		t.Fatal(err)
	}
	if g := within(t, "frame", b.frames); g.route.No != 9 {
		t.Errorf("frame %d arrived", g.route.No)
	}
}

func raftMessage(from, to uint64, kind raftpb.MessageType, data int) *raftpb.Message {
	m := &raftpb.Message{From: new(from), To: new(to), Type: kind.Enum(), Term: new(uint64(3)), Index: new(uint64(data))}
	switch {
	case kind == raftpb.MessageType_MsgSnap:
		m.Snapshot = &raftpb.Snapshot{Data: bytes.Repeat([]byte{7}, data), Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(5)), Term: new(uint64(1))}}
	case data > 0:
		m.Entries = []*raftpb.Entry{{Term: new(uint64(1)), Index: new(uint64(1)), Data: bytes.Repeat([]byte{7}, data)}}
	}
	return m
}

func TestRaft(t *testing.T) {
	c := newCluster(t)
	a, b := c.start(1, nil), c.start(2, nil)
	const app, snap = raftpb.MessageType_MsgApp, raftpb.MessageType_MsgSnap
	a.SendRaft([]*raftpb.Message{
		raftMessage(1, 2, app, 10), raftMessage(1, 2, snap, 20<<20), raftMessage(1, 2, app, 3<<20),
		raftMessage(3, 2, app, 11), raftMessage(1, 1, app, 11), raftMessage(1, 0, app, 11), // nobody's to send
		raftMessage(1, 2, app, 12),
	})
	for _, want := range []int{10, 20 << 20, 3 << 20, 12} {
		g := within(t, "raft message", b.rafts)
		if g.from != 1 || g.raft.GetIndex() != uint64(want) || len(g.raft.GetEntries())+len(g.raft.GetSnapshot().GetData()) == 0 {
			t.Fatalf("from %d: index %d, want %d", g.from, g.raft.GetIndex(), want)
		}
	}
	if ok := within(t, "word of the snapshot", a.snapshots); !ok {
		t.Error("the snapshot was sent, but the core heard otherwise")
	}
	if len(a.unreachable) != 0 || b.lane(1, peers.Raft).Refused != 0 || a.lane(2, peers.Raft).Dropped != 1 {
		t.Errorf("the core heard of %d unreachable peers; sender %+v, receiver %+v", len(a.unreachable), a.lane(2, peers.Raft), b.lane(1, peers.Raft))
	}
	// What is too long, and what nobody takes, is told to the core.
	a.SendRaft([]*raftpb.Message{raftMessage(1, 2, app, peers.MaxMessage)})
	if peer := within(t, "word of a long message", a.unreachable); peer != 2 {
		t.Errorf("agent %d is unreachable", peer)
	}
	a.SendRaft([]*raftpb.Message{raftMessage(1, 9, snap, 100), raftMessage(1, 9, app, 100)})
	if ok := within(t, "word of the lost snapshot", a.snapshots); ok {
		t.Error("the snapshot was not sent, but the core heard otherwise")
	}
	if peer := within(t, "word of the lost message", a.unreachable); peer != 9 {
		t.Errorf("agent %d is unreachable", peer)
	}
}

// A connection without payload is closed after a while, which disconnects nobody, and opened again when there is some.
func TestIdle(t *testing.T) {
	c := newCluster(t)
	a := c.start(1, func(o *peers.Options) { o.Limits.Idle = 60 * time.Millisecond })
	b := c.start(2, nil)
	for i := range uint64(3) {
		a.SendMessage(2, status(i))
		if err := a.SendFrame(2, wire.Route{}, body(i, 100), nil); err != nil {
			t.Fatal(err)
		}
		a.SendRaft([]*raftpb.Message{raftMessage(1, 2, raftpb.MessageType_MsgApp, 10)})
		within(t, "message", b.messages)
		within(t, "frame", b.frames).release()
		within(t, "raft message", b.rafts)
		eventually(t, "connections are closed", func() bool { return b.Stats().Incoming == 0 })
	}
	if len(a.disconnected)+len(a.unreachable) != 0 || a.lane(2, peers.Data).Dials < 3 {
		t.Errorf("idle connections: %+v", a.lane(2, peers.Data))
	}
}

// Close ends whoever waits, and drops what is queued.
func TestClose(t *testing.T) {
	c := newCluster(t)
	a := c.start(1, nil)
	waits := make(chan error, 2)
	go func() { waits <- a.WaitRoom(context.Background(), 9) }()
	go func() { waits <- a.WaitRoom(context.Background(), 2) }()
	c.listen(2).Close()
	eventually(t, "both dial", func() bool { return a.lane(9, peers.Data).Dials > 0 && a.lane(2, peers.Data).Dials > 0 })
	a.kill()
	for range 2 {
		if err := within(t, "end of a wait", waits); !errors.Is(err, peers.ErrClosed) {
			t.Errorf("wait: %v", err)
		}
	}
	released := false
	err := a.SendFrame(2, wire.Route{}, nil, func() { released = true })
	if !errors.Is(err, peers.ErrClosed) || !released {
		t.Errorf("frame after Close: %v, released %v", err, released)
	}
	a.SendMessage(2, status(1))
	a.SendRaft([]*raftpb.Message{raftMessage(1, 2, raftpb.MessageType_MsgApp, 1)})
	if err := a.CallApply(context.Background(), 2, writes(1, 0)); !errors.Is(err, peers.ErrClosed) {
		t.Errorf("call after Close: %v", err)
	}
	if err := a.CallApply(context.Background(), 1, writes(1, 0)); !errors.Is(err, peers.ErrClosed) {
		t.Errorf("call to itself after Close: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// Who is told of by nobody, but connects, says where it is reached: so it can be answered.
func TestAnswerToAStranger(t *testing.T) {
	c := newCluster(t)
	addresses := make(chan string, 100)
	var stranger atomic.Value
	known := c.start(1, func(o *peers.Options) {
		o.Resolve = func(wire.AgentID, peers.Kind) []string {
			if a, ok := stranger.Load().(string); ok {
				return []string{a}
			}
			return nil
		}
		o.OnAddress = func(peer wire.AgentID, address string) {
			if peer == 2 {
				addresses <- address
			}
		}
	})
	ln := c.listen(2)
	address := ln.Addr().String()
	if err := ln.Close(); err != nil { // start listens there again
		t.Fatal(err)
	}
	joined := c.start(2, func(o *peers.Options) { o.Address = address })
	joined.SendMessage(1, status(1))
	within(t, "message of the stranger", known.messages)
	stranger.Store(within(t, "its address", addresses))
	eventually(t, "an answer", func() bool {
		known.SendMessage(2, status(2))
		return len(joined.messages) > 0
	})
}
