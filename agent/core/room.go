package core

import (
	"math"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// Room for a chain. The last recovery point before a resync stays while nothing of the resync's chain is applied, so the
// journals must hold all of the chain, twice.
//
//  1. A primary whose next incarnation would begin with a chain says how much it is to copy, and attaches only when the
//     captain has said that the journals have room for it. Until then its writes go into the bitmap, and the point stays.
//  2. An operator who cannot make room may allow the targets to be inconsistent meanwhile (cluster.AllowInconsistent): the
//     resync is a first copy then, which is applied in place, and no chain.
//  3. Estimates can be wrong. When the journals are nearly full, nothing waits to be applied, and a primary that is not
//     whole keeps the point from advancing, the captain gives the chain up: its ranges are in the bitmaps.

const (
	// roomUsed is the part of the free room that a chain may be begun for: writes go on while it is copied.
	roomUsed = 0.8
	// roomFull is the part of what is not reserved at which a journal is nearly full.
	roomFull = 0.9
	// roomLasts is how long the captain's word counts.
	roomLasts = time.Second
	// abandonEvery is how long after a chain was given up the next may be: its room is free by then.
	abandonEvery = 2 * time.Second
)

// SetNeed tells the node how many bytes the next incarnation in a group would copy to volumes that have recovery points. A
// shell that has called it once is waited for before each attach.
func (n *Node) SetNeed(now time.Duration, g wire.GroupID, bytes int64) {
	n.now = max(n.now, now)
	if s := n.sources[g]; s != nil {
		s.need, s.saysNeed = bytes, true
	}
}

// fits reports whether the journals have room for the chain that the next incarnation would begin with.
func (s *source) fits() bool {
	if s.need == 0 || s.n.mutant("chain-without-room") {
		s.noRoom = false
		return true
	}
	if s.need < 0 || s.roomAt == 0 || s.n.now-s.roomAt > roomLasts {
		return false // it is not known yet
	}
	fits := s.wants() <= s.room
	if fits == s.noRoom {
		s.noRoom = !fits
		name := "resync.room"
		if s.noRoom {
			name = "resync.no-room"
		}
		s.n.event(s.group, name, "need_bytes", s.wants(), "room_bytes", s.room)
	}
	return fits
}

// wants returns the room that the next chain is taken to need: more after each that was given up for want of room.
func (s *source) wants() int64 { return s.need * int64(1+s.abandoned) }

// rooms answers a primary that is detached: how much the journals can take of each of its groups' chains.
func (c *captain) rooms(m *Status) []GroupRoom {
	var rooms []GroupRoom
	for i := range m.Groups {
		gs := &m.Groups[i]
		g := c.n.state.Groups[gs.Group]
		if g == nil || gs.Need == 0 || gs.Inc != 0 {
			continue
		}
		if room, ok := c.room(); ok {
			if c.frozen(g) {
				room = 0
			}
			rooms = append(rooms, GroupRoom{Group: gs.Group, Bytes: room})
		}
	}
	return rooms
}

// frozen reports whether a chain of an async group could not end, for want of another primary that is not heard. In sync
// groups every primary's prefix counts, so each goes on by itself.
func (c *captain) frozen(g *cluster.Group) bool {
	if g.Mode == cluster.Sync && !g.Unpromised() {
		return false
	}
	for _, p := range g.Primaries() {
		if g.AnyCopied(p, nil) && !c.hears(p, c.n.cfg.LossAfter) {
			return true
		}
	}
	return false
}

// room returns how many bytes of updates the journals can take, each on two components, and whether all have said how full
// they are.
func (c *captain) room() (int64, bool) {
	shares := c.n.state.Shares()
	copies := min(2, len(shares.Members))
	room := math.MaxFloat64
	for _, m := range shares.Members {
		h := c.heard[m]
		if h == nil || h.st.Component == nil {
			return 0, false
		}
		if cs := h.st.Component; cs.Limit > 0 {
			part := min(1, float64(copies)*shares.Percent(m)/100)
			room = min(room, float64(max(cs.Limit-cs.Reserve-cs.Used, 0))/part)
		}
	}
	return int64(min(room*roomUsed, 1<<62)), copies > 0
}

// full reports whether a journal is nearly full.
func (c *captain) full() bool {
	for _, m := range c.n.state.Members {
		if h := c.heard[m]; h != nil && h.st.Component != nil && h.st.Component.Limit > 0 {
			if cs := h.st.Component; float64(cs.Used) >= roomFull*float64(cs.Limit-cs.Reserve) {
				return true
			}
		}
	}
	return false
}

// chained reports whether the sets above Committed are a chain that can be given up: some primary is not whole, so they
// cannot be committed yet, and nothing in them was acknowledged as held.
func (c *captain) chained(g *cluster.Group) bool {
	if g.KeepsHeld() {
		return false
	}
	for _, p := range g.Primaries() {
		if !g.AnyCopied(p, nil) {
			continue
		}
		if inc := g.Live(p); inc == nil || inc.Whole == 0 || !c.hears(p, c.n.cfg.LossAfter) {
			return true
		}
	}
	return false
}

// abandon gives up a chain that would fill the journals.
func (c *captain) abandon(g *cluster.Group) {
	if g.Phase != cluster.Replicating || g.Applied != g.Committed || c.n.now < c.abandonAt ||
		c.n.now-c.since < c.n.cfg.LossAfter || !c.full() || !c.chained(g) {
		return
	}
	c.abandonAt = c.n.now + abandonEvery
	c.n.event(g.ID, "chain.abandoned", "from", g.Committed+1, "to", g.Granted)
	c.n.Propose(cluster.Command{GiveUp: &cluster.GiveUp{Group: g.ID, View: c.n.state.View, Applied: g.Applied, Chain: true}})
}
