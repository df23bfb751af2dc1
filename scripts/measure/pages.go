package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
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

// ring is how many pages there are to write, at most.
const ring = 8192

// pagesOf returns the pages of a file that are not all zero, or made ones if it is "".
func pagesOf(path string) ([]byte, error) {
	if path == "" {
		return databasePages(ring), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the pages: %w", err)
	}
	defer f.Close()
	var out []byte
	page, zero := make([]byte, pageSize), make([]byte, pageSize)
	for len(out) < ring*pageSize {
		switch _, err := io.ReadFull(f, page); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			if len(out) == 0 {
				return nil, fmt.Errorf("read the pages: %s has none of %d bytes that is not zero", path, pageSize)
			}
			return out, nil
		case err != nil:
			return nil, fmt.Errorf("read the pages: %w", err)
		case !bytes.Equal(page, zero):
			out = append(out, page...)
		}
	}
	return out, nil
}

// startPages writes to the page that choose returns. Which of the contents a page gets is drawn, too.
func startPages(ctx context.Context, v *volume, contents []byte, writers int, choose func(r *rand.Rand, pages int64) int64) *pageWriters {
	w := &pageWriters{}
	schedule, stop := context.WithCancel(ctx)
	w.stop = stop
	for i := range writers {
		w.done.Go(func() {
			r := rand.New(rand.NewPCG(4, uint64(i)))
			c := v.clients[i%len(v.clients)]
			for schedule.Err() == nil {
				from := r.IntN(len(contents)/pageSize) * pageSize
				if err := c.WriteAt(ctx, contents[from:from+pageSize], choose(r, v.size/pageSize)*pageSize, 0); err != nil {
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
