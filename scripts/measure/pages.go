package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

// pageSize is that of PostgreSQL.
const pageSize = 8192

// databasePages makes n pages as databases fill them: a header, rows of numbers and words, and an eighth that is free.
func databasePages(n int) []byte {
	r := rand.New(rand.NewPCG(3, uint64(n)))
	words := []string{"customer", "delivered", "pending", "Frankfurt", "Rotterdam", "2024-05-", "invoice", "EUR"}
	out := make([]byte, n*pageSize)
	for i := range n {
		p := out[i*pageSize : (i+1)*pageSize]
		binary.LittleEndian.PutUint64(p, r.Uint64N(1<<32))
		for at := 24; at+80 < len(p)*7/8; {
			binary.LittleEndian.PutUint64(p[at:], r.Uint64N(1<<24)) // a key
			binary.LittleEndian.PutUint64(p[at+8:], r.Uint64())     // and what nothing makes shorter
			at += 16
			for range 1 + r.IntN(4) {
				at += copy(p[at:], words[r.IntN(len(words))])
			}
		}
	}
	return out
}

// pageWriters write database pages as fast as they are taken: each sends the next when the last was answered.
type pageWriters struct {
	stop  context.CancelFunc
	done  sync.WaitGroup
	bytes atomic.Int64 // acknowledged

	mu  sync.Mutex
	err error // the first write that failed
}

// startPages writes to the page that choose returns. Which content a page gets is drawn, too.
func startPages(ctx context.Context, v *volume, writers int, choose func(r *rand.Rand, pages int64) int64) *pageWriters {
	const ring = 8192 // pages
	w := &pageWriters{}
	schedule, stop := context.WithCancel(ctx)
	w.stop = stop
	content := databasePages(ring)
	for i := range writers {
		w.done.Go(func() {
			r := rand.New(rand.NewPCG(4, uint64(i)))
			c := v.clients[i%len(v.clients)]
			for schedule.Err() == nil {
				from := r.IntN(ring) * pageSize
				if err := c.WriteAt(ctx, content[from:from+pageSize], choose(r, v.size/pageSize)*pageSize, 0); err != nil {
					w.mu.Lock()
					w.err = err
					w.mu.Unlock()
					return
				}
				w.bytes.Add(pageSize)
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
