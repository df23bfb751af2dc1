package peers_test

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"flotilla/agent/apply"
	"flotilla/agent/peers"
	"flotilla/wire"
)

// writes makes a request of n pieces of 4 KiB, whose volume tells it apart.
func writes(n int, volume wire.VolumeID) *apply.Request {
	r := &apply.Request{Group: 1, Inc: 2, Set: 3, View: 4, Volume: volume, Flush: true}
	for i := range n {
		data := bytes.Repeat([]byte{byte(i + 1)}, 4096)
		r.Pieces = append(r.Pieces, apply.Piece{Kind: wire.KindWrite, Offset: uint64(i) * 8192, Length: 4096, Sum: apply.Sum(data), Data: data})
	}
	return r
}

func TestCallApply(t *testing.T) {
	c := newCluster(t)
	want := writes(2048, 7)
	long := strings.Repeat("long ", 1000)
	answer := func(_ context.Context, from wire.AgentID, r *apply.Request) error {
		switch r.Volume {
		case 7:
			if from != 1 || !reflect.DeepEqual(want, r) {
				return errors.New("the request came otherwise")
			}
			return nil
		case 8:
			return errors.New("target is on fire")
		}
		return errors.New(long)
	}
	a := c.start(1, func(o *peers.Options) { o.OnApply = answer })
	c.start(2, func(o *peers.Options) { o.OnApply = answer })
	for _, to := range []wire.AgentID{1, 2} {
		if err := a.CallApply(testContext(t), to, want); err != nil {
			t.Errorf("to %d: %v", to, err)
		}
		if err := a.CallApply(testContext(t), to, writes(1, 8)); !errors.Is(err, peers.ErrRefused) || !strings.Contains(err.Error(), "on fire") {
			t.Errorf("to %d: %v", to, err)
		}
		if err := a.CallApply(testContext(t), to, writes(0, 9)); !errors.Is(err, peers.ErrRefused) || !strings.Contains(err.Error(), "long long") {
			t.Errorf("to %d: %v", to, err)
		}
		bad := writes(1, 7)
		bad.Pieces[0].Data[5]++
		if err := a.CallApply(testContext(t), to, bad); !errors.Is(err, apply.ErrInvalid) {
			t.Errorf("to %d: %v", to, err)
		}
	}
	if err := a.CallApply(testContext(t), 9, want); !errors.Is(err, peers.ErrUnreachable) {
		t.Errorf("to nobody: %v", err)
	}
}

// Calls run at the same time up to the limit, answers find their calls, and a caller that gives up leaves no trace but
// its place, until the peer has answered.
func TestCallsAtOnce(t *testing.T) {
	c := newCluster(t)
	for _, to := range []wire.AgentID{1, 2} {
		const limit = 3
		started, finish := make(chan wire.VolumeID, 100), make(chan struct{})
		var running, most atomic.Int32
		answer := func(ctx context.Context, _ wire.AgentID, r *apply.Request) error {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			started <- r.Volume
			<-finish
			if r.Volume%2 == 1 {
				return errors.New("odd")
			}
			return nil
		}
		set := func(o *peers.Options) { o.OnApply, o.Limits.ApplyCalls = answer, limit }
		a, b := c.start(1, set), c.start(2, set)
		given, cancel := context.WithCancel(testContext(t))
		up := make(chan error, 1)
		if to == 2 { // a call to itself waits for its end
			go func() { up <- a.CallApply(given, to, writes(1, 100)) }()
			within(t, "start of the call that is given up", started)
			cancel()
			if err := within(t, "end of the call that is given up", up); !errors.Is(err, context.Canceled) {
				t.Errorf("a call that was given up: %v", err)
			}
		}
		cancel()
		type result struct {
			volume wire.VolumeID
			err    error
		}
		const count = 12
		results := make(chan result, count)
		for v := range wire.VolumeID(count) {
			go func() { results <- result{v, a.CallApply(testContext(t), to, writes(20, v))} }()
		}
		for int(running.Load()) < limit {
			within(t, "start of a call", started)
		}
		close(finish)
		for range count {
			r := within(t, "result", results)
			if odd := r.volume%2 == 1; odd != errors.Is(r.err, peers.ErrRefused) || (!odd && r.err != nil) {
				t.Errorf("call %d: %v", r.volume, r.err)
			}
		}
		if most.Load() != limit {
			t.Errorf("%d calls to agent %d ran at once, want %d", most.Load(), to, limit)
		}
		a.kill()
		b.kill()
	}
}

// Each side hears of the other's end in the middle of a call.
func TestCallInterrupted(t *testing.T) {
	for _, who := range []string{"caller", "performer", "caller to itself"} {
		c := newCluster(t)
		started, ended := make(chan struct{}, 1), make(chan error, 1)
		perform := func(ctx context.Context, _ wire.AgentID, _ *apply.Request) error {
			started <- struct{}{}
			<-ctx.Done()
			ended <- ctx.Err()
			return ctx.Err()
		}
		a := c.start(1, func(o *peers.Options) { o.OnApply = perform })
		b := c.start(2, func(o *peers.Options) { o.OnApply = perform })
		to := wire.AgentID(2)
		if who == "caller to itself" {
			to = 1
		}
		result := make(chan error, 1)
		go func() { result <- a.CallApply(context.Background(), to, writes(1, 1)) }()
		within(t, "start", started)
		if who == "performer" {
			b.kill()
		} else {
			a.kill()
		}
		within(t, "end of the request", ended)
		if err := within(t, "result", result); err == nil {
			t.Errorf("%s died, and the call went well", who)
		}
		a.kill()
		b.kill()
	}
}
