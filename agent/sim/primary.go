package sim

import (
	"slices"
	"time"

	"flotilla/agent/core"
	"flotilla/wire"
)

// volume is a source volume of a living primary.
type volume struct {
	id     wire.VolumeID
	group  *sourceGroup
	dev    *device
	ext    *core.Extents
	locked map[int]bool // blocks of writes under way
	copied bool         // the first copy was finished in this incarnation
	by     keptFor      // that what is kept is for
	first  bool         // it was in its first copy when the incarnation began
	grows  bool         // its grower is at work
	copy   uint64       // that the bits are of
	whole  bool         // nothing was left to copy once in this incarnation: what is copied since is what failed writes left
}

// sourceGroup is a living primary's part in one group.
type sourceGroup struct {
	h        *host
	id       wire.GroupID
	vols     []*volume        // ascending by ID
	inc      wire.Incarnation // as last seen
	openSeen wire.Set
	cleaning bool
	keeping  bool
	keptUpTo wire.Set // what was copied in the sets up to this one was looked at, whether it is to be kept
	copying  bool
	queue    queueSeen
	spilling bool
	waiting  int // writes that are not answered
	check    *checkJob
	looked   uint64 // index of the state in which removed looked last
}

// join puts a volume into its group's part. Volumes come in the order of their IDs.
func (h *host) join(v *volume) {
	g, _ := h.w.oracle.last.Volume(v.id)
	k := slices.IndexFunc(h.groups, func(s *sourceGroup) bool { return s.id == g.ID })
	if k < 0 {
		k, h.groups = len(h.groups), append(h.groups, &sourceGroup{h: h, id: g.ID})
	}
	v.group = h.groups[k]
	v.group.vols = append(v.group.vols, v)
}

// follow does what the primary's shell does when it is woken.
func (h *host) follow() {
	h.tellJournal()
	if h.node == nil || len(h.groups) == 0 {
		h.w.oracle.follow(h)
		return
	}
	w := h.w
	for i := 0; i < len(h.groups); {
		s := h.groups[i]
		if s.removed() {
			s.close()
			continue
		}
		s.followNode()
		i++
	}
	w.oracle.follow(h)
	if len(h.groups) == 0 {
		return
	}
	h.scheduleSend()
	for _, s := range h.groups {
		s.scheduleCopy()
		s.scheduleClean()
		s.scheduleKeep()
	}
}

// close does what the shell does with volumes that were taken out of the group: they are closed.
func (s *sourceGroup) close() {
	h := s.h
	h.node.RemoveSource(h.w.now, s.id)
	for _, v := range s.vols {
		v.ext.Detach()
		delete(h.primary, v.id)
	}
	s.inc, s.openSeen = 0, 0
	h.groups = slices.DeleteFunc(h.groups, func(o *sourceGroup) bool { return o == s })
}

// followNode sees whether the node has another incarnation.
func (s *sourceGroup) followNode() {
	h, w := s.h, s.h.w
	v, ok := h.node.View(s.id)
	if !ok {
		return
	}
	s.overload(v)
	s.spill(v)
	s.followCopies(h.node.State().Groups[s.id])
	if v.Inc == 0 {
		s.tellNeed()
	}
	h.node.SetWaiting(h.time(), s.id, s.waiting > 0 && (v.Open == 0 || !v.Whole))
	if v.Inc != s.inc || (v.Open != 0) != (s.openSeen != 0) {
		if s.inc != 0 && s.openSeen != 0 {
			for _, vol := range s.vols {
				if w.opt.Mutants["suspend-forgets"] {
					vol.ext.Cleared(vol.ext.Clean(notCopied, 0, vol.ext.Len()), notCopied)
				}
				vol.ext.Detach()
			}
		}
		s.inc, s.openSeen = v.Inc, 0
		if v.Inc != 0 && v.Open != 0 {
			w.oracle.opened(s, v.Inc)
			w.stats.Resyncs++
			for _, vol := range s.vols {
				vol.copied, vol.whole = false, false
				if vol.resume(v.Open) > 0 {
					w.stats.Copies++
				}
			}
			s.keptUpTo = v.Open - 1
			s.resynced()
		}
	}
	if v.Open != s.openSeen {
		if s.openSeen != 0 && !v.Whole {
			s.loseNext()
		}
		s.openSeen = v.Open
	}
	for _, vol := range s.vols {
		s.follow(vol)
	}
	s.followCheck(v)
}

// resynced tells the node how its copies stand.
func (s *sourceGroup) resynced() {
	h := s.h
	st := h.node.State()
	broken := false
	left := int64(0)
	var copied []wire.VolumeID
	for _, v := range s.vols {
		id := v.id
		vol := st.Groups[s.id].Volumes[id]
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
	h.node.SetResync(s.id, broken, copied, left, left)
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
			if !h.unspill(out) {
				continue
			}
			for i := range out.Updates {
				out.Updates[i].Seal(out.Header.Group, out.Header.Incarnation)
			}
			for i := range out.Updates {
				w.sentUpdate(out.Header.Incarnation, &out.Updates[i])
			}
			h.node.Sent(h.time(), out.Header.Group, out.Bytes, out.Bytes)
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

// sentUpdate counts what was folded, and looks that a seq is the same whenever it is sent.
func (w *World) sentUpdate(inc wire.Incarnation, u *wire.Update) {
	sent := w.sentAs[inc]
	for wire.Seq(len(sent)) <= u.Seq {
		sent = append(sent, 0)
	}
	w.sentAs[inc] = sent
	kind := sent[u.Seq]
	before := kind != 0
	switch {
	case before && kind != u.Kind:
		w.fail("P2: seq %d of incarnation %d was sent as a %v, and is sent again as a %v", u.Seq, inc, kind, u.Kind)
	case !before && u.Kind == wire.KindFolded:
		w.stats.Folded++
	}
	sent[u.Seq] = u.Kind
}

// scheduleCopy copies an extent at a time.
func (s *sourceGroup) scheduleCopy() {
	h := s.h
	if s.copying || s.openSeen == 0 {
		return
	}
	more := false
	for _, v := range s.vols {
		more = more || v.ext.ToCopy() > 0
	}
	if !more {
		return
	}
	s.copying = true
	alive := h.alive()
	h.w.after(h.w.between(0, s.takes()), "copy", func() {
		if !alive() {
			return
		}
		s.copying = false
		s.copyOne()
		h.do(func(*core.Node) {})
	})
}

func (s *sourceGroup) copyOne() {
	h := s.h
	if h.broken() {
		s.copying = true
		alive := h.alive()
		h.w.after(50*time.Millisecond, "copy again", func() {
			if alive() {
				s.copying = false
				s.scheduleCopy()
			}
		})
		return
	}
	for _, v := range s.vols {
		i, _, ok := v.ext.NextRun(1)
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
		_, seq, err := s.submit(ups)
		if err != nil {
			return
		}
		view, _ := h.node.View(s.id)
		h.w.oracle.numbered(h, view.Inc, view.Open, seq, ups)
		v.ext.Copied(i, view.Open)
		h.w.stats.Copied++
		s.resynced()
		return
	}
}

func (s *sourceGroup) submit(ups []wire.Update) (wire.Incarnation, wire.Seq, error) {
	h := s.h
	inc, seq, err := h.node.Submit(h.time(), s.id, ups, h)
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
func (s *sourceGroup) scheduleClean() {
	h := s.h
	applied := h.node.State().Groups[s.id].Applied
	if s.cleaning || applied <= h.cleaned[s.id] || s.openSeen == 0 {
		return
	}
	h.cleaned[s.id] = applied
	s.cleaning = true
	alive := h.alive()
	inc := s.inc
	cand := map[wire.VolumeID][]int{}
	for _, v := range s.vols {
		cand[v.id] = v.ext.Clean(applied, h.w.hot, 100)
	}
	h.w.after(h.disk(0, 5*time.Millisecond), "clean: flush", func() {
		if !alive() || s.inc != inc || h.broken() {
			s.cleaning = false
			return
		}
		for _, v := range s.vols {
			if id := v.id; len(cand[id]) > 0 {
				if !h.w.opt.Mutants["clean-without-flush"] {
					v.dev.flush()
				}
				v.ext.Cleared(cand[id], applied)
			}
		}
		h.saveBits(func() { s.cleaning = false })
	})
}
