package sim

import (
	"errors"
	"slices"
	"time"

	"flotilla/agent/core"
	"flotilla/wire"
)

// perform does what the shells do.
func (h *host) perform(e core.Effects) {
	w := h.w
	for _, ev := range e.Events {
		w.trace("host %d: %s %v", h.id, ev.Name, ev.Attrs)
		w.oracle.event(ev)
		if w.watch != nil {
			w.saw(h, ev)
		}
	}
	h.handles -= len(e.Release)
	if e.Wipe {
		w.trace("host %d wipes its journal", h.id)
		lost := h.journal.lost
		h.journal.wipe(h.node.Life())
		w.unreadable()
		if lost {
			h.node.SetJournalLost(false)
		}
	}
	for _, s := range e.Store {
		h.store(s)
	}
	for _, fr := range e.Frames {
		body := fr.Body
		if w.watch != nil {
			w.saw(h, sentFrame{to: fr.To, no: fr.Route.No, body: body})
		}
		w.deliver(h.id, fr.To, "mirror frame", func(o *host) { o.receiveFrame(h.id, fr.Route, body) })
	}
	for _, r := range e.Remirror {
		rec := h.read(r.Ref.(uint64), "mirror")
		if rec == nil {
			continue
		}
		b := *rec.body
		b.Updates = nil
		for _, i := range r.Index {
			b.Updates = append(b.Updates, rec.body.Updates[i])
		}
		if w.watch != nil {
			w.saw(h, sentFrame{to: r.To, no: r.Route.No, body: &b})
		}
		w.deliver(h.id, r.To, "remirror", func(o *host) { o.receiveFrame(h.id, r.Route, &b) })
	}
	for _, f := range e.Free {
		h.journal.free(f.Group, f.UpTo)
	}
	for _, a := range e.Apply {
		h.apply(a)
	}
	for _, env := range e.Send {
		msg := env.Msg
		if ack, ok := msg.(*core.FrameAck); ok {
			for _, no := range ack.Nos {
				w.oracle.ackedFrame(h, no)
			}
		}
		if w.opt.Messages {
			w.trace("%d -> %d: %T %+v", h.id, env.To, msg, msg)
		}
		if w.watch != nil {
			w.saw(h, sentMessage{env.To, msg})
		}
		if h.w.opt.Seed%8 == 0 { // some runs send every message through its encoding
			m, err := core.DecodeMessage(core.EncodeMessage(msg))
			if err != nil {
				w.fail("message does not survive its encoding: %v", err)
				return
			}
			msg = m
		}
		w.deliver(h.id, env.To, "message", func(o *host) {
			o.do(func(n *core.Node) { n.Receive(o.time(), h.id, msg) })
		})
	}
}

func (h *host) receiveFrame(from wire.AgentID, r wire.Route, b *wire.Body) {
	if h.w.opt.Messages {
		var seqs []wire.Seq
		for i := range b.Updates {
			seqs = append(seqs, b.Updates[i].Seq)
		}
		h.w.trace("%d <- %d: frame %d of view %d, incarnation %d set %d seqs %v", h.id, from, r.No, r.View, b.Incarnation, b.Set, seqs)
	}
	h.do(func(n *core.Node) { n.ReceiveFrame(h.time(), from, r, b) })
}

// store appends to the journal, which flushes in groups.
func (h *host) store(s core.Store) {
	j := &h.journal
	rec := &record{id: j.nextRef + 1, set: s.Body.Set, body: s.Body, size: sizeOf(s.Body)}
	if h.w.now < h.fullUntil && !s.Urgent || !h.hasRoom(rec, s.Urgent) {
		alive := h.alive()
		h.w.after(h.w.between(0, time.Millisecond), "journal full", func() {
			if alive() {
				h.do(func(n *core.Node) { n.Stored(h.time(), s.ID, nil, errFull) })
			}
		})
		return
	}
	if j.lost {
		alive := h.alive()
		h.w.after(0, "journal lost", func() {
			if alive() {
				h.do(func(n *core.Node) { n.Stored(h.time(), s.ID, nil, errJournal) })
			}
		})
		return
	}
	j.append(rec)
	ref := rec.id
	alive := h.alive()
	life := j.life
	h.w.after(h.journalDisk(100*time.Microsecond, 8*time.Millisecond), "stored", func() {
		if !alive() || h.journal.life != life {
			return
		}
		if h.journal.failing {
			h.loseJournal("a flush failed")
		}
		if h.journal.lost {
			if alive() {
				h.do(func(n *core.Node) { n.Stored(h.time(), s.ID, nil, errJournal) })
			}
			return
		}
		// The flush takes everything before it along.
		h.journal.flushed(ref)
		if h.w.watch != nil {
			h.w.saw(h, durable{s.Body})
		}
		h.do(func(n *core.Node) { n.Stored(h.time(), s.ID, ref, nil) })
	})
}

var errApply = errors.New("a write to a target was not answered")

// chunk is what goes to a target at a time.
type chunk struct {
	secondary wire.AgentID
	volume    wire.VolumeID
	pieces    []core.Piece
}

// apply writes an owner's share to the targets, a few pieces at a time, and flushes.
func (h *host) apply(a core.Apply) {
	w := h.w
	st := h.node.State()
	var chunks []*chunk
	for _, p := range core.Fold(a.Parts) {
		v := st.Groups[a.Group].Volumes[p.Volume]
		if v == nil {
			continue
		}
		last := len(chunks) - 1
		if last < 0 || chunks[last].volume != p.Volume || len(chunks[last].pieces) >= 4 {
			chunks = append(chunks, &chunk{secondary: v.Secondary, volume: p.Volume})
			last++
		}
		chunks[last].pieces = append(chunks[last].pieces, p)
	}
	w.stallApply(h)
	alive := h.alive()
	left := len(chunks)
	done := false
	finish := func(err error) {
		if alive() && !done {
			done = true
			h.do(func(n *core.Node) { n.ApplyDone(h.time(), a.Token, err) })
		}
	}
	nothing := func() { w.after(0, "nothing to apply", func() { finish(nil) }) }
	if left == 0 {
		if !h.askChecks(a, nothing) {
			nothing()
		}
		return
	}
	w.after(2*time.Second, "apply time-out", func() { finish(errApply) })
	send := func() { h.sendApply(a, chunks, &left, finish) }
	if !h.askChecks(a, func() {
		if slices.ContainsFunc(a.Parts, func(p core.Part) bool { return h.journal.find(p.Ref.(uint64)) == nil }) {
			finish(errApply) // it was given up, or forgotten, meanwhile
			return
		}
		send()
	}) {
		send()
	}
}

// sendApply has the secondaries write an owner's share.
func (h *host) sendApply(a core.Apply, chunks []*chunk, left *int, finish func(error)) {
	w, alive := h.w, h.alive()
	for i, c := range chunks {
		values := make([][]uint64, len(c.pieces))
		for k, p := range c.pieces {
			part := a.Parts[p.Part]
			rec := h.read(part.Ref.(uint64), "apply")
			if rec == nil {
				w.after(0, "unreadable", func() { finish(errJournal) })
				return
			}
			u := &rec.body.Updates[part.Index]
			for b := range p.Length / blockSize {
				values[k] = append(values[k], decodeBlock(u, p.From/blockSize+b))
			}
		}
		answered := false
		w.after(w.between(0, time.Duration(i+1)*200*time.Microsecond+1), "apply", func() {
			if !alive() {
				return
			}
			hop := h.node.ApplyHop(c.secondary)
			w.deliverOver(h.id, hop, c.secondary, "apply", func(o *host) {
				o.takeApply(h.id, a, c.volume, c.pieces, values, func(err error) {
					w.deliverOver(o.id, hop, h.id, "apply answer", func(*host) {
						if err != nil {
							finish(err)
							return
						}
						if answered {
							return
						}
						answered = true
						if *left--; *left == 0 {
							finish(nil)
						}
					})
				})
			})
		})
	}
}

// takeApply is the secondary's side: asks the node, writes, flushes, answers.
func (h *host) takeApply(from wire.AgentID, a core.Apply, vol wire.VolumeID, pieces []core.Piece, values [][]uint64, answer func(error)) {
	w := h.w
	err := h.node.BeginApply(from, a.Group, a.View, a.Set)
	alive := h.alive()
	if errors.Is(err, core.ErrTargetBusy) {
		w.after(2*time.Millisecond, "apply again", func() {
			if alive() {
				h.takeApply(from, a, vol, pieces, values, answer)
			}
		})
		return
	}
	if err != nil {
		w.trace("host %d refuses: %v", h.id, err)
		if w.watch != nil {
			w.saw(h, refusal{from, err})
		}
		answer(err)
		return
	}
	dev, opening := h.targets[vol], h.openings[vol]
	fail := func(flush bool) {
		h.failTarget(vol, flush)
		h.do(func(n *core.Node) { n.EndApply(a.Group) })
		answer(errDevice)
	}
	w.after(h.disk(50*time.Microsecond, 4*time.Millisecond), "target write", func() {
		if !alive() {
			return
		}
		bad := h.broken()
		if bad {
			pieces, values = pieces[:len(pieces)/2], values[:len(pieces)/2]
		}
		h.announce(a, vol, pieces)
		for k, p := range pieces {
			for b, v := range values[k] {
				dev.write(int(p.Offset/blockSize)+b, v)
			}
		}
		w.oracle.targetWritten(h, a)
		if w.watch != nil {
			w.saw(h, targetWrite{from: from, set: a.Set, values: values})
		}
		if bad {
			fail(false)
			return
		}
		w.after(h.disk(50*time.Microsecond, 2*time.Millisecond), "target flush", func() {
			if !alive() {
				return
			}
			switch {
			case h.broken():
				fail(true)
				return
			case h.openings[vol] != opening:
				fail(false) // the pages of this request went with another's flush
				return
			}
			if !w.opt.Mutants["target-not-flushed"] {
				dev.flush()
			}
			h.do(func(n *core.Node) { n.EndApply(a.Group) })
			answer(nil)
		})
	})
}
