package blockdev

import (
	"math"
	"sync/atomic"
)

// gate counts the calls inside a device, so that Close can wait for them
// without a lock that would be held across their I/O.
//
// state is the number of calls inside, plus gateShut once the gate is shut; it
// is negative exactly from then on. Each time it falls back to gateShut a token
// is offered to drained, whose capacity of one keeps it for a waiter to come.
type gate struct {
	state   atomic.Int64
	drained chan struct{}
}

const gateShut = math.MinInt64

func (g *gate) init() { g.drained = make(chan struct{}, 1) }

// enter reports whether the device is open. Only after true must leave follow.
func (g *gate) enter() bool {
	if g.state.Add(1) < 0 {
		g.leave()
		return false
	}
	return true
}

func (g *gate) leave() {
	if g.state.Add(-1) == gateShut {
		select {
		case g.drained <- struct{}{}:
		default:
		}
	}
}

// shut lets nobody in any more, waits until nobody is inside and returns true.
// It returns false at once if the gate was shut before.
func (g *gate) shut() bool {
	for {
		s := g.state.Load()
		if s < 0 {
			return false
		}
		if g.state.CompareAndSwap(s, s+gateShut) {
			break
		}
	}
	for g.state.Load() != gateShut {
		<-g.drained
	}
	return true
}
