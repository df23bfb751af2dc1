package core

import (
	"slices"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// Forwarding. A primary that does not reach the owner of a portion sends to its mirror, which has to store the update
// anyway: it does so, then brings it to the owner out of its journal, and acknowledges when both have it. The owner knows by
// the way that it came that it need not mirror it. So a forwarded update is stored twice and sent twice, as any other.

// giveBack brings to the owner what it lost of a holding: to what was brought before, if anything, this is the newest word.
func (c *component) giveBack(h *holding, seqs SeqRanges) {
	w := &ackWait{forward: true, back: h}
	if err := seqs.Each(func(s wire.Seq) {
		if e := h.find(s); e != nil && e.durable {
			if e.mirrored {
				e.mirrored = false
				h.mirrored.remove(s)
			}
			w.entries = append(w.entries, e)
		}
	}); err != nil {
		return
	}
	c.acking.endAll(func(o *ackWait) bool { return o.back == h })
	c.acking.add(w)
}

// pumpForwards brings to their owners, as far as they are on this disk, the entries that primaries wait for, and those that
// an owner lost. What is refused or lost is brought again as long as anybody waits for it: a primary that has given up
// sends again.
func (c *component) pumpForwards() {
	if c.acking.forwards == 0 || c.n.now < c.forwardAt {
		return
	}
	c.markFlying()
	for _, w := range c.acking.all {
		if w.forward && !w.over {
			c.forward(w)
		}
	}
}

// dropForwards ends the waits for what is another's to bring by now: who joined after this component may have become the mirror
// of a pair that had none. The owner refuses it, over and over, and that would keep back what is this component's to bring. The
// primary finds out about the new mirror by itself, and sends to it.
func (c *component) dropForwards() {
	if c.acking.forwards == 0 {
		return
	}
	c.acking.endAll(func(w *ackWait) bool {
		return w.forward && slices.ContainsFunc(w.entries[w.next:], func(e *entry) bool {
			return !e.gone && !e.h.owned && e.h.mirror != c.n.cfg.ID
		})
	})
}

// forward sends what of a wait's entries is not on its way, as far as the window allows.
func (c *component) forward(w *ackWait) {
	flags := toOwner
	if w.back != nil {
		flags |= rebuilding
	}
	parts := map[*frame]*Remirror{}
	var order []*Remirror
	for _, e := range w.entries[w.next:] {
		owner := e.h.owner
		if e.gone || !e.durable || e.mirrored || e.pump == c.pump || e.h.owned || owner == 0 {
			continue
		}
		r := parts[e.f]
		if r == nil {
			if c.flying[owner] >= c.n.cfg.MirrorWindow {
				break
			}
			r = c.again(e.f, owner, cluster.Pair{Owner: owner, Mirror: c.n.cfg.ID}, flags)
			parts[e.f] = r
			order = append(order, r)
			c.flying[owner]++
			c.flights[r.Route.No] = &mirrorFlight{to: owner, hop: r.To, at: c.n.now, forward: true}
		}
		r.Index = append(r.Index, int(e.i))
		fl := c.flights[r.Route.No]
		fl.entries = append(fl.entries, e)
		e.pump = c.pump
	}
	for _, r := range order {
		c.n.eff.Remirror = append(c.n.eff.Remirror, *r)
	}
}

// markFlying gives component.pump a new number, and every entry that is on its way the same.
func (c *component) markFlying() {
	c.pump++
	for _, fl := range c.flights {
		for _, e := range fl.entries {
			e.pump = c.pump
		}
	}
}
