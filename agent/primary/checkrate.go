package primary

import (
	"context"
	"time"
)

// throttle keeps the checker below a number of bytes a second; 0 lets everything through.
type throttle struct {
	rate int64
	next time.Time // when the bytes taken so far will have been due
}

func (t *throttle) take(ctx context.Context, n int64) error {
	if t.rate == 0 {
		return nil
	}
	now := time.Now()
	if t.next.Before(now) {
		t.next = now
	}
	wait := t.next.Sub(now)
	t.next = t.next.Add(perSecond(n, t.rate))
	return sleep(ctx, wait)
}

// awaitRoom waits until the queue is under half of the mark at which writers are delayed.
func (g *group) awaitRoom(ctx context.Context) error {
	for g.load.Load() > g.p.limits.PaceMark/2 {
		changed := g.changed.wait()
		if g.load.Load() <= g.p.limits.PaceMark/2 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errStopped
		}
	}
	return nil
}

// copyCeiling returns the rate that copies must not pass, 0 for none.
func (g *group) copyCeiling() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tempo.most
}
