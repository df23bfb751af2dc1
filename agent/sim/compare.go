package sim

import (
	"encoding/binary"
	"errors"
	"time"

	"flotilla/agent/core"
	"flotilla/wire"
)

// comparison is one check as its owner asks a secondary for it.
type comparison struct {
	update  *wire.Update
	later   bool
	overlay map[int]uint64 // by block
}

// checkWithin is how long an owner waits for the answers before it writes its share.
const checkWithin = 300 * time.Millisecond

// askChecks has the secondary compare what an owner's share says, before anything of it is written. It reports whether
// there is something to compare; then is called when that has ended, which it does whatever comes of it.
func (h *host) askChecks(a core.Apply, then func()) bool {
	units := core.FindChecks(a.Parts, extentSize)
	if len(units) == 0 {
		return false
	}
	asks := map[wire.VolumeID][]comparison{}
	var order []wire.VolumeID
	for _, unit := range units {
		rec := h.read(a.Parts[unit.Part].Ref.(uint64), "check")
		if rec == nil {
			return false
		}
		c := comparison{update: &rec.body.Updates[a.Parts[unit.Part].Index], later: unit.Later, overlay: map[int]uint64{}}
		for _, p := range unit.Overlay {
			part := a.Parts[p.Part]
			if rec = h.read(part.Ref.(uint64), "check"); rec == nil {
				return false
			}
			for b := range p.Length / blockSize {
				c.overlay[int(p.Offset/blockSize)+int(b)] = decodeBlock(&rec.body.Updates[part.Index], p.From/blockSize+b)
			}
		}
		if h.w.opt.Mutants["check-no-overlay"] {
			clear(c.overlay)
		}
		if asks[c.update.Volume] == nil {
			order = append(order, c.update.Volume)
		}
		asks[c.update.Volume] = append(asks[c.update.Volume], c)
	}
	w, alive, left, ended := h.w, h.alive(), len(order), false
	end := func() {
		if alive() && !ended {
			ended = true
			then()
		}
	}
	w.after(checkWithin, "checks time-out", end)
	for _, vol := range order {
		to := h.node.State().Groups[a.Group].Volumes[vol]
		if to == nil {
			left--
			continue
		}
		hop := h.node.ApplyHop(to.Secondary)
		ask := func() {
			w.deliverOver(h.id, hop, to.Secondary, "checks", func(o *host) {
				o.takeChecks(h.id, a, vol, asks[vol], func(err error) {
					w.deliverOver(o.id, hop, h.id, "checks answer", func(*host) {
						if left--; left == 0 || err != nil {
							end()
						}
					})
				})
			})
		}
		if r := w.lateChecks; w.faults && r.IntN(8) == 0 {
			w.stats.LateChecks++
			w.after(span(r, checkWithin, checkWithin+lateBy), "late checks", func() {
				if alive() {
					ask()
				}
			})
			continue
		}
		ask()
	}
	return true
}

// lateBy is how much later than its owner waits for it a request of checks may come: while the share is written, or after it.
const lateBy = 60 * time.Millisecond

// takeChecks is the secondary's side: asks the node, compares, tells the primary.
func (h *host) takeChecks(from wire.AgentID, a core.Apply, vol wire.VolumeID, checks []comparison, answer func(error)) {
	w := h.w
	err := h.node.BeginApply(from, a.Group, a.View, a.Set)
	alive := h.alive()
	if errors.Is(err, core.ErrTargetBusy) {
		w.after(2*time.Millisecond, "checks again", func() {
			if alive() {
				h.takeChecks(from, a, vol, checks, answer)
			}
		})
		return
	}
	if err != nil {
		answer(err)
		return
	}
	opening := h.openings[vol]
	w.after(h.disk(50*time.Microsecond, 4*time.Millisecond), "target read", func() {
		if !alive() {
			return
		}
		var results []core.CheckResult
		for i := range checks {
			results = append(results, core.CheckResult{Seq: checks[i].update.Seq, Verdict: h.compare(a, opening, &checks[i])})
		}
		h.do(func(n *core.Node) {
			n.ReportChecks(a.Group, a.Inc, vol, results)
			n.EndApply(a.Group)
		})
		answer(nil)
	})
}

// compare compares one check with the target under its overlay.
func (h *host) compare(a core.Apply, opening int, c *comparison) core.CheckVerdict {
	u, d := c.update, h.targets[c.update.Volume]
	m := h.mark(u.Volume)
	untouched := h.openings[u.Volume] == opening && a.Set >= m.fresh && !m.in.Has(a.Set, portionSize, u.Offset, u.End())
	if c.later && !untouched && !h.w.opt.Mutants["check-later-answered"] {
		return core.CheckUnknown
	}
	if h.broken() {
		return core.CheckUnreadable
	}
	have := make([]byte, 0, 8*u.Length/blockSize)
	damaged, mending := false, false
	for b := int(u.Offset / blockSize); b < int(u.End()/blockSize); b++ {
		v, over := c.overlay[b]
		if !over {
			v = d.reads(b)
			damaged = damaged || d.damaged(b)
		} else {
			mending = mending || d.damaged(b)
		}
		have = binary.LittleEndian.AppendUint64(have, v)
	}
	h.w.oracle.compared(sentID{a.Inc, u.Seq}, damaged, mending)
	if digest := wire.Digest(have); string(digest[:]) != string(u.Data) {
		return core.CheckDiffers
	}
	return core.CheckSame
}

// targetMarks is what a secondary knows of the sets that were written to a target: see agent/secondary/check.go.
type targetMarks struct {
	run   wire.Set   // durable: the end of the run that was announced last
	begun wire.Set   // the newest set of which this process has begun writes
	fresh wire.Set   // nothing of this set, nor of a later one, was written before the device was opened
	copy  uint64     // of the volume that it takes
	in    core.Begun // what writes of one set began in since then
}

func (h *host) mark(vol wire.VolumeID) *targetMarks {
	m := h.marks[vol]
	if m == nil {
		m = &targetMarks{}
		h.marks[vol] = m
	}
	return m
}

// openTarget opens a target's device, for the first time in this process or again.
func (h *host) openTarget(vol wire.VolumeID) {
	h.openings[vol]++
	m := h.mark(vol)
	if h.node == nil {
		return // it is opened when the process starts
	}
	if g, _ := h.node.State().Volume(vol); g != nil {
		m.fresh, m.in = max(g.Applied+1, m.begun, m.run)+1, core.Begun{}
	}
}

// announce notes, before a request is written, that its set is.
func (h *host) announce(a core.Apply, vol wire.VolumeID, pieces []core.Piece) {
	m := h.mark(vol)
	g, v := h.node.State().Volume(vol)
	switch {
	case g == nil:
	case g.Torn || !v.Copied(g.Applied):
		m.run = 0
	case m.run < a.Set:
		m.run = max(g.ApplyTo, a.Set)
	}
	m.begun = max(m.begun, a.Set)
	for _, p := range pieces {
		m.in.Add(a.Set, portionSize, p.Offset, p.Offset+uint64(p.Length))
	}
}
