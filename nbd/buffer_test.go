package nbd

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestBufferClassesHoldWhatIsAsked(t *testing.T) {
	p := newBufferPool(1<<25, 1<<26)
	for _, n := range []int{1, 511, 4095, 4096, 4097, 8192, 8193, 1<<20 - 1, 1 << 20, 1<<20 + 1, 1 << 25} {
		b := p.get(n)
		if b.Len() != n || len(b.Bytes()) != n || misalignment(b.mem) != 0 {
			t.Errorf("%d: length %d, misaligned by %d", n, b.Len(), misalignment(b.mem))
		}
		if got := int64(len(b.mem)); got != classSize(n) || got < int64(n) {
			t.Errorf("%d: %d bytes, want %d", n, got, classSize(n))
		}
		b.Release()
	}
	if p.inUse.Load() != 0 {
		t.Errorf("%d bytes in use", p.inUse.Load())
	}
}

func TestIdleBuffersAreBoundedAndReused(t *testing.T) {
	p := newBufferPool(1<<20, 8192)
	var all []*Buffer
	for range 5 {
		all = append(all, p.get(4096))
	}
	for _, b := range all {
		b.Release()
	}
	if got := p.idle.Load(); got != 8192 {
		t.Errorf("%d bytes idle, want 8192", got)
	}
	if b := p.get(100); b != all[1] || p.idle.Load() != 4096 {
		t.Error("the last buffer released is not the first reused")
	}
}

func TestBufferReferences(t *testing.T) {
	p := newBufferPool(1<<20, 1<<20)
	b := p.get(4096)
	b.Retain()
	b.Release()
	if p.idle.Load() != 0 {
		t.Fatal("given back with a reference left")
	}
	b.Release()
	if p.idle.Load() != 4096 {
		t.Fatal("not given back")
	}
	for name, misuse := range map[string]func(){"release": releaseTwice, "retain": retainReleased} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			misuse()
		}()
	}
}

// releaseTwice releases a buffer once too often.
func releaseTwice() {
	b := NewBuffer(10)
	b.Release()
	b.Release()
}

func retainReleased() {
	b := NewBuffer(10)
	b.Release()
	b.Retain()
}

func TestBudgetServesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(10)
		if !b.tryAcquire(8) {
			t.Fatal("refused")
		}
		var order []int
		var wg sync.WaitGroup
		wg.Go(func() { _ = b.acquire(t.Context(), 9); order = append(order, 9); b.release(9) })
		time.Sleep(time.Second) // virtual
		if b.tryAcquire(1) {
			t.Error("a small request overtook a large one")
		}
		b.release(8)
		wg.Wait()
		if len(order) != 1 {
			t.Error("the large request did not come")
		}
	})
}
