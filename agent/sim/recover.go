package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// greeting is what a living host says of itself in its hellos: the generation that it knows, and the level below which it
// talks to nobody.
type greeting struct{ generation, level uint64 }

func (h *host) greeting() greeting {
	if h.node == nil {
		return greeting{level: h.promised}
	}
	g := h.node.State().Generation
	return greeting{g, max(g, h.promised)}
}

// meet is what the hellos of two agents do: those of different levels have nothing to say to each other, and one that
// hears of a generation that has begun without it ends. It reports whether what the first has sent is taken.
func (w *World) meet(from *host, said greeting, to *host) bool {
	own := to.greeting()
	switch {
	case said.level == own.level || w.opt.Mutants["generations-mix"]:
		return true
	case said.generation > own.level:
		w.leaveBehind(to, said.generation)
	case own.generation > said.level && from.node != nil && from.greeting() == said:
		w.leaveBehind(from, own.generation)
	}
	return false
}

// leaveBehind ends an agent that has heard of a generation that has begun without it. It does not start again.
func (w *World) leaveBehind(h *host, generation uint64) {
	w.trace("host %d was left behind by generation %d", h.id, generation)
	h.behind, h.doomed = true, true
	if w.watch != nil {
		w.saw(h, leftBehind{generation})
	}
	h.kill(false)
}

// recover begins a generation with the survivors, whose agents have been stopped. self is asked to be the one to begin.
func (w *World) recover(self *host, survivors []*host) error {
	var positions []core.Position
	generation := uint64(0)
	for _, h := range survivors {
		if h.node != nil {
			return fmt.Errorf("recover: %d is up: an agent promises a generation while it does not run", h.id)
		}
		st, err := core.Replay(h.log.boot)
		if err != nil {
			return err
		}
		generation = max(generation, st.Generation+1, h.promised)
	}
	var ids []wire.AgentID
	for _, h := range survivors {
		ids = append(ids, h.id)
		h.promised = generation
		positions = append(positions, core.PositionOf(h.id, h.log.boot))
	}
	switch enough, err := core.Majority(nodeConfig(self.id, 1, nil), self.log.boot, ids); {
	case err != nil:
		return err
	case enough:
		return errMajority
	}
	boot, err := core.Recover(self.log.boot, self.id, generation, positions)
	if err != nil {
		return err
	}
	self.log.boot, w.generation = boot, generation
	w.doubleLoss = true
	st, err := core.Replay(boot)
	if err != nil {
		return err
	}
	if w.watch == nil { // who watches is to see it change
		w.oracle.last = st
	}
	for _, g := range w.oracle.groups {
		g.recovered(st.Groups[g.id])
	}
	return nil
}

var errMajority = errors.New("recover: a majority survives")

// recovered forgets what only those who are gone have known of a group: the new generation is held to its own.
func (o *groupOracle) recovered(g *cluster.Group) {
	if g.Phase != cluster.Promoted {
		o.promoted = nil
	}
	if g.Phase == cluster.Replicating && o.asked {
		o.asked = false
		o.w.after(time.Second, "promote anew", func() { o.w.promote(o) })
	}
	for id := range o.removed {
		if g.Volumes[id].Removed == nil {
			delete(o.removed, id)
		}
	}
	o.giveUps = max(o.giveUps, g.GivenUp)
}

// loseMajority ends components that are a majority of the voters, for good or until they come back to a cluster that has
// gone on without them. After a while an operator stops the others, and begins a generation with them.
func (w *World) loseMajority(r *rand.Rand) {
	captain := w.captain()
	if captain == nil || w.generation != 0 {
		return
	}
	var gone []*host
	voters := captain.Voters()
	for _, id := range voters {
		if h := w.host(id); h != nil && h.backup && len(h.sources) == 0 && !h.doomed {
			gone = append(gone, h)
		}
	}
	r.Shuffle(len(gone), func(i, k int) { gone[i], gone[k] = gone[k], gone[i] })
	most := len(voters)/2 + 1
	if len(gone) < most {
		return
	}
	gone = gone[:most+r.IntN(len(gone)-most+1)]
	w.happened(loseMajority)
	w.excuse()
	back := r.IntN(2) == 0
	for _, h := range gone {
		if h.node != nil {
			h.kill(w.power && r.IntN(2) == 0)
		}
		h.doomed, h.removed = true, true
		w.trace("host %d is gone", h.id)
	}
	for _, o := range w.oracle.groups { // and what only they held
		o.lostUpTo = max(o.lostUpTo, o.now().Granted)
	}
	w.after(span(r, 100*time.Millisecond, 4*time.Second), "recover", func() { w.operatorRecovers(gone, back, r) })
}

// stopAll stops all agents that are left, and returns those that can be part of a new generation, and which of them has
// the newest log.
func (w *World) stopAll() (survivors []*host, newest *host, err error) {
	for _, h := range w.hosts {
		if h.doomed {
			continue
		}
		if h.node != nil {
			h.kill(false)
		}
		survivors = append(survivors, h)
	}
	survivors = w.dropUnknown(survivors, func(h *host) bool { return h.log.boot.Snapshot.GetMetadata().GetIndex() == 0 })
	var positions []core.Position
	for _, h := range survivors {
		positions = append(positions, core.PositionOf(h.id, h.log.boot))
	}
	id, err := core.Newest(positions)
	if err != nil {
		return nil, nil, err
	}
	newest = w.host(id)
	st, err := core.Replay(newest.log.boot)
	return w.dropUnknown(survivors, func(h *host) bool { return st.Agents[h.id] == nil }), newest, err
}

// dropUnknown takes out of the hosts those that have joined when nobody who is left has heard of it: they are to join anew.
func (w *World) dropUnknown(hosts []*host, which func(*host) bool) []*host {
	return slices.DeleteFunc(hosts, func(h *host) bool {
		unknown := which(h)
		if unknown {
			h.doomed, h.removed = true, true
		}
		return unknown
	})
}

// operatorRecovers stops all that are left, and begins a generation with them on the one with the newest log.
func (w *World) operatorRecovers(gone []*host, back bool, r *rand.Rand) {
	survivors, newest, err := w.stopAll()
	if err == nil {
		w.trace("a generation with %d survivors is begun by %d", len(survivors), newest.id)
		err = w.recover(newest, survivors)
	}
	switch {
	case errors.Is(err, errMajority): // the voters have changed meanwhile
		for _, h := range gone {
			h.doomed, h.removed = false, false
		}
		back = true
	case err != nil:
		w.fail("%v", err)
		return
	}
	for _, h := range survivors {
		w.restartAfter(h, span(r, 0, 2*time.Second))
	}
	if back {
		for _, h := range gone {
			w.after(span(r, 0, 5*time.Second), "back", func() {
				if h.node == nil && !h.behind {
					h.start()
				}
			})
		}
	}
	for _, a := range w.oracle.last.Agents {
		if a.Backup && !a.Drain && !a.Behind {
			return
		}
	}
	w.admit(r) // no component is left
}
