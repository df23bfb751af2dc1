package blockdev_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"flotilla/blockdev"
)

type lockFunc = func(ctx context.Context, off, length int64) (blockdev.RangeGuard, error)

func mustLock(t testing.TB, lock lockFunc, off, length int64) blockdev.RangeGuard {
	t.Helper()
	g, err := lock(context.Background(), off, length)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// pendingLock is a request in a goroutine of its own. In a synctest bubble,
// after synctest.Wait, granted says whether it still waits.
type pendingLock struct {
	granted atomic.Bool
	unlock  chan struct{}
}

func lockLater(t *testing.T, lock lockFunc, off, length int64) *pendingLock {
	p := &pendingLock{unlock: make(chan struct{})}
	go func() {
		g, err := lock(context.Background(), off, length)
		if err != nil {
			t.Errorf("lock %d+%d: %v", off, length, err)
			return
		}
		p.granted.Store(true)
		<-p.unlock
		g.Unlock()
	}()
	synctest.Wait()
	return p
}

func (p *pendingLock) release() {
	close(p.unlock)
	synctest.Wait()
}

func wantGranted(t *testing.T, what string, p *pendingLock, want bool) {
	t.Helper()
	if p.granted.Load() != want {
		t.Errorf("%s: granted is %v, want %v", what, !want, want)
	}
}

func TestRangeLockConflicts(t *testing.T) {
	for _, c := range []struct {
		name           string
		firstShared    bool
		secondShared   bool
		off, length    int64
		secondGranted  bool
		firstOff, span int64
	}{
		{"writers on the same", false, false, 100, 50, false, 100, 50},
		{"writer over reader", true, false, 120, 5, false, 100, 50},
		{"reader over writer", false, true, 90, 11, false, 100, 50},
		{"readers", true, true, 100, 50, true, 100, 50},
		{"writer before", false, false, 90, 10, true, 100, 50},
		{"writer behind", false, false, 150, 10, true, 100, 50},
		{"writer around", false, false, 0, math.MaxInt64, false, 100, 50},
		{"last byte", false, false, 149, 1, false, 100, 50},
		{"empty inside", false, false, 120, 0, true, 100, 50},
		{"around empty", false, false, 100, 50, true, 120, 0},
		{"at zero around empty", false, false, 0, 50, true, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l blockdev.RangeLock
				lock := func(shared bool) lockFunc {
					if shared {
						return l.RLock
					}
					return l.Lock
				}
				g := mustLock(t, lock(c.firstShared), c.firstOff, c.span)
				p := lockLater(t, lock(c.secondShared), c.off, c.length)
				wantGranted(t, "second", p, c.secondGranted)
				g.Unlock()
				synctest.Wait()
				wantGranted(t, "second after unlock", p, true)
				p.release()
			})
		})
	}
}

// TestRangeLockFair lets a writer wait behind a reader. Readers that come later
// wait behind it where they overlap it, and nowhere else.
func TestRangeLockFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l blockdev.RangeLock
		reader := lockLater(t, l.RLock, 0, 100)
		writer := lockLater(t, l.Lock, 50, 100)
		late := lockLater(t, l.RLock, 90, 10)
		aside := lockLater(t, l.RLock, 0, 50)
		beyond := lockLater(t, l.Lock, 150, 10)
		chained := lockLater(t, l.Lock, 95, 60) // Behind writer, late and beyond.
		wantGranted(t, "writer behind reader", writer, false)
		wantGranted(t, "reader behind the waiting writer", late, false)
		wantGranted(t, "reader beside the waiting writer", aside, true)
		wantGranted(t, "writer beside the waiting writer", beyond, true)
		reader.release()
		wantGranted(t, "writer", writer, true)
		wantGranted(t, "late reader behind writer", late, false)
		writer.release()
		wantGranted(t, "late reader", late, true)
		wantGranted(t, "chained", chained, false)
		late.release()
		wantGranted(t, "chained", chained, false)
		beyond.release()
		wantGranted(t, "chained", chained, true)
		chained.release()
		aside.release()
	})
}

func TestRangeLockCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l blockdev.RangeLock
		holder := lockLater(t, l.RLock, 0, 100)
		cause := errors.New("the client went away")
		ctx, cancel := context.WithCancelCause(context.Background())
		result := make(chan error, 1)
		go func() {
			_, err := l.Lock(ctx, 0, 100)
			result <- err
		}()
		synctest.Wait()
		behind := lockLater(t, l.RLock, 50, 10)
		wantGranted(t, "reader behind the waiting writer", behind, false)
		cancel(cause)
		if err := <-result; !errors.Is(err, cause) {
			t.Errorf("cancelled lock: %v, want its cause", err)
		}
		synctest.Wait()
		wantGranted(t, "reader once the writer gave up", behind, true)
		// A context that has ended does no harm where there is nothing to wait for.
		g, err := l.Lock(ctx, 200, 1)
		if err != nil {
			t.Fatal(err)
		}
		g.Unlock()
		holder.release()
		behind.release()
		mustLock(t, l.Lock, 0, math.MaxInt64).Unlock() // Nothing is left.
	})
}

func TestRangeLockMisuse(t *testing.T) {
	var l blockdev.RangeLock
	for _, c := range [][2]int64{{-1, 1}, {0, -1}, {math.MaxInt64, 1}, {1, math.MaxInt64}} {
		if _, err := l.Lock(context.Background(), c[0], c[1]); !errors.Is(err, blockdev.ErrOutOfRange) {
			t.Errorf("lock %v: %v, want out of range", c, err)
		}
	}
	panics := func(what string, f func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s did not panic", what)
			}
		}()
		f()
	}
	g := mustLock(t, l.Lock, 0, 1)
	g.Unlock()
	panics("second unlock", g.Unlock)
	other := mustLock(t, l.Lock, 0, 1) // Has the number that g had.
	panics("unlock by an old guard", g.Unlock)
	other.Unlock()
	panics("unlock of nothing", blockdev.RangeGuard{}.Unlock)
}

// TestRangeLockExcludes lets many goroutines lock at random, some giving up, and
// counts who is inside each cell.
func TestRangeLockExcludes(t *testing.T) {
	const workers, rounds, cells = 16, 1500, 24
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var l blockdev.RangeLock
	var inside [cells]atomic.Int32 // readers, or -1 for a writer
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			for i := 0; i < rounds && errs[w] == nil; i++ {
				errs[w] = excludeOnce(&l, r, inside[:])
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	mustLock(t, l.Lock, 0, math.MaxInt64).Unlock()
}

func excludeOnce(l *blockdev.RangeLock, r *rand.Rand, inside []atomic.Int32) error {
	off := r.IntN(len(inside))
	n := r.IntN(min(6, len(inside)-off)) + 1
	lock, step, others := l.Lock, int32(-1), func(v int32) bool { return v == -1 }
	if r.IntN(2) == 0 {
		lock, step, others = l.RLock, 1, func(v int32) bool { return v > 0 }
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if r.IntN(4) == 0 {
		go cancel()
	}
	g, err := lock(ctx, int64(off), int64(n))
	if errors.Is(err, context.Canceled) {
		return nil
	}
	if err != nil {
		return err
	}
	for i := off; i < off+n; i++ {
		if v := inside[i].Add(step); !others(v) {
			return fmt.Errorf("cell %d holds %d after step %d", i, v, step)
		}
	}
	for i := off; i < off+n; i++ {
		inside[i].Add(-step)
	}
	g.Unlock()
	return nil
}

// BenchmarkRangeLock locks and unlocks a range while others are held elsewhere.
func BenchmarkRangeLock(b *testing.B) {
	for _, held := range []int64{0, 64, 256, 1024} {
		b.Run(fmt.Sprintf("held=%d", held), func(b *testing.B) {
			var l blockdev.RangeLock
			ctx := context.Background()
			for i := range held {
				mustLock(b, l.Lock, i*8192, 4096)
			}
			b.ReportAllocs()
			for b.Loop() {
				g, err := l.Lock(ctx, 1<<40, 4096)
				if err != nil {
					b.Fatal(err)
				}
				g.Unlock()
			}
		})
	}
}

func BenchmarkRangeLockParallel(b *testing.B) {
	var l blockdev.RangeLock
	var next atomic.Int64
	for i := range int64(64) {
		mustLock(b, l.Lock, i*8192, 4096)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		off := next.Add(1) << 40
		for pb.Next() {
			g, _ := l.Lock(context.Background(), off, 4096)
			g.Unlock()
		}
	})
}

// BenchmarkRangeLockContended lets two goroutines hand over one range.
func BenchmarkRangeLockContended(b *testing.B) {
	var l blockdev.RangeLock
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			g, _ := l.Lock(context.Background(), 0, 4096)
			g.Unlock()
		}
	})
}
