package agent

import (
	"log/slog"
	"maps"
	"sort"
	"sync"

	"flotilla/agent/core"
	"flotilla/wire"
)

// holdLog counts how long this agent's groups stood still for cuts, and writes each hold to the log, at level debug.
type holdLog struct {
	log *slog.Logger

	mu     sync.Mutex
	groups map[wire.GroupID]holdCount
}

// holdBounds are the upper ends of what is counted together, in seconds: up to the longest hold that can be configured.
var holdBounds = [...]float64{.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1}

// holdCount is the holds of one group. One that is longer than the last bound is in none of the buckets.
type holdCount struct {
	count   uint64
	seconds float64
	buckets [len(holdBounds)]uint64
}

func newHoldLog(log *slog.Logger) *holdLog {
	return &holdLog{log: log, groups: map[wire.GroupID]holdCount{}}
}

// take is the loop's sink of holds.
func (l *holdLog) take(ended []core.Hold) {
	l.mu.Lock()
	for _, h := range ended {
		c, s := l.groups[h.Group], h.Length.Seconds()
		c.count++
		c.seconds += s
		if i := sort.SearchFloat64s(holdBounds[:], s); i < len(holdBounds) {
			c.buckets[i]++
		}
		l.groups[h.Group] = c
	}
	l.mu.Unlock()
	for _, h := range ended {
		l.log.Debug("cut.hold", "group", h.Group, "set", h.Set, "seconds", h.Length.Seconds(), "stood", h.Stood)
	}
}

// counts returns what was counted so far.
func (l *holdLog) counts() map[wire.GroupID]holdCount {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.groups)
}

// upTo returns how many holds were at most as long as each bound.
func (c *holdCount) upTo() map[float64]uint64 {
	out, sum := make(map[float64]uint64, len(holdBounds)), uint64(0)
	for i, b := range holdBounds {
		sum += c.buckets[i]
		out[b] = sum
	}
	return out
}
