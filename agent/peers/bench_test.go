package peers_test

import (
	"context"
	"testing"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/peers"
	"flotilla/wire"
)

// BenchmarkFrames sends frames of 32 updates of 4 KiB through TLS on loopback. One operation is one frame, from
// SendFrame to its release by the receiver.
func BenchmarkFrames(b *testing.B) {
	c := newCluster(b)
	arrived := make(chan struct{}, 1024)
	c.start(2, func(o *peers.Options) {
		o.Limits = peers.Limits{}
		o.OnFrame = func(_ wire.AgentID, _ wire.Route, _ []byte, release func()) {
			release()
			arrived <- struct{}{}
		}
	})
	a := c.start(1, func(o *peers.Options) { o.Limits = peers.Limits{} })
	payload := body(1, 32*4096+1000)
	ctx := context.Background()
	release := func() {}
	if err := a.WaitRoom(ctx, 2); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for i := range b.N {
			if a.WaitRoom(ctx, 2) != nil || a.SendFrame(2, wire.Route{No: uint64(i)}, payload, release) != nil {
				b.Error("frame was refused")
				return
			}
		}
	}()
	for range b.N {
		<-arrived
	}
}

// BenchmarkAck sends one message at a time there and back: twice the latency of an ack.
func BenchmarkAck(b *testing.B) {
	c := newCluster(b)
	ack := &core.FrameAck{Nos: []uint64{1, 2, 3}}
	var two *node
	back := make(chan struct{}, 1)
	ready := make(chan struct{})
	two = c.start(2, func(o *peers.Options) {
		o.Limits = peers.Limits{}
		o.OnMessage = func(wire.AgentID, core.Message) {
			<-ready
			two.SendMessage(1, ack)
		}
	})
	close(ready)
	one := c.start(1, func(o *peers.Options) {
		o.Limits = peers.Limits{}
		o.OnMessage = func(wire.AgentID, core.Message) { back <- struct{}{} }
	})
	one.SendMessage(2, ack)
	<-back
	b.ReportAllocs()
	for b.Loop() {
		one.SendMessage(2, ack)
		select {
		case <-back:
		case <-time.After(patience):
			b.Fatal("no ack")
		}
	}
}
