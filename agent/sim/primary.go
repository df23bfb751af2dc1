package sim

import (
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// volume is a source volume of a living primary.
type volume struct {
	id     wire.VolumeID
	dev    *device
	ext    *core.Extents
	locked map[int]bool // blocks of writes under way
	copied bool         // the first copy was finished in this incarnation
	whole  bool         // nothing was left to copy once in this incarnation: what is copied since is what failed writes left
}

// follow does what the primary's shell does when it is woken.
func (h *host) follow() {
	h.tellJournal()
	if h.node == nil || len(h.primary) == 0 {
		h.w.oracle.follow(h)
		return
	}
	w := h.w
	if w.volumesRemoved(h) {
		// As the shell does: its volumes are closed.
		h.node.RemoveSource(w.now, w.group)
		for _, id := range cluster.SortedKeys(h.primary) {
			h.primary[id].ext.Detach()
		}
		h.inc, h.openSeen, h.primary = 0, 0, nil
		w.oracle.follow(h)
		return
	}
	v, ok := h.node.View(w.group)
	if !ok {
		return
	}
	h.overload(v)
	if v.Inc == 0 {
		h.tellNeed()
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
				h.primary[id].copied, h.primary[id].whole = false, false
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
		v.whole = v.whole || v.ext.ToCopy() == 0
		switch {
		case vol == nil:
		case vol.CopiedAt != 0 || v.copied:
			broken = broken || !v.whole
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
	if h.sending || len(h.node.Hops()) == 0 {
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
		for _, to := range h.node.Hops() {
			most := int64(2000)
			if !w.steady {
				most = int64(1+w.rng.IntN(20)) * 100
			}
			out := h.node.NextFrame(h.time(), to, most)
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
			if w.watch != nil {
				w.saw(h, sentFrame{to: to, no: out.Route.No, body: b})
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
	h.w.after(h.w.between(0, h.w.copyTakes), "copy", func() {
		if !alive() {
			return
		}
		h.copying = false
		h.copyOne()
		h.do(func(*core.Node) {})
	})
}

func (h *host) copyOne() {
	if h.broken() {
		h.copying = true
		alive := h.alive()
		h.w.after(50*time.Millisecond, "copy again", func() {
			if alive() {
				h.copying = false
				h.scheduleCopy()
			}
		})
		return
	}
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
	inc, seq, err := h.node.Submit(h.time(), h.w.group, ups, h)
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
	h.w.after(h.disk(0, 5*time.Millisecond), "clean: flush", func() {
		if !alive() || h.inc != inc || h.broken() {
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
	h.w.after(h.disk(0, 3*time.Millisecond), "bits", func() {
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
