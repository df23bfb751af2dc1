package backup

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/loop"
	"flotilla/wire"
)

// Backup is the shell of one agent's backup role. Its sinks may be called from New on, everything else as documented.
type Backup struct {
	opt      Options
	segments string // directory of the journal
	decoder  *wire.Decoder
	payloads payloads
	stats    counters

	// Set by Open and Start, before any goroutine runs.
	loop    *loop.Loop
	self    wire.AgentID
	cluster string

	running atomic.Bool
	stop    context.CancelFunc
	ctx     context.Context // ends with Close; parent of everything that waits
	keeping sync.WaitGroup  // the keeper and the workers: those who use the journal
	telling sync.WaitGroup  // the notifier, which ends after them

	fault  atomic.Pointer[fault]       // nil while the journal is whole
	held   atomic.Pointer[heldJournal] // nil while there is none; stored by Open and the keeper
	keeper keeper
	notes  notes
	copies remirrors
	applys applies

	encodeMu sync.Mutex
	encoder  *wire.Encoder // guarded by encodeMu; for bodies that the node made
}

// counters are what Stats shows.
type counters struct {
	received, refused, stored, full, mirrorsDropped, applied, applyFailed atomic.Uint64
}

// Stats are counters since the start.
type Stats struct {
	Received       uint64 // frames handed to the node
	Refused        uint64 // frames that were no frames
	Stored         uint64 // frames made durable
	Full           uint64 // frames that the journal had no room for
	MirrorsDropped uint64 // frames that were not sent to their mirror at once for want of memory
	Applied        uint64 // shares of sets written to targets
	ApplyFailed    uint64
}

// New returns a component that is neither open nor running.
func New(opt Options) (*Backup, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Backup{opt: opt, segments: path.Join(opt.Dir, segmentsName)}
	b.opt.Journal.Dir = b.segments
	if b.decoder, err = wire.NewDecoder(); err != nil {
		return nil, err
	}
	if b.encoder, err = wire.NewEncoder(wire.CodecAuto); err != nil {
		return nil, err
	}
	b.ctx, b.stop = context.WithCancel(context.Background())
	b.payloads.init(opt.IntakeBytes, opt.MirrorBytes)
	b.keeper.init()
	b.notes.init()
	b.copies.init()
	b.applys.init()
	return b, nil
}

// Start begins the work. The loop is over the node that Open was given.
func (b *Backup) Start(l *loop.Loop) {
	b.loop = l
	b.keeping.Go(b.keep)
	b.keeping.Go(b.watch)
	for range b.opt.ApplyWorkers {
		b.keeping.Go(b.applyWorker)
	}
	for range b.opt.MirrorWorker {
		b.keeping.Go(b.remirrorWorker)
	}
	b.telling.Go(b.notify)
	b.running.Store(true)
}

// Close stops the work, makes durable what was appended, and waits for everything to end. What was queued and not
// appended is dropped: nobody was told that it is held. The loop may run on or not. It returns what made the journal
// unusable, if anything did.
func (b *Backup) Close() error {
	b.running.Store(false)
	b.payloads.close()
	b.stop()
	b.keeping.Wait()
	b.keeper.drop(&b.payloads)
	var err error
	if h := b.held.Load(); h != nil {
		err = h.Close()
	}
	b.notes.close()
	b.telling.Wait()
	if err != nil {
		return fmt.Errorf("close the journal: %w", err)
	}
	return nil
}

// Stats returns the counters.
func (b *Backup) Stats() Stats {
	c := &b.stats
	return Stats{
		Received: c.received.Load(), Refused: c.refused.Load(), Stored: c.stored.Load(), Full: c.full.Load(),
		MirrorsDropped: c.mirrorsDropped.Load(), Applied: c.applied.Load(), ApplyFailed: c.applyFailed.Load(),
	}
}

// Usage returns in bytes what the journal takes and may take; zeroes while there is none.
func (b *Backup) Usage() (used, limit int64) {
	if h := b.held.Load(); h != nil {
		used, limit, _ = h.Usage()
	}
	return used, limit
}

// event shows something to the user.
func (b *Backup) event(g wire.GroupID, name string, attrs ...any) {
	var at time.Duration
	if b.loop != nil {
		at = b.loop.Now()
	}
	b.opt.Events(core.Event{At: at, Name: name, Group: g, Attrs: attrs})
}

// encode gives a body that the node made its raw bytes. It is called by the sinks only, so one at a time for each body.
func (b *Backup) encode(body *wire.Body) error {
	if body.Raw != nil {
		return nil
	}
	b.encodeMu.Lock()
	defer b.encodeMu.Unlock()
	raw, err := wire.EncodeBody(nil, body.Header(), body.Updates, b.encoder)
	if err != nil {
		return err
	}
	body.Raw = raw
	return nil
}

// stopped reports whether an error only says that this component is being closed.
func (b *Backup) stopped(err error) bool {
	return b.ctx.Err() != nil && errors.Is(err, context.Canceled)
}
