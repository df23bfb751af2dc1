package backup

import (
	"errors"
	"fmt"
	"path"

	"flotilla/agent/core"
	"flotilla/agent/journal"
	"flotilla/wire"
)

// heldJournal is an open journal and its place in the row of journals of this run.
type heldJournal struct {
	*journal.Journal
	epoch uint64
}

// ref is where a frame is stored. The epoch keeps a ref from being looked up in a later journal.
type ref struct {
	epoch uint64
	journal.Ref
}

// errOtherJournal says that a ref is of a journal that was emptied since.
var errOtherJournal = errors.New("the frame was in a journal that was emptied since")

// Open opens the journal, or begins one, and enters what it holds into the node, which knows the replicated state already
// and which nobody else uses yet. It ends with node.Restored. A journal that is not whole makes the component lost, see
// the package comment, and is no error; an error wants a person.
func (b *Backup) Open(n *core.Node) error {
	b.self, b.cluster = n.ID(), n.State().Cluster
	if b.opt.Cluster != "" {
		b.cluster = b.opt.Cluster
	}
	if err := b.opt.FS.MkdirAll(b.opt.Dir); err != nil {
		return fmt.Errorf("open the backup journal: %w", err)
	}
	life := n.Life()
	id, err := readIdentity(b.opt.FS, b.opt.Dir)
	switch {
	case err != nil && !errors.Is(err, errNoIdentity):
		return err
	case err == nil && (id.Agent != b.self || id.Cluster != b.cluster):
		return fmt.Errorf("open the backup journal %s: it belongs to agent %d of cluster %s, and this is agent %d of cluster %s: use another state directory",
			b.opt.Dir, id.Agent, id.Cluster, b.self, b.cluster)
	case err != nil && life != 0:
		err = b.openLost(n, life, err)
	case err == nil && id.Lost && id.Life == life:
		err = b.openLost(n, life, fmt.Errorf("%w: so it was found at an earlier start", journal.ErrLost))
	case err != nil || id.Life != life || id.Lost:
		err = b.replace(life)
	default:
		b.keeper.id = id
		err = b.replay(n)
		if errors.Is(err, journal.ErrRot) || errors.Is(err, journal.ErrLost) {
			err = b.openLost(n, life, err)
		}
	}
	if err != nil {
		return err
	}
	n.Restored()
	return nil
}

// openLost starts without a journal, in a life that is to end.
func (b *Backup) openLost(n *core.Node, life uint64, cause error) error {
	b.opt.Logger.Error("the journal is not whole: this component declares itself lost", "dir", b.opt.Dir, "error", cause)
	b.keeper.id = identity{Cluster: b.cluster, Agent: b.self, Life: life, Lost: true}
	// Durable before anything else, so that a crash from here on does not let an emptied journal pass for a whole one.
	if err := writeIdentity(b.opt.FS, b.opt.Dir, b.keeper.id); err != nil {
		return err
	}
	b.event(0, "journal.lost", "dir", b.opt.Dir, "error", cause.Error())
	b.failedJournal(JournalLost, cause)
	n.SetJournalLost(true)
	return nil
}

// replay opens the journal of this life. The node sees nothing of a journal that proves not to be whole.
func (b *Backup) replay(n *core.Node) error {
	type stored struct {
		ref  journal.Ref
		body *wire.Body
	}
	var frames []stored
	j, err := journal.Open(b.opt.FS, b.opt.Journal, func(r journal.Record) error {
		body, err := b.parse(r.Payload)
		if errors.Is(err, wire.ErrCorrupt) {
			return fmt.Errorf("%w: %w", journal.ErrRot, err)
		}
		if err != nil {
			return err
		}
		// Not body itself: it would keep the record's bytes.
		frames = append(frames, stored{r.Ref, &wire.Body{
			Group: body.Group, Primary: body.Primary, Incarnation: body.Incarnation, Set: body.Set, Updates: body.Updates,
		}})
		return nil
	})
	if err != nil {
		return err
	}
	if err := b.hold(j); err != nil {
		return err
	}
	epoch := b.held.Load().epoch
	for i, f := range frames {
		n.Restore(ref{epoch, f.ref}, f.body)
		if n.State().Groups[f.body.Group] == nil {
			// The group was deleted while this agent was away; the node does not know that it was ever here.
			j.Free(f.body.Group, ^wire.Set(0))
		}
		frames[i].body = nil
	}
	return nil
}

// hold makes an open journal the one in use.
func (b *Backup) hold(j *journal.Journal) error {
	if j.MaxRecord() < b.opt.MaxBody {
		return errors.Join(fmt.Errorf("open the backup journal: its segments take records of up to %d bytes, and frames may have %d: make the segments larger",
			j.MaxRecord(), b.opt.MaxBody), j.Close())
	}
	b.keeper.epoch++
	b.held.Store(&heldJournal{j, b.keeper.epoch})
	return nil
}

// replace removes what the segments hold and begins a journal for the given life, 0 if there is none yet.
func (b *Backup) replace(life uint64) error {
	if h := b.held.Swap(nil); h != nil {
		// What made it unusable does not matter any more.
		_ = h.Close()
	}
	fsys := b.opt.FS
	if err := fsys.MkdirAll(b.segments); err != nil {
		return fmt.Errorf("empty the journal: %w", err)
	}
	names, err := fsys.List(b.segments)
	if err != nil {
		return fmt.Errorf("empty the journal: %w", err)
	}
	for _, name := range names {
		if err := fsys.Remove(path.Join(b.segments, name)); err != nil {
			return fmt.Errorf("empty the journal: %w", err)
		}
	}
	if err := fsys.SyncDir(b.segments); err != nil {
		return fmt.Errorf("empty the journal: %w", err)
	}
	// The life is named only now: a crash before leaves the name of an ended one, and the emptying begins again.
	id := identity{Cluster: b.cluster, Agent: b.self, Life: life}
	if err := writeIdentity(fsys, b.opt.Dir, id); err != nil {
		return err
	}
	j, err := journal.Open(fsys, b.opt.Journal, func(journal.Record) error { return nil })
	if err != nil {
		return err
	}
	if err := b.hold(j); err != nil {
		return err
	}
	b.keeper.id = id
	return nil
}

// read returns a stored frame's raw body, in dst if that is large enough. What cannot be read back as it was written
// makes this component lost.
func (b *Backup) read(r any, dst []byte) ([]byte, error) {
	at, ok := r.(ref)
	if !ok {
		return nil, fmt.Errorf("read a frame: it is not stored")
	}
	h := b.held.Load()
	if h == nil || h.epoch != at.epoch {
		return nil, errOtherJournal
	}
	raw, err := h.Read(at.Ref, dst)
	if err != nil {
		b.suspect(at.epoch, err)
		return nil, err
	}
	return raw, nil
}

// suspect looks at an error of a journal, and declares the component lost if it says so.
func (b *Backup) suspect(epoch uint64, err error) {
	if errors.Is(err, journal.ErrRot) || errors.Is(err, journal.ErrLost) {
		b.keeper.put(job{kind: jobLost, epoch: epoch, err: err})
	}
}
