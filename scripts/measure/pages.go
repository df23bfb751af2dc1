package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"flotilla/internal/pages"
)

// pageWriters write database pages as fast as they are taken: each sends the next when the last was answered.
type pageWriters struct {
	stop  context.CancelFunc
	done  sync.WaitGroup
	bytes atomic.Int64 // acknowledged

	mu  sync.Mutex
	err error // the first write that failed
}

// startPages writes to the page that choose returns. Which of the contents a page gets is drawn, too.
func startPages(ctx context.Context, v *volume, contents []byte, writers int, choose func(r *rand.Rand, count int64) int64) *pageWriters {
	w := &pageWriters{}
	schedule, stop := context.WithCancel(ctx)
	w.stop = stop
	for i := range writers {
		w.done.Go(func() {
			r := rand.New(rand.NewPCG(4, uint64(i)))
			c := v.clients[i%len(v.clients)]
			for schedule.Err() == nil {
				from := r.IntN(len(contents)/pages.Size) * pages.Size
				if err := c.WriteAt(ctx, contents[from:from+pages.Size], choose(r, v.size/pages.Size)*pages.Size, 0); err != nil {
					w.mu.Lock()
					w.err = err
					w.mu.Unlock()
					return
				}
				w.bytes.Add(pages.Size)
			}
		})
	}
	return w
}

// end lets the writes under way end, and returns how many bytes were acknowledged.
func (w *pageWriters) end() (int64, error) {
	w.stop()
	w.done.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, fmt.Errorf("a write failed: %w", w.err)
	}
	return w.bytes.Load(), nil
}
