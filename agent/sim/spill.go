package sim

import (
	"slices"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
)

// A primary's spool, as the shell has it: payloads of what waits to be sent are elsewhere, and come back when it is sent. What
// could not be written stays where it is; what can not be read back suspends the group.

const (
	// spillMark is the length of a queue, in bytes, from which on it is spilled where a run does that.
	spillMark = 2 << 10
	// spillBatch is how much is written at a time.
	spillBatch = 2000
)

// spooled is where a payload is. It is of one run of its host.
type spooled struct{ data []byte }

// spills reports whether primaries of this run have spools: in every second one, and not where a script says what is sent.
func (w *World) spills() bool { return w.opt.Seed%2 == 0 && !w.steady }

// spill writes what waits in a long queue to the spool. Every third time that is of the open set, too.
func (s *sourceGroup) spill(v core.GroupView) {
	h, w := s.h, s.h.w
	if !w.spills() || s.spilling || v.Inc == 0 || (v.Mode != cluster.Async && !v.Early) || v.Queued-v.Spilled < spillMark {
		return
	}
	inc, out := h.node.Spillable(s.id, spillMark/4, spillBatch, v.Seq%3 == 0)
	if len(out) == 0 {
		return
	}
	s.spilling = true
	alive := h.alive()
	w.after(h.disk(0, 3*time.Millisecond), "spill", func() {
		if !alive() {
			return
		}
		s.spilling = false
		if h.broken() {
			return
		}
		places := make([]core.Spilled, len(out))
		for i := range out {
			data := out[i].Update.Data
			if w.opt.Mutants["spill-mixes"] {
				k := slices.IndexFunc(out, func(o core.Spill) bool { return len(o.Update.Data) == len(data) })
				data = out[k].Update.Data
			}
			places[i] = core.Spilled{Seq: out[i].Update.Seq, Handle: &spooled{data}}
		}
		h.handles += len(places) // for each of them one is given back: the place, or what it stands for
		w.stats.Spilled += len(places)
		h.do(func(n *core.Node) { n.Spilled(h.time(), s.id, inc, places) })
	})
}

// unspill brings back what a frame carries. It reports false, and suspends the group, when that fails.
func (h *host) unspill(out *core.Outgoing) bool {
	for i := range out.Updates {
		p, ok := out.Handles[i].(*spooled)
		if !ok {
			continue
		}
		if h.broken() {
			h.w.trace("host %d can not read back what it spilled of group %d", h.id, out.Header.Group)
			h.w.stats.SpoolsLost++
			for _, s := range h.groups {
				if s.id == out.Header.Group {
					s.queue.suspended, s.queue.movedAt = true, h.time()
				}
			}
			h.node.Suspend(h.time(), out.Header.Group)
			return false
		}
		out.Updates[i].Data = p.data
	}
	return true
}
