package sim

import "time"

// event is something that happens at a time. Of those of one time, which was scheduled first comes first.
type event struct {
	at    time.Duration
	order uint64
	name  string
	run   func()
}

func (e *event) before(o *event) bool { return e.at < o.at || (e.at == o.at && e.order < o.order) }

// events is a heap of them, the next one first.
type events []event

func (q *events) push(e event) {
	h := append(*q, e)
	*q = h
	k := len(h) - 1
	for k > 0 {
		up := (k - 1) / 2
		if !e.before(&h[up]) {
			break
		}
		h[k] = h[up]
		k = up
	}
	h[k] = e
}

func (q *events) pop() event {
	h := *q
	first, last := h[0], h[len(h)-1]
	h[len(h)-1] = event{}
	h = h[:len(h)-1]
	*q = h
	if len(h) == 0 {
		return first
	}
	k := 0
	for {
		next := 2*k + 1
		if next >= len(h) {
			break
		}
		if r := next + 1; r < len(h) && h[r].before(&h[next]) {
			next = r
		}
		if !h[next].before(&last) {
			break
		}
		h[k] = h[next]
		k = next
	}
	h[k] = last
	return first
}

// after schedules f.
func (w *World) after(d time.Duration, name string, f func()) {
	w.order++
	w.queue.push(event{at: w.now + d, order: w.order, name: name, run: f})
}
