package backup

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/journal"
)

// jobKind is what a job of the keeper's is about.
type jobKind uint8

const (
	jobStore jobKind = iota
	jobFree
	jobWipe
	jobLost
)

// job is one piece of work for the keeper.
type job struct {
	kind  jobKind
	store core.Store // jobStore
	pl    *payload   // jobStore: the body's bytes, nil if they were made here
	free  core.Free  // jobFree
	epoch uint64     // jobLost: of the journal it speaks of
	err   error      // jobLost; jobStore: the body could not be encoded
}

// keeper is the one who appends to, empties and replaces the journal, in the order in which the node wanted it.
//
// Its queue is bounded by what it holds: a store of a received frame by Options.IntakeBytes; a store of a body made by
// the node is one mark for each sealed incarnation; free, wipe and lost come with changes of the replicated state.
type keeper struct {
	mu    sync.Mutex
	queue []job         // guarded by mu
	wake  chan struct{} // capacity 1: the queue is not empty

	full atomic.Bool // the last word about room was that there is none

	// Owned by Open, and then by the keeper's goroutine.
	id    identity // as on disk
	epoch uint64   // of the newest journal
}

func (k *keeper) init() { k.wake = make(chan struct{}, 1) }

func (k *keeper) put(jobs ...job) {
	k.mu.Lock()
	k.queue = append(k.queue, jobs...)
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *keeper) take() []job {
	k.mu.Lock()
	defer k.mu.Unlock()
	q := k.queue
	k.queue = nil
	return q
}

// drop lets go of what is still queued at the end.
func (k *keeper) drop(p *payloads) {
	for _, j := range k.take() {
		p.stored(j.pl)
	}
}

// Store is a sink of the loop.
func (b *Backup) Store(stores []core.Store) {
	jobs := make([]job, len(stores))
	for i, s := range stores {
		jobs[i] = job{kind: jobStore, store: s, err: b.encode(s.Body), pl: b.payloads.forStore(s.Body)}
	}
	b.keeper.put(jobs...)
}

// Free is a sink of the loop.
func (b *Backup) Free(frees []core.Free) {
	jobs := make([]job, len(frees))
	for i, f := range frees {
		jobs[i] = job{kind: jobFree, free: f}
	}
	b.keeper.put(jobs...)
}

// Wipe is a sink of the loop.
func (b *Backup) Wipe() { b.keeper.put(job{kind: jobWipe}) }

// keep is the keeper's goroutine.
func (b *Backup) keep() {
	k := &b.keeper
	poll := time.NewTicker(b.opt.Poll)
	defer poll.Stop()
	for {
		due := false
		select {
		case <-b.ctx.Done():
			return
		case <-k.wake:
		case <-poll.C:
			due = true
		}
		jobs := k.take()
		// Asked after the jobs were taken, so that it is not older than any of them.
		life := b.life()
		for i := range jobs {
			if b.ctx.Err() != nil {
				k.put(jobs[i:]...)
				return
			}
			b.do(&jobs[i], life)
		}
		if due {
			b.followLife(life)
			b.tellRoom()
		}
	}
}

func (b *Backup) life() (life uint64) {
	b.loop.View(func(n *core.Node) { life = n.Life() })
	return life
}

func (b *Backup) do(j *job, life uint64) {
	switch j.kind {
	case jobStore:
		b.append(j, life)
	case jobFree:
		if h := b.held.Load(); h != nil {
			h.Free(j.free.Group, j.free.UpTo)
		}
	case jobWipe:
		b.reset(life)
	case jobLost:
		b.lose(j.epoch, j.err)
	}
}

// errOtherLife says that a frame is of a life that is over, or of none.
var errOtherLife = errors.New("the journal is not of this life")

// append stores one frame and sees to it that the node is told what came of it.
func (b *Backup) append(j *job, life uint64) {
	defer b.payloads.stored(j.pl)
	id := j.store.ID
	err := j.err
	if err == nil {
		err = b.adopt(life)
	}
	if err != nil {
		b.notes.stored(id, nil, err)
		return
	}
	h := b.held.Load()
	urgent := j.store.Urgent
	_, err = h.Append(journal.Entry{
		Group: j.store.Group, Set: j.store.Set, Parts: [][]byte{j.store.Body.Raw}, Urgent: urgent,
	}, func(at journal.Ref, err error) { b.appended(h.epoch, id, at, urgent, err) })
	if err != nil {
		b.appended(h.epoch, id, journal.Ref{}, urgent, err)
	}
}

// appended takes the journal's answer. It runs on the journal's flusher, or on the keeper.
func (b *Backup) appended(epoch, id uint64, at journal.Ref, urgent bool, err error) {
	if err == nil {
		b.stats.stored.Add(1)
		b.notes.stored(id, ref{epoch, at}, nil)
		if !urgent && b.keeper.full.CompareAndSwap(true, false) {
			b.event(0, "journal.room", "dir", b.opt.Dir)
		}
		return
	}
	b.suspect(epoch, err)
	if errors.Is(err, journal.ErrFull) {
		b.stats.full.Add(1)
		if b.keeper.full.CompareAndSwap(false, true) {
			b.event(0, "journal.full", "dir", b.opt.Dir, "error", err.Error())
		}
	}
	b.notes.stored(id, nil, err)
}

// adopt makes the journal that of the life, or says why it can not be.
func (b *Backup) adopt(life uint64) error {
	k := &b.keeper
	switch {
	case k.id.Lost || b.held.Load() == nil:
		return journal.ErrLost
	case life == 0 || (k.id.Life != life && k.id.Life != 0):
		return errOtherLife // a wipe is on its way
	case k.id.Life == life:
		return nil
	}
	id := k.id
	id.Life = life
	if err := writeIdentity(b.opt.FS, b.opt.Dir, id); err != nil {
		return err
	}
	k.id = id
	return nil
}

// lose declares the component lost: the node stops telling what it holds, and asks for the end of its life.
func (b *Backup) lose(epoch uint64, cause error) {
	k := &b.keeper
	if h := b.held.Load(); k.id.Lost || h == nil || h.epoch != epoch {
		return // known, or of a journal that is gone
	}
	b.opt.Logger.Error("the journal is lost: this component declares itself lost", "dir", b.opt.Dir, "error", cause)
	k.id.Lost = true
	// Best effort: if the disk takes this no more, the journal's own file says the same, and while this process runs it
	// knows by itself.
	if err := writeIdentity(b.opt.FS, b.opt.Dir, k.id); err != nil {
		b.opt.Logger.Error("cannot record that the journal is lost", "dir", b.opt.Dir, "error", err)
	}
	b.event(0, "journal.lost", "dir", b.opt.Dir, "error", cause.Error())
	b.failedJournal(JournalLost, cause)
	b.loop.Do(func(n *core.Node, _ time.Duration) { n.SetJournalLost(true) })
}

// reset empties the journal because the life that it belongs to is over. If that fails the component stays without a
// journal, says so, and tries again.
func (b *Backup) reset(life uint64) {
	k := &b.keeper
	if k.id.Lost && life == k.id.Life {
		return // still to be declared lost
	}
	if err := b.replace(life); err != nil {
		if !k.id.Lost {
			b.opt.Logger.Error("cannot empty the journal", "dir", b.opt.Dir, "error", err)
			b.event(0, "journal.unusable", "dir", b.opt.Dir, "error", err.Error())
		}
		b.failedJournal(JournalUnusable, err)
		k.id.Lost = true
		b.loop.Do(func(n *core.Node, _ time.Duration) { n.SetJournalLost(true) })
		return
	}
	k.full.Store(false)
	b.fault.Store(nil)
	b.opt.Logger.Info("the journal is empty and ready", "dir", b.opt.Dir, "life", life)
	b.loop.Do(func(n *core.Node, _ time.Duration) { n.SetJournalLost(false) })
}

// followLife does by the clock what no job asked for.
func (b *Backup) followLife(life uint64) {
	k := &b.keeper
	switch {
	case k.id.Lost || b.held.Load() == nil:
		b.reset(life)
	case k.id.Life == 0 && life != 0:
		// Named early, so that a crash before the first frame is not taken for the loss of a journal.
		if err := b.adopt(life); err != nil {
			b.opt.Logger.Error("cannot name the journal's life", "error", fmt.Sprint(err))
		}
	}
}

// tellRoom tells the node how full the journal is. There is room again once a quarter of what is not reserved is free,
// or a frame that may not use the reserve was stored.
func (b *Backup) tellRoom() {
	used, limit := b.Usage()
	reserve := int64(0)
	if h := b.held.Load(); h != nil {
		_, _, reserve = h.Usage()
		if used <= (limit-reserve)/4*3 && b.keeper.full.CompareAndSwap(true, false) {
			b.event(0, "journal.room", "dir", b.opt.Dir)
		}
	}
	b.loop.Do(func(n *core.Node, _ time.Duration) { n.SetJournal(used, limit, reserve) })
}
