package core

import (
	"time"

	"flotilla/wire"
)

// load measures the work of a component in this run of its agent. Its figures only rise: who knows two of them knows what
// was between, whatever got lost on the way.
type load struct {
	owned    int64            // bytes taken as owner
	mirrored int64            // and as mirror
	stores   map[uint64]int64 // the bytes of what waits for the journal
	waiting  int64            // their sum
	at       time.Duration    // up to which busy and waited count
	busy     time.Duration    // in which something waited
	waited   float64          // byte-seconds
}

// store asks for a frame to be made durable.
func (c *component) store(f *frame, s Store) {
	var owned, mirrored int64
	for _, e := range f.entries {
		if e.h.owned {
			owned += size(&f.updates[e.i])
		} else {
			mirrored += size(&f.updates[e.i])
		}
	}
	l := &c.load
	l.pass(c.n.now)
	l.owned += owned
	l.mirrored += mirrored
	l.stores[f.id] = owned + mirrored + updateOverhead
	l.waiting += l.stores[f.id]
	c.n.eff.Store = append(c.n.eff.Store, s)
}

// answered notes that the shell is done with a store, well or not.
func (l *load) answered(id uint64, now time.Duration) {
	l.pass(now)
	l.waiting -= l.stores[id]
	delete(l.stores, id)
}

// reset forgets the stores under way: the journal is emptied, and nobody answers for them.
func (l *load) reset(now time.Duration) {
	l.pass(now)
	l.stores, l.waiting = map[uint64]int64{}, 0
}

// pass brings the figures up to now.
func (l *load) pass(now time.Duration) {
	if l.waiting > 0 {
		l.busy += now - l.at
		l.waited += float64(l.waiting) * (now - l.at).Seconds()
	}
	l.at = now
}

// size is what an update counts for: the bytes that it carries.
func size(u *wire.Update) int64 {
	switch u.Kind {
	case wire.KindWrite, wire.KindMark:
		return int64(u.Length)
	}
	return 0
}
