package core

import (
	"slices"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// newQueues returns a source whose updates of some bytes wait, each for the pair that has its place in the list: seqs are from 1.
func newQueues(t *testing.T, bytes int, pairs ...cluster.Pair) *source {
	t.Helper()
	n, err := New(DefaultConfig(1, 1), Bootstrap(cluster.New("test"), []wire.AgentID{1}), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	s := &source{
		n: n, group: 1, inc: 9, open: 1, next: wire.Seq(len(pairs) + 1), acks: map[track]ackSeen{},
		queues: map[cluster.Pair][]*item{}, flights: map[uint64]*flight{}, pipes: map[wire.AgentID]*pipe{},
		pairs: map[wire.Portion]cluster.Pair{},
	}
	n.state.Members, n.sources[1] = []wire.AgentID{2, 3, 4}, s
	n.order()
	for i, pair := range pairs {
		it := &item{set: 1, pair: pair, at: s.numbered, u: wire.Update{Seq: wire.Seq(i + 1), Volume: 1, Portion: uint32(i), Data: make([]byte, bytes)}}
		s.pairs[it.u.PortionID()] = pair
		s.pending = append(s.pending, it)
		s.numbered += it.cost()
		s.queued += it.cost()
		s.enqueue(it)
	}
	return s
}

// taken returns the seqs of the next frame to a component, and its number.
func taken(s *source, to wire.AgentID) (seqs []wire.Seq, no uint64) {
	out := s.n.NextFrame(s.n.now, to, 1<<20)
	if out == nil {
		return nil, 0
	}
	for _, u := range out.Updates {
		seqs = append(seqs, u.Seq)
	}
	return seqs, out.Route.No
}

var (
	pair23 = cluster.Pair{Owner: 2, Mirror: 3}
	pair24 = cluster.Pair{Owner: 2, Mirror: 4}
	pair32 = cluster.Pair{Owner: 3, Mirror: 2}
)

// TestOldestFirst: of the queues of an owner the one goes on that has the oldest update, and what is sent again comes
// before what is younger.
func TestOldestFirst(t *testing.T) {
	s := newQueues(t, 1000, pair24, pair23, pair23, pair24, pair32)
	first, no := taken(s, 2)
	if !slices.Equal(first, []wire.Seq{1, 4}) {
		t.Fatalf("first went out %v", first)
	}
	s.requeue(no)
	for _, want := range [][]wire.Seq{{1, 4}, {2, 3}, nil} {
		if got, _ := taken(s, 2); !slices.Equal(got, want) {
			t.Errorf("then went out %v, want %v", got, want)
		}
	}
	if hops := s.n.Hops(); !slices.Equal(hops, []wire.AgentID{3}) {
		t.Errorf("frames wait for %v", hops)
	}
}

// TestSentAgainInPlace: a queue ascends, also when several frames of it come back in another order.
func TestSentAgainInPlace(t *testing.T) {
	s := newQueues(t, 400_000, pair23, pair23, pair23)
	_, one := taken(s, 2)
	_, two := taken(s, 2)
	s.requeue(two)
	s.requeue(one)
	for _, want := range []wire.Seq{1, 2, 3} {
		if got, _ := taken(s, 2); !slices.Equal(got, []wire.Seq{want}) {
			t.Errorf("went out %v, want %d", got, want)
		}
	}
}

// TestSpread: a component is not sent what is far ahead of the oldest update that is not held, until that is.
func TestSpread(t *testing.T) {
	const each = 1 << 20
	s := newQueues(t, each, pair23, pair32)
	for i := 0; i < 100; i++ { // more than two pipes and their spread take
		it := &item{set: 1, at: s.numbered, u: wire.Update{Seq: s.next, Volume: 1, Portion: 1, Data: make([]byte, each)}}
		s.next++
		s.numbered += it.cost()
		s.queued += it.cost()
		s.pending = append(s.pending, it)
		s.enqueue(it)
	}
	_, oldest := taken(s, 2)
	sent := 0
	for {
		seqs, no := taken(s, 3)
		if no == 0 {
			break
		}
		sent += len(seqs)
		s.n.now += time.Second // slow: the pipe does not grow
		s.acked(3, no)
	}
	if want := int(s.spread()/each) - 1; sent < want/2 || sent > want+1 || len(s.queues[pair32]) == 0 {
		t.Errorf("%d MiB went out ahead of what is not held; the spread is %d MiB", sent, s.spread()>>20)
	}
	s.acked(2, oldest)
	if seqs, _ := taken(s, 3); seqs == nil {
		t.Error("nothing goes out though everything before it is held")
	}
}

// TestFramesFillPipe: at a small pipe frames are small, so that several are on their way.
func TestFramesFillPipe(t *testing.T) {
	s := newQueues(t, 4000, slices.Repeat([]cluster.Pair{pair23}, 1000)...)
	s.pipe(2).size = pipeMin
	frames := 0
	for {
		if _, no := taken(s, 2); no == 0 {
			break
		}
		frames++
	}
	if p := s.pipe(2); frames < pipeFrames || frames > pipeFrames+1 || !p.full() || p.flying > p.size+p.size/pipeFrames {
		t.Errorf("%d frames with %d bytes fill a pipe of %d", frames, p.flying, p.size)
	}
}

// TestAppliedLeavesQueue: what is held because its set was applied is not sent.
func TestAppliedLeavesQueue(t *testing.T) {
	s := newQueues(t, 1000, pair23, pair32, pair23)
	s.pending[2].set = 2
	s.appliedIsHeld(1)
	if got, _ := taken(s, 3); got != nil {
		t.Errorf("%v went out", got)
	}
	if got, _ := taken(s, 2); !slices.Equal(got, []wire.Seq{3}) {
		t.Errorf("went out %v", got)
	}
}

// TestPipe: a pipe grows while acks come soon and it is used, and is halved when they come late, once for what was on its
// way.
func TestPipe(t *testing.T) {
	const frame = 512 << 10
	for name, test := range map[string]struct {
		flying int64 // before the ack
		took   time.Duration
		acked  bool
		size   int64
	}{
		"soon":                  {pipeStart, 100 * time.Millisecond, true, pipeStart + frame},
		"soon, little used":     {frame, 100 * time.Millisecond, true, pipeStart},
		"neither soon nor late": {pipeStart, time.Second, true, pipeStart},
		"late":                  {pipeStart, 1700 * time.Millisecond, true, pipeStart / 2},
		"lost":                  {pipeStart, 3 * time.Second, false, pipeStart / 2},
		"refused soon":          {pipeStart, 300 * time.Millisecond, false, pipeStart},
	} {
		s := newQueues(t, 0)
		p := s.pipe(2)
		p.flying, p.best = test.flying, 100*time.Millisecond
		fl := &flight{to: 2, at: s.n.now - test.took, bytes: frame}
		s.landed(fl, test.acked)
		if p.size != test.size || p.flying != test.flying-frame {
			t.Errorf("%s: the size is %d, want %d; %d bytes are on their way", name, p.size, test.size, p.flying)
		}
		if s.landed(fl, test.acked); p.size < pipeStart/2 {
			t.Errorf("%s: it was halved twice", name)
		}
	}
}

// TestPipeKeepsBest: a load that lasts does not make its own queues count as the way.
func TestPipeKeepsBest(t *testing.T) {
	s := newQueues(t, 0)
	p := s.pipe(2)
	ack := func(took time.Duration) {
		s.n.now += took
		p.flying = p.size
		s.landed(&flight{to: 2, at: s.n.now - took, bytes: 1 << 17}, true)
	}
	ack(20 * time.Millisecond)
	for range 1000 {
		ack(1400 * time.Millisecond) // between the limits
	}
	if size := pipeStart + 1<<17; p.size != size {
		t.Errorf("after minutes of load the size is %d, want %d", p.size, size)
	}
}
