package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
)

const (
	watchEvery = 10 * time.Millisecond
	watchAsk   = time.Second // a status that takes longer is asked for anew
	watchLimit = 3 * time.Minute
)

// moment is a line of a timeline.
type moment struct {
	at   time.Time
	text string
}

// watcher asks one host for the status again and again, and writes down what changes. What it says of a time is late by
// watchEvery and the time of an answer, never early.
type watcher struct {
	host *fleet.Host
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex
	last    *api.Status // nil while no captain answers
	held    uint64      // updates that are held, as last heard of
	heldAt  time.Time   // when it last rose
	changed chan struct{}
	moments []moment
}

func startWatcher(ctx context.Context, h *fleet.Host) *watcher {
	w := &watcher{host: h, changed: make(chan struct{})}
	ctx, w.stop = context.WithCancel(ctx)
	w.done.Go(func() { w.run(ctx) })
	return w
}

func (w *watcher) run(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		once, done := context.WithTimeout(ctx, watchAsk)
		s, err := w.host.Status(once)
		done()
		if err != nil {
			s = nil // the agent cannot answer: a captain cannot be reached
		}
		w.take(s)
	}
}

// take notes what a status changes.
func (w *watcher) take(s *api.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if was, is := describe(w.last), describe(s); was != is {
		w.moments = append(w.moments, moment{time.Now(), is})
	}
	w.last = s
	w.noteHeldLocked(s)
	close(w.changed)
	w.changed = make(chan struct{})
}

// stuckTime is how long nothing may become held before a timeline tells of it: what a captain says of primaries is up to
// 100 ms old.
const stuckTime = 400 * time.Millisecond

// noteHeldLocked tells when updates become held again. w.mu is held.
func (w *watcher) noteHeldLocked(s *api.Status) {
	if s == nil || s.Group(groupName) == nil {
		return
	}
	held := uint64(0)
	for _, p := range s.Group(groupName).Primaries {
		held += p.HeldUpTo
	}
	if held == w.held {
		return
	}
	now := time.Now()
	if since := now.Sub(w.heldAt); !w.heldAt.IsZero() && held > w.held && since > stuckTime {
		w.moments = append(w.moments, moment{now, fmt.Sprintf("updates become held again, after %.2f s", since.Seconds())})
	}
	w.held, w.heldAt = held, now
}

// describe says what a timeline shows of a status.
func describe(s *api.Status) string {
	if s == nil {
		return "no captain answers"
	}
	var members []string
	for _, c := range s.Components {
		if c.Member {
			members = append(members, strings.TrimPrefix(c.Agent, "component"))
		}
	}
	slices.Sort(members)
	settled := "not everything is held twice"
	if s.Settled {
		settled = "settled"
	}
	return fmt.Sprintf("captain %s, view %d of components %s, %s", s.Captain, s.View, strings.Join(members, " "), settled)
}

// say adds a line to the timeline.
func (w *watcher) say(format string, args ...any) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.moments = append(w.moments, moment{now, fmt.Sprintf(format, args...)})
	return now
}

// status returns the last one, nil while no captain answers.
func (w *watcher) status() *api.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// until waits for a status, and returns when it was seen.
func (w *watcher) until(ctx context.Context, what string, done func(*api.Status) bool) (time.Time, error) {
	cause := errors.New("it took more than " + watchLimit.String())
	ctx, cancel := context.WithTimeoutCause(ctx, watchLimit, cause)
	defer cancel()
	for {
		w.mu.Lock()
		s, changed := w.last, w.changed
		w.mu.Unlock()
		if s != nil && done(s) {
			return time.Now(), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("wait until %s: %w; the last status: %s", what, context.Cause(ctx), describe(s))
		}
	}
}

// end stops it and returns the timeline.
func (w *watcher) end() []moment {
	w.stop()
	w.done.Wait()
	return w.moments
}

// isMember reports whether a component is in the view.
func isMember(s *api.Status, name string) bool {
	c := s.Component(name)
	return c != nil && c.Member
}

// pause lets time pass.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
