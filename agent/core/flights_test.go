package core

import (
	"slices"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// TestResend: a frame is sent again when it seems lost, not because its link is slow.
func TestResend(t *testing.T) {
	const sec = time.Second
	for name, test := range map[string]struct {
		sent  time.Duration // and now is 10 s
		retry time.Duration
		ack   ackSeen // of its owner
		again bool
	}{
		"young":                          {9500 * time.Millisecond, 0, ackSeen{}, false},
		"old, and acks keep coming":      {5 * sec, 0, ackSeen{at: 9900 * time.Millisecond, no: 6}, false},
		"old, and a later one was acked": {5 * sec, 0, ackSeen{at: 9900 * time.Millisecond, no: 8}, true},
		"old, and nothing was acked":     {5 * sec, 0, ackSeen{at: 2 * sec, no: 6}, true},
		"young, and a later one acked":   {9500 * time.Millisecond, 0, ackSeen{at: 9900 * time.Millisecond, no: 8}, false},
		"refused, and its time has come": {9500 * time.Millisecond, 10 * sec, ackSeen{at: 9900 * time.Millisecond, no: 6}, true},
		"refused just now":               {9500 * time.Millisecond, 11 * sec, ackSeen{at: 9900 * time.Millisecond, no: 6}, false},
	} {
		cfg := DefaultConfig(1, 1)
		cfg.ResendAfter = sec
		n, err := New(cfg, Bootstrap(cluster.New("test"), []wire.AgentID{1}), 10*sec)
		if err != nil {
			t.Fatal(err)
		}
		s := &source{n: n, acks: map[track]ackSeen{{to: 2}: test.ack}, pipes: map[wire.AgentID]*pipe{}}
		s.flights = map[uint64]*flight{7: {to: 2, at: test.sent, retryAt: test.retry, items: []*item{{held: true}}}}
		s.resend()
		if again := s.flights[7] == nil; again != test.again {
			t.Errorf("%s: sent again %v", name, again)
		}
	}
}

// TestLateAck: an ack counts however late it comes, as long as its frame was not sent again.
func TestLateAck(t *testing.T) {
	n, err := New(DefaultConfig(1, 1), Bootstrap(cluster.New("test"), []wire.AgentID{1}), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	s := &source{n: n, acks: map[track]ackSeen{}, pipes: map[wire.AgentID]*pipe{}, next: 2}
	it := &item{u: wire.Update{Seq: 1}, handle: "payload"}
	s.pending, s.flights = []*item{it}, map[uint64]*flight{7: {to: 2, items: []*item{it}}}
	if s.acked(3, 7) || s.acked(2, 8) {
		t.Error("an ack of another component, or of another frame, counted")
	}
	if !s.acked(2, 7) || s.heldUpTo() != 1 || len(n.eff.Release) != 1 {
		t.Errorf("held up to %d, %d payloads released", s.heldUpTo(), len(n.eff.Release))
	}
	if s.acked(2, 7) {
		t.Error("an ack counted twice")
	}
}

// TestAppliedIsHeld: an update whose ack was lost is held when its set is applied. Nobody is assigned to it any more, so it
// could never be sent again, and what a sync group acknowledges would stand still.
func TestAppliedIsHeld(t *testing.T) {
	n, err := New(DefaultConfig(1, 1), Bootstrap(cluster.New("test"), []wire.AgentID{1}), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	n.state.Groups[1] = &cluster.Group{
		ID: 1, Phase: cluster.Replicating, Applied: 4, Volumes: map[wire.VolumeID]*cluster.Volume{1: {ID: 1, Primary: 1}},
		Incs: []*cluster.Incarnation{{ID: 9, Primary: 1, First: 1}},
	}
	s := &source{n: n, group: 1, inc: 9, open: 5, next: 4, marks: []markHeld{{seq: 2, set: 4}}}
	for seq, set := range map[wire.Seq]wire.Set{1: 3, 2: 4, 3: 5} {
		s.pending = append(s.pending, &item{u: wire.Update{Seq: seq}, set: set, handle: seq})
	}
	slices.SortFunc(s.pending, func(a, b *item) int { return int(a.u.Seq) - int(b.u.Seq) })
	s.stateChanged()
	if s.heldUpTo() != 2 || s.heldSet != 4 || len(n.eff.Release) != 2 {
		t.Errorf("held up to %d, sets up to %d, %d payloads released", s.heldUpTo(), s.heldSet, len(n.eff.Release))
	}
}
