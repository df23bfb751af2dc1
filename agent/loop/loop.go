// Package loop runs a [core.Node] under one lock and hands its effects to the parts of the agent that perform them.
//
// Every call into the node goes through [Loop.Do]. The effects of one call are dispatched before those of the next, in
// the order in which the calls held the lock; dispatching only puts things into queues. What Raft wants durable is saved
// by the loop's own goroutine before the node acts on it.
//
// Lock order: Loop.mu, then Loop.dispatch. Whoever is called by a dispatch must not call Do in the same goroutine.
package loop

import (
	"context"
	"fmt"
	"sync"
	"time"

	"flotilla/agent/core"

	"go.etcd.io/raft/v3/raftpb"
)

// TickEvery is how often the node is told the time.
const TickEvery = 5 * time.Millisecond

// Sinks perform effects. Each is called with the loop's dispatch lock held and must not block for long; what takes time
// goes into a bounded queue of its owner's. Nil sinks drop what they would get.
type Sinks struct {
	Send     func([]core.Envelope) // not those to the agent itself: the loop delivers them
	Frames   func([]core.FrameOut)
	Remirror func([]core.Remirror)
	Store    func([]core.Store)
	Free     func([]core.Free)
	Wipe     func()
	Apply    func([]core.Apply)
	Release  func([]any)
	Wake     func()
	Events   func([]core.Event)
	Holds    func([]core.Hold)

	// Beat is called after each tick that came to its end: the lock was to be had, and what the node wanted was handed
	// out. No lock is held; calls follow one another. A loop that hangs calls it no more.
	Beat func()

	// SaveRaft makes a Ready durable; it may block. Its error stops the agent: without a control log nothing is safe.
	SaveRaft func(core.Ready) error
	// SendRaft sends messages after they were saved.
	SendRaft func([]*raftpb.Message)
}

// Loop owns a node.
type Loop struct {
	start time.Time
	sinks Sinks

	mu     sync.Mutex // guards what follows
	node   *core.Node
	ready  core.Ready // to be saved, while saving
	saving bool       // from RaftReady to RaftAdvance

	dispatch sync.Mutex // held while effects are handed out, taken before mu is released

	raft chan struct{} // capacity 1: ready was set
	self chan struct{} // something is in toSelf

	selfMu sync.Mutex
	toSelf []core.Message
}

// New returns a loop over a node that was made with the time 0 and has been restored.
func New(node *core.Node, sinks Sinks) *Loop {
	return &Loop{
		start: time.Now(), node: node, sinks: sinks,
		raft: make(chan struct{}, 1), self: make(chan struct{}, 1),
	}
}

// Now is the node's clock: monotonic, from the start of the loop.
func (l *Loop) Now() time.Duration { return time.Since(l.start) }

// Do calls f with the node and dispatches what it wants done. f must not keep the node, nor anything of its state.
func (l *Loop) Do(f func(n *core.Node, now time.Duration)) {
	l.mu.Lock()
	f(l.node, l.Now())
	e := l.node.Take()
	save := l.takeReadyLocked()
	l.dispatch.Lock()
	l.mu.Unlock()
	l.hand(e)
	l.dispatch.Unlock()
	if save {
		l.raft <- struct{}{} // has room: there is one Ready at a time
	}
}

// takeReadyLocked takes out of the node what Raft wants saved, unless the last of it is still being saved. It reports
// whether there was any; seldom is, so that the goroutine that saves is not woken by each write. l.mu is held.
func (l *Loop) takeReadyLocked() (ok bool) {
	if l.saving {
		return false
	}
	if l.ready, ok = l.node.RaftReady(); ok {
		l.saving = true
	}
	return ok
}

// View calls f with the node for reading: there are no effects to dispatch.
func (l *Loop) View(f func(n *core.Node)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l.node)
}

func (l *Loop) hand(e core.Effects) {
	s := &l.sinks
	give(s.Events, e.Events)
	give(s.Holds, e.Holds)
	give(s.Release, e.Release)
	if e.Wipe && s.Wipe != nil {
		s.Wipe()
	}
	give(s.Store, e.Store)
	give(s.Frames, e.Frames)
	give(s.Remirror, e.Remirror)
	give(s.Free, e.Free)
	give(s.Apply, e.Apply)
	var out []core.Envelope
	for _, env := range e.Send {
		if env.To == l.node.ID() {
			l.selfMu.Lock()
			l.toSelf = append(l.toSelf, env.Msg)
			l.selfMu.Unlock()
			select {
			case l.self <- struct{}{}:
			default:
			}
			continue
		}
		out = append(out, env)
	}
	give(s.Send, out)
	if e.Wake && s.Wake != nil {
		s.Wake()
	}
}

func give[T any](sink func([]T), items []T) {
	if sink != nil && len(items) > 0 {
		sink(items)
	}
}

// Run ticks the node, saves what Raft wants saved and delivers the agent's messages to itself, until the context ends
// or the control log fails.
func (l *Loop) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { l.deliverSelf(ctx) })
	wg.Go(func() {
		t := time.NewTicker(TickEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				l.Do(func(n *core.Node, now time.Duration) { n.Tick(now) })
				if l.sinks.Beat != nil {
					l.sinks.Beat()
				}
			}
		}
	})
	err := l.runRaft(ctx)
	cancel()
	wg.Wait()
	return err
}

// runRaft saves one Ready after the other. Advancing may give the next.
func (l *Loop) runRaft(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.raft:
		}
		l.mu.Lock()
		rd := l.ready
		l.mu.Unlock()
		if err := l.sinks.SaveRaft(rd); err != nil {
			return fmt.Errorf("save the control log: %w", err)
		}
		if len(rd.Messages) > 0 {
			l.sinks.SendRaft(rd.Messages)
		}
		var err error
		l.Do(func(n *core.Node, now time.Duration) {
			l.saving, l.ready = false, core.Ready{}
			err = n.RaftAdvance(now)
		})
		if err != nil {
			return err
		}
	}
}

func (l *Loop) deliverSelf(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.self:
		}
		l.selfMu.Lock()
		msgs := l.toSelf
		l.toSelf = nil
		l.selfMu.Unlock()
		if len(msgs) == 0 {
			continue
		}
		l.Do(func(n *core.Node, now time.Duration) {
			for _, m := range msgs {
				n.Receive(now, n.ID(), m)
			}
		})
	}
}
