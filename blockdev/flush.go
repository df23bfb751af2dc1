package blockdev

import (
	"fmt"
	"sync"
)

// flusher runs one flush at a time and lets all who come meanwhile share the
// next one. So many writers that want durability cost few flushes; and since the
// kernel reports a lost page to one flush only, it is never another one, running
// beside it, that claims success.
type flusher struct {
	mu sync.Mutex

	// The fields below are guarded by mu, which is not held during a flush.

	running bool
	next    *flushRound // those who wait; nil if nobody does
	failed  error       // of the first flush that failed
}

// flushRound is a flush that several share. One of them takes the token from
// lead, flushes, sets err and closes done.
type flushRound struct {
	lead chan struct{} // capacity 1
	done chan struct{}
	err  error
}

// flush returns the outcome of a call of sync that began after flush was called.
func (f *flusher) flush(sync func() error) error {
	f.mu.Lock()
	if !f.running {
		f.running = true
		f.mu.Unlock()
		return f.run(sync)
	}
	if f.next == nil {
		f.next = &flushRound{lead: make(chan struct{}, 1), done: make(chan struct{})}
	}
	r := f.next
	f.mu.Unlock()
	select {
	case <-r.done:
	case <-r.lead:
		r.err = f.run(sync)
		close(r.done)
	}
	return r.err
}

// run flushes once and hands over to the next round. Only who has set running,
// or was handed it by the token, calls it.
func (f *flusher) run(sync func() error) error {
	f.mu.Lock()
	failed := f.failed
	f.mu.Unlock()
	var err error
	if failed != nil {
		err = fmt.Errorf("%w (%w); open the device again and compare its content", ErrFlushFailed, failed)
	} else {
		err = sync()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if failed == nil {
		f.failed = err
	}
	if f.next == nil {
		f.running = false
		return err
	}
	f.next.lead <- struct{}{}
	f.next = nil
	return err
}
