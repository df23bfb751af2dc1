package blockdev

import (
	"errors"
	"math"
	"testing"
	"testing/synctest"
)

// TestGate shuts a gate with somebody inside, and lets others knock meanwhile.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		g.init()
		for range 2 {
			if !g.enter() {
				t.Fatal("an open gate lets nobody in")
			}
		}
		g.leave()
		var shut bool
		go func() { shut = g.shut() }()
		synctest.Wait()
		if shut {
			t.Error("shut did not wait for the one inside")
		}
		for range 3 {
			if g.enter() {
				t.Error("a shut gate lets somebody in")
			}
		}
		if g.shut() {
			t.Error("second shut says it was the first")
		}
		g.leave()
		synctest.Wait()
		if !shut {
			t.Error("shut does not return")
		}
		if g.state.Load() != math.MinInt64 {
			t.Errorf("state is %d", g.state.Load())
		}
	})
}

// TestFlusherShares checks that all who come during a flush share one, which
// begins after they came.
func TestFlusherShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flusher
		calls := 0
		proceed := make(chan error)
		sync := func() error {
			calls++
			return <-proceed
		}
		results := make(chan error, 10)
		start := func(n int) {
			for range n {
				go func() { results <- f.flush(sync) }()
			}
			synctest.Wait()
		}
		finish := func(err error, returned int) {
			t.Helper()
			proceed <- err
			synctest.Wait()
			if len(results) != returned {
				t.Errorf("%d flushes returned, want %d", len(results), returned)
			}
			for range len(results) {
				if got := <-results; !errors.Is(got, err) {
					t.Errorf("flush returned %v, want %v", got, err)
				}
			}
		}
		start(1)
		start(5) // Not covered by the one that runs.
		if calls != 1 {
			t.Errorf("%d flushes run at a time", calls)
		}
		finish(nil, 1)
		start(2) // These miss the second one.
		lost := errors.New("page lost")
		finish(lost, 5+2) // The two are told without a flush, and so is everybody from now on.
		start(1)
		if err := <-results; !errors.Is(err, ErrFlushFailed) || !errors.Is(err, lost) {
			t.Errorf("flush after a failed one: %v", err)
		}
		if calls != 2 {
			t.Errorf("%d flushes ran, want 2", calls)
		}
		if f.running || f.next != nil {
			t.Error("something is left")
		}
	})
}

func TestBlockSizesAreMended(t *testing.T) {
	for _, c := range []struct{ in, want BlockSizes }{
		{BlockSizes{512, 4096, 65536}, BlockSizes{512, 4096, 65536}},
		{BlockSizes{0, 0, 0}, BlockSizes{512, 512, 512}},
		{BlockSizes{4096, 512, 768 << 10}, BlockSizes{4096, 4096, 4096}},
		{BlockSizes{-512, 3000, 8192}, BlockSizes{512, 512, 8192}},
	} {
		if got := newBlockSizes(c.in.Logical, c.in.Physical, c.in.Preferred); got != c.want {
			t.Errorf("%+v becomes %+v, want %+v", c.in, got, c.want)
		}
	}
}
