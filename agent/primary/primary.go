package primary

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/loop"
	"flotilla/agent/vfs"
	"flotilla/blockdev"
	"flotilla/nbd"
	"flotilla/wire"
)

// Primary is an agent's primary role. Make it with New, hand its Release and Wake to the loop, then Start it.
type Primary struct {
	dir        string
	fs         vfs.FS
	sender     Sender
	exporter   Exporter
	openSource func(string) (blockdev.Device, error)
	cached     func(string) bool
	codec      wire.Codec
	log        *slog.Logger
	onEvent    func(core.Event)
	limits     Limits
	spoolDir   string
	spools     spoolTotal

	loop   *loop.Loop
	ctx    context.Context // ends when Close begins: waits of requests end with it
	cancel context.CancelFunc
	done   sync.WaitGroup // the watcher and the follower

	wake   chan struct{} // capacity 1
	follow chan struct{} // capacity 1
	bodies sync.Pool     // of *[]byte

	// hurried says that somebody waits for what the watcher tells: a write of a sync group for being held, or one for the
	// end of a cut. Otherwise the watcher looks, and senders send, less often; urge ends their pauses. A sync group that nobody
	// writes to hurries no other.
	hurried atomic.Bool
	urge    signal

	sentFrames, sentRaw, sentBytes, inlined atomic.Int64

	// Only the watcher uses these.
	seenIndex   uint64
	seenAny     bool
	toldRemoved map[wire.VolumeID]bool

	mu sync.Mutex

	// The fields below are guarded by mu.

	wanted  []groupWanted
	groups  map[wire.GroupID]*group
	failed  map[wire.VolumeID]*failedOpen
	started bool
	closed  bool
}

// New returns a Primary that does nothing yet.
func New(o Options) (*Primary, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := o.FS.MkdirAll(o.Dir); err != nil {
		return nil, fmt.Errorf("make the directory of activity logs: %w", err)
	}
	p := &Primary{
		dir: o.Dir, fs: o.FS, sender: o.Sender, exporter: o.Exporter, openSource: o.OpenSource, cached: o.Cached, codec: o.Codec,
		log: o.Logger, onEvent: o.OnEvent, limits: o.Limits,
		spoolDir: o.SpoolDir, spools: spoolTotal{limit: o.Limits.SpoolTotal},
		wake: make(chan struct{}, 1), follow: make(chan struct{}, 1),
		groups: map[wire.GroupID]*group{}, failed: map[wire.VolumeID]*failedOpen{}, toldRemoved: map[wire.VolumeID]bool{},
	}
	p.bodies.New = func() any { return new([]byte) }
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Release is the loop's sink of payloads that are not needed any more. It may be called after Close.
func (p *Primary) Release(handles []any) { releaseHandles(handles) }

// Wake is the loop's sink of wake-ups.
func (p *Primary) Wake() { p.kick() }

func (p *Primary) kick() { kick(p.wake) }

// hurry notes that somebody waits. Who waits is listed before.
func (p *Primary) hurry() {
	if !p.hurried.Swap(true) {
		p.urge.broadcast()
	}
}

// lookForHurry finds out whether somebody waits still. Who begins to wait meanwhile is either seen, or hurries after it.
func (p *Primary) lookForHurry(groups []*group) {
	p.hurried.Store(false)
	if slices.ContainsFunc(groups, (*group).waitedFor) {
		p.hurried.Store(true)
	}
}

// Start begins to follow the node. It is called once, before the loop runs or while it does.
func (p *Primary) Start(l *loop.Loop) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started || p.closed {
		panic("primary: started twice, or after Close")
	}
	p.started = true
	p.loop = l
	p.done.Go(func() { p.watcher(p.ctx) })
	p.done.Go(func() { p.follower(p.ctx) })
	p.kick()
}

// Close ends the service: new requests get ESHUTDOWN, and so does what waits to be held; what is at work is finished.
// Then sources are flushed, bits are made durable and devices closed. The node is told nothing: a restarted agent
// attaches anew. The loop must run, or at least answer calls, until Close returns.
func (p *Primary) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.done.Wait() // from here on no group or volume comes or goes
	var errs []error
	for _, g := range p.allGroups() {
		g.abandonWaits()
		for _, v := range g.allVolumes() {
			errs = append(errs, g.closeVolume(v, false))
		}
		g.end()
	}
	return errors.Join(errs...)
}

// Export returns the export of an open volume, or nil.
func (p *Primary) Export(id wire.VolumeID) nbd.Export {
	for _, g := range p.allGroups() {
		g.mu.Lock()
		v := g.volumes[id]
		g.mu.Unlock()
		if v != nil {
			return v
		}
	}
	return nil
}

func (p *Primary) allGroups() []*group {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*group, 0, len(p.groups))
	for _, g := range p.groups {
		out = append(out, g)
	}
	return out
}

// event reports something that a user can see.
func (p *Primary) event(g wire.GroupID, name string, attrs ...any) {
	e := core.Event{Name: name, Group: g, Attrs: attrs}
	if p.loop != nil {
		e.At = p.loop.Now()
	}
	p.log.LogAttrs(context.Background(), slog.LevelInfo, name, eventAttrs(e)...)
	if p.onEvent != nil {
		p.onEvent(e)
	}
}

func eventAttrs(e core.Event) []slog.Attr {
	r := slog.NewRecord(time.Time{}, slog.LevelInfo, "", 0)
	r.Add(e.Attrs...)
	attrs := []slog.Attr{slog.Uint64("group", uint64(e.Group))}
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, a)
		return true
	})
	return attrs
}
