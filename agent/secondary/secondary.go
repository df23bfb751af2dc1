package secondary

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/loop"
	"flotilla/agent/vfs"
	"flotilla/blockdev"
	"flotilla/nbd"
	"flotilla/wire"
)

// Exporter serves exports; *nbd.Server is one.
type Exporter interface {
	AddExport(name string, e nbd.Export) error
	// RemoveExport returns when no request to the export is under way any more.
	RemoveExport(ctx context.Context, name string) error
}

// Options configures a secondary. FS and Dir have no default.
type Options struct {
	FS  vfs.FS
	Dir string // for the records, this package's own; made if missing

	// Open opens a target for writing and claims it. Default: blockdev.Open, exclusively.
	Open func(path string) (blockdev.Device, error)
	// Adopt lets a target be taken over that belongs to another volume or cluster by its record. What is on it is lost.
	Adopt bool
	// Exports gets the targets of promoted groups. Nil: nobody; they are there for Exports.
	Exports Exporter

	Events func(core.Event) // what a user should see; must not block. Default: none
	Logger *slog.Logger     // default: none

	// Retry is how often a target that could not be opened is tried again, and the state is looked at unasked.
	// Default 2 s.
	Retry time.Duration
	// Wait bounds how long a request waits for its turn, or for this agent's state to catch up. Default 5 s.
	Wait time.Duration
}

func (o Options) withDefaults() (Options, error) {
	if o.FS == nil || o.Dir == "" {
		return o, fmt.Errorf("secondary options: a file system and a directory are needed")
	}
	if o.Open == nil {
		o.Open = func(path string) (blockdev.Device, error) {
			return blockdev.Open(path, blockdev.Options{Exclusive: true})
		}
	}
	if o.Events == nil {
		o.Events = func(core.Event) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Retry == 0 {
		o.Retry = 2 * time.Second
	}
	if o.Wait == 0 {
		o.Wait = 5 * time.Second
	}
	if o.Retry < 0 || o.Wait < 0 {
		return o, fmt.Errorf("secondary options: a time is negative")
	}
	return o, nil
}

// followEvery bounds how often the follower looks at the state, however often it is woken.
const followEvery = 10 * time.Millisecond

// Secondary is the shell of one agent's secondary role.
type Secondary struct {
	opt     Options
	records records

	// Set by Start, before any goroutine runs.
	loop *loop.Loop
	self wire.AgentID

	ctx      context.Context // ends with Close
	stop     context.CancelFunc
	follower sync.WaitGroup
	wake     chan struct{} // capacity 1: the follower should look
	// found are the records of an earlier run whose targets were not opened in this one. The follower's own.
	found map[wire.VolumeID]record

	mu      sync.Mutex
	closed  bool                      // guarded by mu
	calls   sync.WaitGroup            // OnApply under way; added to with mu held and closed false
	woken   chan struct{}             // closed and replaced by Wake; guarded by mu
	targets map[wire.VolumeID]*target // guarded by mu; changed by the follower only
}

// New returns a secondary that does nothing yet.
func New(opt Options) (*Secondary, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Secondary{
		opt: opt, records: records{opt.FS, opt.Dir},
		wake: make(chan struct{}, 1), woken: make(chan struct{}), targets: map[wire.VolumeID]*target{},
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Start reads the records and begins to follow the replicated state.
func (s *Secondary) Start(l *loop.Loop) error {
	found, err := s.records.load()
	if err != nil {
		return err
	}
	s.loop, s.found = l, found
	l.View(func(n *core.Node) { s.self = n.ID() })
	s.follower.Go(s.follow)
	s.Wake()
	return nil
}

// Close withdraws the exports, waits for the writes under way, and closes the devices. It does not flush: what was not
// flushed was not answered as applied.
func (s *Secondary) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.follower.Wait()
	s.calls.Wait()
	s.mu.Lock()
	targets := s.targets
	s.targets = map[wire.VolumeID]*target{}
	s.mu.Unlock()
	var errs []error
	for _, t := range targets {
		errs = append(errs, s.shut(context.Background(), t))
	}
	return errors.Join(errs...)
}

// Wake is a sink of the loop.
func (s *Secondary) Wake() {
	s.mu.Lock()
	close(s.woken)
	s.woken = make(chan struct{})
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// event shows something to the user.
func (s *Secondary) event(g wire.GroupID, name string, attrs ...any) {
	s.opt.Events(core.Event{At: s.loop.Now(), Name: name, Group: g, Attrs: attrs})
}
