package primary

import (
	"context"
	"os"
	"sync/atomic"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/nbd"
)

// Small requests of a source in the page cache are done on the goroutine that reads the client's connection: to hand one
// over to a worker costs more than to do it. Writes of one file go one after the other in the kernel anyway. That
// goroutine must not wait, so a request is only taken where nothing is to be waited for: no delay, no cut, no lock that
// another holds, no bit to be made durable. Whether the source itself would wait shows only by doing it: after a request
// that took long the workers have all for ten times as long, and for twice as long again if the next one is slow, too.
const (
	inlineMax   = 64 << 10              // bytes of a request
	slowRead    = 50 * time.Microsecond // it came from a disk
	slowWrite   = time.Millisecond      // the kernel held the writer up
	inlineLater = 10 * time.Second      // no pause is longer
)

// haste remembers whether requests were done in no time.
type haste struct {
	until atomic.Int64 // of the loop's clock: not before then
	pause atomic.Int64 // after the next slow one
}

func (h *haste) allowed(now time.Duration) bool { return int64(now) >= h.until.Load() }

// took notes how long a request took that ended at now.
func (h *haste) took(d, limit, now time.Duration) {
	if d < limit {
		if h.pause.Load() != 0 {
			h.pause.Store(0)
		}
		return
	}
	pause := min(max(2*h.pause.Load(), int64(10*d)), int64(inlineLater))
	h.pause.Store(pause)
	h.until.Store(int64(now) + pause)
}

// isCached reports whether a source is a regular file, which is read and written through the page cache.
func isCached(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// endedContext is a context with which a lock that is held is not waited for.
func endedContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// Try implements nbd.Export.
func (v *volume) Try(r *nbd.Request) bool {
	if !v.cached || r.Length > inlineMax || (r.Op != nbd.OpRead && (r.Op != nbd.OpWrite || r.FUA)) || !v.g.served.Load() {
		return false
	}
	v.g.requests.Add(1)
	began := v.p.loop.Now()
	if r.Op == nbd.OpRead {
		return v.readHaste.allowed(began) && v.tryRead(r, began)
	}
	return v.writeHaste.allowed(began) && v.tryWrite(r, began)
}

func (v *volume) tryRead(r *nbd.Request, began time.Duration) bool {
	if v.g.hidesUnheld() || !v.ops.enter() {
		return false
	}
	defer v.ops.leave()
	guard, err := v.io.RLock(v.ended, r.Offset, r.Length)
	if err != nil {
		return false
	}
	_, err = v.dev.ReadAt(r.Data(), r.Offset)
	guard.Unlock()
	now := v.p.loop.Now()
	v.readHaste.took(now-began, slowRead, now)
	v.p.inlined.Add(1)
	r.Done(v.noted(err))
	return true
}

// tryWrite does what change does, for a group in which a write waits neither to be let in nor for a cut nor to be held.
func (v *volume) tryWrite(r *nbd.Request, began time.Duration) bool {
	mode := cluster.Mode(v.g.mode.Load())
	if mode != cluster.Async || v.g.shared.Load() || v.g.delay() > 0 || !v.ops.enter() {
		return false
	}
	defer v.ops.leave()
	guard, err := v.io.Lock(v.ended, r.Offset, r.Length)
	if err != nil {
		return false
	}
	if !v.marks.covers(r.Offset, r.Length) {
		guard.Unlock()
		return false
	}
	_, err = v.store(r, mode)
	guard.Unlock()
	now := v.p.loop.Now()
	v.writeHaste.took(now-began, slowWrite, now)
	v.p.inlined.Add(1)
	r.Done(err)
	return true
}
