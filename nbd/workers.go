package nbd

import (
	"sync"
	"sync/atomic"
)

// workers are the goroutines on which a connection's blocking requests run.
// There are as many as requests have ever blocked at a time, up to a limit.
type workers struct {
	c    *conn
	max  int
	n    int           // started; only the reader touches it
	idle atomic.Int32  // waiting for work, less what is queued
	work chan *Request // has room for all requests that may be in flight
	wg   sync.WaitGroup
}

func newWorkers(c *conn, limit, requests int) *workers {
	return &workers{c: c, max: limit, work: make(chan *Request, requests)}
}

// submit runs r on a worker. It never blocks, as admission bounds the requests.
func (w *workers) submit(r *Request) {
	if w.idle.Add(-1) < 0 && w.n < w.max {
		w.n++
		w.idle.Add(1)
		w.wg.Go(w.run)
	}
	w.work <- r
}

func (w *workers) run() {
	for r := range w.work {
		if w.c.isDead() {
			r.Done(ESHUTDOWN)
		} else {
			w.c.export.Serve(r)
		}
		completed := w.c.detach(r)
		w.idle.Add(1)
		if completed {
			w.c.flush()
		}
	}
}

// stop ends the workers and waits for them, unless one may be inside the
// export for good; that one ends when the export lets it go.
func (w *workers) stop(wait bool) {
	close(w.work)
	if wait {
		w.wg.Wait()
	}
}

func (c *conn) isDead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead
}
