package nbd

import (
	"context"

	"golang.org/x/sync/semaphore"
)

// budget bounds the bytes of data that all connections of a server hold.
// Those that wait are served in order, so that a large request is not starved
// by small ones.
type budget struct {
	sem *semaphore.Weighted
}

func newBudget(bytes int64) *budget {
	return &budget{sem: semaphore.NewWeighted(bytes)}
}

func (b *budget) tryAcquire(n int64) bool { return b.sem.TryAcquire(n) }

func (b *budget) acquire(ctx context.Context, n int64) error { return b.sem.Acquire(ctx, n) }

func (b *budget) release(n int64) {
	if n > 0 {
		b.sem.Release(n)
	}
}
