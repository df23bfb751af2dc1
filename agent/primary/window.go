package primary

import (
	"sync"
	"time"
)

// window is how many encoded bytes may be on their way to a component. It follows how long a frame takes from SendFrame to
// its release: what waits longer than a moment only makes its acknowledgement late, and core would send it again.
type window struct {
	mu     sync.Mutex
	flying int64 // given to the Sender and not released
	size   int64
	max    int64
	min    int64
	pace   pace
}

// pace measures how fast frames leave while any waits to: what the connection takes, if that is what they wait for, and more
// than anybody needs if it is not.
type pace struct {
	bytes int64         // released in the time measured
	busy  time.Duration // the time measured
	since time.Time     // from when on something waits, zero while nothing does
	rate  uint64        // bytes a second, 0 before the first measurement
}

// paceTime is how long is measured.
const paceTime = 200 * time.Millisecond

func (p *pace) released(n int64, idle bool, now time.Time) {
	p.bytes += n
	p.busy += now.Sub(p.since)
	if p.since = now; idle {
		p.since = time.Time{}
	}
	if p.busy >= paceTime {
		p.rate = uint64(float64(p.bytes) / p.busy.Seconds())
		p.bytes, p.busy = 0, 0
	}
}

// rate is what the connection takes in bytes a second, as far as known; 0 is not known.
func (w *window) rate() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pace.rate
}

// The times between which a window is right.
const (
	windowGrowBelow   = 100 * time.Millisecond
	windowShrinkAbove = 500 * time.Millisecond
)

func (w *window) open() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flying < w.size
}

func (w *window) sent(n int64, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.flying == 0 {
		w.pace.since = now
	}
	w.flying += n
}

func (w *window) released(n int64, took time.Duration, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flying -= n
	w.pace.released(n, w.flying == 0, now)
	switch {
	case took < windowGrowBelow:
		w.size = min(w.max, w.size+n)
	case took > windowShrinkAbove:
		w.size = max(w.min, w.size/2)
	}
}
