package sim

import (
	"errors"
	"runtime/debug"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"

	"go.etcd.io/raft/v3/raftpb"
)

func stack() string { return string(debug.Stack()) }

// host is one agent: disks that survive, and a node while its process lives.
type host struct {
	w         *World
	id        wire.AgentID
	backup    bool
	run       int // counts processes
	slowUntil time.Duration
	fullUntil time.Duration // the journal refuses until then
	awayUntil time.Duration // nobody reaches the host until then

	// Disks.
	log     controlLog
	journal journal
	sources map[wire.VolumeID]*device
	bits    map[wire.VolumeID]*bitsFile
	targets map[wire.VolumeID]*device

	// The process; zero while it is dead.
	node      *core.Node
	saving    bool // a Raft Ready is on its way to the disk
	sending   bool
	primary   map[wire.VolumeID]*volume
	inc       wire.Incarnation // of the primary role, as last seen
	openSeen  wire.Set
	cleaning  bool
	copying   bool
	handles   int // payload handles given and not released
	appliedAt wire.Set
}

// volume is a source volume of a living primary.
type volume struct {
	id     wire.VolumeID
	dev    *device
	ext    *core.Extents
	locked map[int]bool // blocks of writes under way
	copied bool         // the first copy was finished in this incarnation
}

func newHost(w *World, id wire.AgentID, st *cluster.State, boot core.Boot) *host {
	h := &host{
		w: w, id: id, backup: st.Agents[id].Backup,
		sources: map[wire.VolumeID]*device{}, bits: map[wire.VolumeID]*bitsFile{}, targets: map[wire.VolumeID]*device{},
	}
	h.log.boot = boot
	for _, vid := range cluster.SortedKeys(st.Groups[w.group].Volumes) {
		v := st.Groups[w.group].Volumes[vid]
		blocks := int(v.Size / blockSize)
		if v.Primary == id {
			h.sources[vid] = newDevice(blocks)
			n := int((v.Size + extentSize - 1) / extentSize)
			b := &bitsFile{durable: make([]bool, n)}
			for i := range b.durable {
				b.durable[i] = true // never copied
			}
			h.bits[vid] = b
			// What the application had written before there was any replication.
			for i := range blocks {
				if w.chance(0.5) {
					h.sources[vid].write(i, w.oracle.value())
				}
			}
			h.sources[vid].flush()
		}
		if v.Secondary == id {
			h.targets[vid] = newDevice(blocks)
		}
	}
	return h
}

// start starts the agent's process from its disks.
func (h *host) start() {
	w := h.w
	h.run++
	w.trace("host %d starts (run %d)", h.id, h.run)
	n, err := core.New(nodeConfig(h.id, w.rng.Uint64(), w.opt.Mutants), h.log.boot, w.now)
	if err != nil {
		w.fail("host %d does not start: %v", h.id, err)
		return
	}
	h.node = n
	h.saving, h.sending, h.cleaning, h.copying = false, false, false, false
	h.inc, h.openSeen, h.handles = 0, 0, 0
	if h.backup {
		if h.journal.life != n.Life() {
			h.journal.keep(func(*record) bool { return false })
			h.journal.life = n.Life()
		}
		for _, r := range h.journal.records {
			n.Restore(r.id, r.body)
		}
		n.Restored()
	}
	h.primary = map[wire.VolumeID]*volume{}
	for _, vid := range cluster.SortedKeys(h.sources) {
		bits := h.bits[vid].durable
		v := &volume{id: vid, dev: h.sources[vid], locked: map[int]bool{}}
		v.ext = core.NewExtents(int64(len(v.dev.now))*blockSize, extentSize, func(i int) bool { return bits[i] })
		h.primary[vid] = v
	}
	if len(h.primary) > 0 {
		w.oracle.restarted(h)
		n.AddSource(w.now, w.group)
	}
	h.do(func(*core.Node) {})
	run := h.run
	var tick func()
	tick = func() {
		if h.node != nil && h.run == run {
			h.do(func(n *core.Node) { n.Tick(w.now) })
			d := tickEvery
			if w.now < h.slowUntil {
				d = h.slowUntil - w.now
			}
			w.after(d+w.between(0, time.Millisecond), "tick", tick)
		}
	}
	w.after(w.between(0, tickEvery), "tick", tick)
}

// kill ends the process; power says that unflushed writes go with it.
func (h *host) kill(power bool) {
	w := h.w
	w.trace("host %d is killed (power cut: %v)", h.id, power)
	h.node = nil
	h.journal.crash(w.rng, power)
	if power {
		for _, vid := range cluster.SortedKeys(h.sources) {
			h.sources[vid].powerCut(w.rng)
		}
		for _, vid := range cluster.SortedKeys(h.targets) {
			h.targets[vid].powerCut(w.rng)
		}
	}
	for _, o := range w.hosts {
		if o.node != nil {
			w.after(w.between(0, 20*time.Millisecond), "disconnected", func() {
				if o.node != nil {
					o.do(func(n *core.Node) { n.Disconnected(w.now, h.id) })
				}
			})
		}
	}
}

// alive returns a guard for events of this process.
func (h *host) alive() func() bool {
	run := h.run
	return func() bool { return h.node != nil && h.run == run }
}

// do calls the node and performs what it wants done.
func (h *host) do(f func(n *core.Node)) {
	f(h.node)
	h.perform(h.node.Take())
	h.raft()
	h.follow()
}

// raft saves and then acts, in that order, with time in between.
func (h *host) raft() {
	if h.saving {
		return
	}
	rd, ok := h.node.RaftReady()
	if !ok {
		return
	}
	h.saving = true
	alive := h.alive()
	h.w.after(h.w.between(0, 3*time.Millisecond), "raft saved", func() {
		if !alive() {
			return // the write was cut off: nothing of it was sent
		}
		h.log.save(rd)
		for _, m := range rd.Messages {
			h.sendRaft(m)
		}
		h.saving = false
		h.do(func(n *core.Node) {
			if err := n.RaftAdvance(h.w.now); err != nil {
				h.w.fail("host %d: %v", h.id, err)
			}
		})
	})
}

func (h *host) sendRaft(m *raftpb.Message) {
	to := wire.AgentID(m.GetTo())
	if h.w.host(to) == nil {
		return
	}
	h.w.deliver(h.id, to, "raft", func(o *host) {
		o.do(func(n *core.Node) { n.RaftStep(h.w.now, m) })
	})
	if m.GetSnapshot().GetMetadata().GetIndex() > 0 {
		alive := h.alive()
		h.w.after(30*time.Millisecond, "snapshot sent", func() {
			if alive() {
				h.do(func(n *core.Node) { n.RaftSnapshotSent(to, true) })
			}
		})
	}
}

// perform does what the shells do.
func (h *host) perform(e core.Effects) {
	w := h.w
	for _, ev := range e.Events {
		w.trace("host %d: %s %v", h.id, ev.Name, ev.Attrs)
		w.oracle.event(ev)
	}
	h.handles -= len(e.Release)
	if e.Wipe {
		h.journal.keep(func(*record) bool { return false })
		h.journal.life = h.node.Life()
		w.trace("host %d wipes its journal", h.id)
	}
	for _, s := range e.Store {
		h.store(s)
	}
	for _, fr := range e.Frames {
		body := fr.Body
		w.deliver(h.id, fr.To, "mirror frame", func(o *host) { o.receiveFrame(h.id, fr.Route, body) })
	}
	for _, r := range e.Remirror {
		rec := h.journal.find(r.Ref.(uint64))
		if rec == nil {
			w.fail("host %d is to mirror record %d, which its journal does not hold", h.id, r.Ref)
			continue
		}
		b := *rec.body
		b.Updates = nil
		for _, i := range r.Index {
			b.Updates = append(b.Updates, rec.body.Updates[i])
		}
		w.deliver(h.id, r.To, "remirror", func(o *host) { o.receiveFrame(h.id, r.Route, &b) })
	}
	for _, f := range e.Free {
		h.journal.keep(func(r *record) bool {
			return !r.durable || r.body.Group != f.Group || r.body.Set > f.UpTo
		})
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
		if h.w.opt.Seed%8 == 0 { // some runs send every message through its encoding
			m, err := core.DecodeMessage(core.EncodeMessage(msg))
			if err != nil {
				w.fail("message does not survive its encoding: %v", err)
				return
			}
			msg = m
		}
		w.deliver(h.id, env.To, "message", func(o *host) {
			o.do(func(n *core.Node) { n.Receive(w.now, h.id, msg) })
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
	h.do(func(n *core.Node) { n.ReceiveFrame(h.w.now, from, r, b) })
}

// store appends to the journal, which flushes in groups.
func (h *host) store(s core.Store) {
	j := &h.journal
	if h.w.now < h.fullUntil && !s.Urgent {
		alive := h.alive()
		h.w.after(h.w.between(0, time.Millisecond), "journal full", func() {
			if alive() {
				h.do(func(n *core.Node) { n.Stored(h.w.now, s.ID, nil, errFull) })
			}
		})
		return
	}
	j.nextRef++
	j.records = append(j.records, &record{id: j.nextRef, body: s.Body})
	ref := j.nextRef
	alive := h.alive()
	life := j.life
	h.w.after(h.w.between(100*time.Microsecond, 8*time.Millisecond), "stored", func() {
		if !alive() || h.journal.life != life {
			return
		}
		// The flush takes everything before it along.
		h.journal.flushed(ref)
		h.do(func(n *core.Node) { n.Stored(h.w.now, s.ID, ref, nil) })
	})
}

var errFull = errors.New("the journal is full")

var errApply = errors.New("a write to a target was not answered")

// apply writes an owner's share to the targets, a few pieces at a time, and flushes.
func (h *host) apply(a core.Apply) {
	w := h.w
	type chunk struct {
		secondary wire.AgentID
		volume    wire.VolumeID
		pieces    []core.Piece
	}
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
	alive := h.alive()
	left := len(chunks)
	done := false
	finish := func(err error) {
		if alive() && !done {
			done = true
			h.do(func(n *core.Node) { n.ApplyDone(w.now, a.Token, err) })
		}
	}
	if left == 0 {
		w.after(0, "nothing to apply", func() { finish(nil) })
		return
	}
	w.after(2*time.Second, "apply time-out", func() { finish(errApply) })
	for i, c := range chunks {
		values := make([][]uint64, len(c.pieces))
		for k, p := range c.pieces {
			part := a.Parts[p.Part]
			rec := h.journal.find(part.Ref.(uint64))
			if rec == nil {
				w.fail("host %d is to apply record %d, which its journal does not hold", h.id, part.Ref)
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
			w.deliver(h.id, c.secondary, "apply", func(o *host) {
				o.takeApply(h.id, a, c.volume, c.pieces, values, func(err error) {
					w.deliver(o.id, h.id, "apply answer", func(*host) {
						if err != nil {
							finish(err)
							return
						}
						if answered {
							return
						}
						answered = true
						if left--; left == 0 {
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
		answer(err)
		return
	}
	w.after(w.between(50*time.Microsecond, 4*time.Millisecond), "target write", func() {
		if !alive() {
			return
		}
		dev := h.targets[vol]
		for k, p := range pieces {
			for b, v := range values[k] {
				dev.write(int(p.Offset/blockSize)+b, v)
			}
		}
		w.oracle.targetWritten(h, a)
		w.after(w.between(50*time.Microsecond, 2*time.Millisecond), "target flush", func() {
			if !alive() {
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

// follow does what the primary's shell does when it is woken.
func (h *host) follow() {
	if h.node == nil || len(h.primary) == 0 {
		h.w.oracle.follow(h)
		return
	}
	w := h.w
	v, ok := h.node.View(w.group)
	if !ok {
		return
	}
	if v.Inc != h.inc || (v.Open != 0) != (h.openSeen != 0) {
		if h.inc != 0 && h.openSeen != 0 {
			for _, id := range cluster.SortedKeys(h.primary) {
				h.primary[id].ext.Detach()
			}
		}
		h.inc, h.openSeen = v.Inc, 0
		if v.Inc != 0 && v.Open != 0 {
			w.oracle.opened(h, v.Inc)
			w.stats.Resyncs++
			for _, id := range cluster.SortedKeys(h.primary) {
				h.primary[id].copied = false
				if h.primary[id].ext.Resync() > 0 {
					w.stats.Copies++
				}
			}
			h.resynced()
		}
	}
	if v.Open != h.openSeen {
		h.openSeen = v.Open
	}
	w.oracle.follow(h)
	h.scheduleSend()
	h.scheduleCopy()
	h.scheduleClean()
}

// resynced tells the node how its copies stand.
func (h *host) resynced() {
	st := h.node.State()
	broken := false
	left := int64(0)
	var copied []wire.VolumeID
	for _, id := range cluster.SortedKeys(h.primary) {
		v := h.primary[id]
		vol := st.Groups[h.w.group].Volumes[id]
		left += int64(v.ext.ToCopy())
		switch {
		case vol == nil:
		case vol.CopiedAt != 0 || v.copied:
			broken = broken || v.ext.ToCopy() > 0
		case v.ext.ToCopy() == 0:
			v.copied = true
		}
		if v.copied {
			copied = append(copied, id)
		}
	}
	if h.w.opt.Mutants["broken-not-said"] {
		broken = false
	}
	h.node.SetResync(h.w.group, broken, copied, left, left)
}

// scheduleSend lets the senders take frames.
func (h *host) scheduleSend() {
	if h.sending || len(h.node.Owners()) == 0 {
		return
	}
	h.sending = true
	alive := h.alive()
	h.w.after(h.w.between(0, 2*time.Millisecond), "send", func() {
		if !alive() {
			return
		}
		h.sending = false
		w := h.w
		for _, to := range h.node.Owners() {
			out := h.node.NextFrame(w.now, to, int64(1+w.rng.IntN(20))*100)
			if out == nil {
				continue
			}
			for i := range out.Updates {
				out.Updates[i].Seal(out.Header.Group, out.Header.Incarnation)
			}
			w.oracle.frames[out.Route.No] = out
			b := &wire.Body{
				Group: out.Header.Group, Primary: out.Header.Primary, Incarnation: out.Header.Incarnation,
				Set: out.Header.Set, Updates: out.Updates,
			}
			w.deliver(h.id, to, "frame", func(o *host) { o.receiveFrame(h.id, out.Route, b) })
		}
		h.do(func(*core.Node) {})
	})
}

// scheduleCopy copies an extent at a time.
func (h *host) scheduleCopy() {
	if h.copying || h.openSeen == 0 {
		return
	}
	more := false
	for _, v := range h.primary {
		more = more || v.ext.ToCopy() > 0
	}
	if !more {
		return
	}
	h.copying = true
	alive := h.alive()
	h.w.after(h.w.between(0, 6*time.Millisecond), "copy", func() {
		if !alive() {
			return
		}
		h.copying = false
		h.copyOne()
		h.do(func(*core.Node) {})
	})
}

func (h *host) copyOne() {
	for _, id := range cluster.SortedKeys(h.primary) {
		v := h.primary[id]
		i, ok := v.ext.Next()
		if !ok {
			continue
		}
		off, length := v.ext.Span(i)
		first, count := int(off/blockSize), int(length/blockSize)
		for b := first; b < first+count; b++ {
			if v.locked[b] {
				return // a write is under way: the range lock makes the copy wait
			}
		}
		ups := h.updates(v.id, first, v.dev.now[first:first+count], wire.KindWrite)
		_, seq, err := h.submit(ups)
		if err != nil {
			return
		}
		view, _ := h.node.View(h.w.group)
		h.w.oracle.numbered(h, view.Inc, view.Open, seq, ups)
		v.ext.Copied(i, view.Open)
		h.resynced()
		return
	}
}

func (h *host) submit(ups []wire.Update) (wire.Incarnation, wire.Seq, error) {
	inc, seq, err := h.node.Submit(h.w.now, h.w.group, ups, h)
	if err == nil {
		h.handles += len(ups)
	}
	return inc, seq, err
}

// updates splits a run of blocks at portion borders.
func (h *host) updates(vol wire.VolumeID, first int, values []uint64, kind wire.Kind) []wire.Update {
	var ups []wire.Update
	const per = portionSize / blockSize
	for i := 0; i < len(values); {
		b := first + i
		n := min(len(values)-i, per-b%per)
		u := wire.Update{
			Volume: vol, Portion: uint32(b / per), Kind: kind, Offset: uint64(b) * blockSize, Length: uint32(n * blockSize),
		}
		if kind == wire.KindWrite {
			u.Data = encodeBlocks(values[i : i+n])
		}
		ups = append(ups, u)
		i += n
	}
	return ups
}

// scheduleClean clears bits of applied extents, after a flush of the source.
func (h *host) scheduleClean() {
	applied := h.node.State().Groups[h.w.group].Applied
	if h.cleaning || applied <= h.appliedAt || h.openSeen == 0 {
		return
	}
	h.appliedAt = applied
	h.cleaning = true
	alive := h.alive()
	inc := h.inc
	cand := map[wire.VolumeID][]int{}
	for _, id := range cluster.SortedKeys(h.primary) {
		cand[id] = h.primary[id].ext.Clean(applied, 2, 100)
	}
	h.w.after(h.w.between(0, 5*time.Millisecond), "clean: flush", func() {
		if !alive() || h.inc != inc {
			h.cleaning = false
			return
		}
		for _, id := range cluster.SortedKeys(h.primary) {
			if v := h.primary[id]; len(cand[id]) > 0 {
				if !h.w.opt.Mutants["clean-without-flush"] {
					v.dev.flush()
				}
				v.ext.Cleared(cand[id], applied)
			}
		}
		h.saveBits(func() { h.cleaning = false })
	})
}

// saveBits makes the bits durable as they are when the write ends.
func (h *host) saveBits(then func()) {
	alive := h.alive()
	h.w.after(h.w.between(0, 3*time.Millisecond), "bits", func() {
		if !alive() {
			return
		}
		for _, id := range cluster.SortedKeys(h.primary) {
			v := h.primary[id]
			for i := range h.bits[id].durable {
				h.bits[id].durable[i] = v.ext.Bit(i)
			}
		}
		then()
	})
}
