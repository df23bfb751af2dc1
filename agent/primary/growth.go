package primary

import "time"

// growth follows how fast a queue grows, to say when it will be full. It is a guess, and nothing is decided by it.
type growth struct {
	seen []grown // ascending in time
}

type grown struct {
	at    time.Duration
	bytes int64
}

// The times of a growth.
const (
	growthSpan  = 5 * time.Second // is looked at
	growthEvery = 250 * time.Millisecond
	growthLeast = 100 * time.Millisecond // is needed to say anything
	maxFullIn   = 30 * 24 * time.Hour    // beyond that it does not grow
)

func (g *growth) note(now time.Duration, bytes int64) {
	if n := len(g.seen); n > 1 && g.seen[n-1].at-g.seen[n-2].at < growthEvery {
		g.seen = g.seen[:n-1] // the last one only stands for now
	}
	g.seen = append(g.seen, grown{now, bytes})
	drop := 0
	for len(g.seen)-drop > 2 && now-g.seen[drop].at > growthSpan {
		drop++
	}
	g.seen = append(g.seen[:0], g.seen[drop:]...)
}

func (g *growth) reset() { g.seen = g.seen[:0] }

// fullIn says when so many bytes more will have come; false if it does not look like it.
func (g *growth) fullIn(room int64) (time.Duration, bool) {
	if len(g.seen) < 2 {
		return 0, false
	}
	first, last := g.seen[0], g.seen[len(g.seen)-1]
	took, grew := last.at-first.at, last.bytes-first.bytes
	if took < growthLeast || grew <= 0 {
		return 0, false
	}
	in := float64(max(0, room)) / float64(grew) * float64(took)
	if in >= float64(maxFullIn) {
		return 0, false
	}
	return time.Duration(in), true
}
