package agent

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"flotilla/agent/core"
	"flotilla/wire"
)

// maxEvents is how many events an agent remembers, and the most that one answer carries.
const maxEvents = 1024

// electedEvent is the node's event on becoming captain.
const electedEvent = "captain.elected"

// event is one remembered event. The group's name is looked up when it is shown.
type event struct {
	seq   uint64
	at    time.Time
	name  string
	group wire.GroupID
	attrs map[string]any
}

// eventLog remembers the newest events and writes each to the log.
type eventLog struct {
	log   *slog.Logger
	start time.Time // the wall clock at the node's time 0
	run   string    // tells this run of the agent from others
	watch watch

	mu      sync.Mutex
	elected time.Duration // on the node's clock: when this agent last became captain
	last    uint64
	ring    []event // ascending by seq, at most maxEvents
	counts  map[string]uint64
}

func newEventLog(log *slog.Logger, start time.Time) *eventLog {
	return &eventLog{log: log, start: start, run: strconv.FormatInt(start.UnixNano(), 36), counts: map[string]uint64{}}
}

// take is the loop's sink of events.
func (l *eventLog) take(events []core.Event) {
	l.mu.Lock()
	for i := range events {
		e := &events[i]
		l.last++
		if len(l.ring) == maxEvents {
			l.ring = append(l.ring[:0], l.ring[1:]...)
		}
		l.ring = append(l.ring, event{
			seq: l.last, at: l.start.Add(e.At), name: e.Name, group: e.Group, attrs: attributes(e.Attrs),
		})
		l.counts[e.Name]++
		if e.Name == electedEvent {
			l.elected = e.At
		}
	}
	l.mu.Unlock()
	l.watch.wake()
	for i := range events {
		e := &events[i]
		attrs := e.Attrs
		if e.Group != 0 {
			attrs = append([]any{"group", e.Group}, attrs...)
		}
		l.log.Info(e.Name, attrs...)
	}
}

// attributes turns pairs as slog takes them into what JSON can carry.
func attributes(pairs []any) map[string]any {
	if len(pairs) == 0 {
		return nil
	}
	m := make(map[string]any, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		key := fmt.Sprint(pairs[i])
		switch v := pairs[i+1].(type) {
		case bool, string, int, int64, uint64, float64:
			m[key] = v
		case time.Duration:
			m[key] = v.Seconds()
		default:
			m[key] = fmt.Sprint(v)
		}
	}
	return m
}

// after returns the events above a number. missed counts those that are no longer remembered. When there are none it
// waits for the first until the context ends.
func (l *eventLog) after(ctx context.Context, seq uint64) (events []event, missed, next uint64) {
	for {
		changed := l.watch.next()
		l.mu.Lock()
		if seq > l.last {
			seq = 0 // of an earlier run of the agent
		}
		first := l.last - uint64(len(l.ring)) // the newest one that is forgotten
		if seq < first {
			missed = first - seq
		}
		events = append(events, l.ring[max(seq, first)-first:]...)
		next = l.last
		l.mu.Unlock()
		if len(events) > 0 {
			return events, missed, next
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, missed, next
		}
	}
}

// electedAt returns when this agent last became captain, on the node's clock.
func (l *eventLog) electedAt() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.elected
}

// eachCount calls f with how often each event has happened in this run.
func (l *eventLog) eachCount(f func(name string, n uint64)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, n := range l.counts {
		f(name, n)
	}
}

// one takes an event of a part of the agent that is not the node.
func (l *eventLog) one(e core.Event) { l.take([]core.Event{e}) }
