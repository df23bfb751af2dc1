package sim

import (
	"fmt"

	"flotilla/agent/core"
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
	h.behind = true
	w.saw(h, leftBehind{generation})
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
	if enough, err := core.Majority(nodeConfig(self.id, 1, nil), self.log.boot, ids); enough || err != nil {
		return fmt.Errorf("recover: a majority survives (%v)", err)
	}
	boot, err := core.Recover(self.log.boot, self.id, generation, positions)
	if err != nil {
		return err
	}
	self.log.boot = boot
	w.doubleLoss = true
	return nil
}
