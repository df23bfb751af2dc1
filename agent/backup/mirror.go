package backup

import (
	"errors"
	"fmt"
	"sync"

	"flotilla/agent/core"
	"flotilla/agent/journal"
	"flotilla/wire"
)

// Frames is a sink of the loop: frames go to their mirrors as they came.
func (b *Backup) Frames(frames []core.FrameOut) {
	for _, f := range frames {
		if err := b.encode(f.Body); err != nil {
			b.opt.Logger.Error("cannot encode a mark for its mirror", "group", f.Body.Group, "set", f.Body.Set, "error", err)
			continue
		}
		pl, ok := b.payloads.forMirror(f.Body)
		if !ok {
			b.stats.mirrorsDropped.Add(1)
			b.notes.unsent(f.To, f.Route.No)
			continue
		}
		b.send(f.To, f.Route, f.Body.Raw, pl)
	}
}

// send sends a frame to a mirror. The node hears at once of one that cannot leave, as while a peer that came back is not yet
// connected: held up to stands still for as long as a mirror lacks one of its updates.
func (b *Backup) send(to wire.AgentID, r wire.Route, body []byte, pl *payload) {
	if err := b.opt.Net.SendFrame(to, r, body, func() { b.payloads.sent(pl) }); err != nil {
		b.notes.unsent(to, r.No) // counted by the transport
	}
}

// remirrors is what is to be sent again out of the journal. The node has no more under way than Config.MirrorWindow for
// each mirror, which bounds the queue; those of an older view are dropped unread.
type remirrors struct {
	mu    sync.Mutex
	queue []core.Remirror // guarded by mu
	more  chan struct{}   // capacity 1: the queue is not empty
}

func (r *remirrors) init() { r.more = make(chan struct{}, 1) }

// next returns the oldest, and passes the signal on if there are more.
func (r *remirrors) next() (core.Remirror, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		return core.Remirror{}, false
	}
	m := r.queue[0]
	r.queue[0] = core.Remirror{}
	if r.queue = r.queue[1:]; len(r.queue) > 0 {
		r.signal()
	}
	return m, true
}

func (r *remirrors) signal() {
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// Remirror is a sink of the loop.
func (b *Backup) Remirror(parts []core.Remirror) {
	b.copies.mu.Lock()
	defer b.copies.mu.Unlock()
	b.copies.queue = append(b.copies.queue, parts...)
	b.copies.signal()
}

// remirrorWorker prepares and sends frames. It holds one frame packed and one unpacked; what it made of it counts as any
// frame that waits for its mirror.
func (b *Backup) remirrorWorker() {
	enc, err := wire.NewEncoder(wire.CodecAuto)
	if err != nil {
		b.opt.Logger.Error("cannot mirror anew", "error", err)
		return
	}
	var buf []byte
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-b.copies.more:
		}
		for b.ctx.Err() == nil {
			m, ok := b.copies.next()
			if !ok {
				break
			}
			if m.Route.View != b.view() {
				continue // the node has forgotten it
			}
			if buf, err = b.remirror(m, buf, enc); err != nil {
				b.opt.Logger.Warn("a frame is not mirrored anew", "to", m.To, "error", err)
				b.notes.unsent(m.To, m.Route.No)
			}
		}
	}
}

func (b *Backup) view() (v wire.View) {
	b.loop.View(func(n *core.Node) { v = n.State().View })
	return v
}

// remirror sends the chosen updates of a stored frame. It returns buf, grown.
func (b *Backup) remirror(m core.Remirror, buf []byte, enc *wire.Encoder) ([]byte, error) {
	body, raw, err := b.load(m.Ref, buf)
	if err != nil {
		return buf, err
	}
	selected, err := body.Select(m.Index, enc)
	if err != nil {
		return raw, fmt.Errorf("choose %d updates of a stored frame: %w", len(m.Index), err)
	}
	if pl := b.payloads.forRemirror(int64(len(selected))); pl != nil {
		b.send(m.To, m.Route, selected, pl)
	}
	return raw, nil
}

// load reads and parses a stored frame into buf, which is grown and returned. A body that does not parse was damaged
// between the check at its receipt and the journal's own checksum: what this component holds is not what it has said.
func (b *Backup) load(r any, buf []byte) (*wire.Body, []byte, error) {
	raw, err := b.read(r, buf)
	if err != nil {
		return nil, buf, err
	}
	body, err := wire.ParseBody(raw)
	if err != nil {
		if at := r.(ref); errors.Is(err, wire.ErrCorrupt) {
			b.suspect(at.epoch, fmt.Errorf("%w: %w", journal.ErrRot, err))
		}
		return nil, raw, err
	}
	return body, raw, nil
}
