package core

import (
	"maps"
	"slices"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// Weights by measured load. A component's pressure is how many bytes wait for its journal's disk on average: what it takes
// in a second times how long that waits. One that is slower than others, for whatever reason, is under more pressure with
// the same share, and gets a smaller one:
//
//   - Pressure is measured over a window, anew after every change of the shares.
//   - While nobody is busy, or there are only two (who have everything between them), nothing changes.
//   - Otherwise the one whose pressure is furthest from the mean gets its weight changed by a step: lowered if it is above
//     the mean, raised if it is below and had been lowered. One at a time. Changes begin when it is outside of the wide
//     band around the mean, and go on, window by window, until all are inside of the narrow one.
//
// It does not oscillate: pressure grows with the share, so a step brings it nearer to the mean; and one step, 1/16 of the
// weight, does not lead from outside of the narrow band, 1.08 to both sides, to its other side unless pressure grows with
// more than the square of the share ((17/16)^2.5 < 1.08^2), and from there not out of the wide band unless with more than
// the fourth power. What has come to rest in the narrow band does not leave the wide one by a little noise. Where pressure
// grows more steeply (a disk at its end; a single hot portion that moves to and fro), a change that takes back the one
// before doubles the window, up to a limit. The captain makes a new grant at each change, which ends a set early: the
// window says how often that may be.
//
// A measured weight is never above the nominal one, which a joiner has: that of one that is not slow.
//
// The room in a journal is not weighed. How full it is follows from all shares since sets were applied last; a rule that
// lowers the weight as long as that is too much goes too far. Who has a smaller journal may be given a fixed weight.
const (
	busyFrom   = 0.5  // part of the time in which the first must have something waiting
	wideBand   = 1.15 // changes begin at this ratio of a pressure to the mean, or its inverse
	narrowBand = 1.08 // and end at this one
	weighStep  = 16   // a weight changes by one part in so many
	minWeight  = 10
	maxWeighed = cluster.NominalWeight
	maxWindow  = 32 // times WeighEvery
)

// balance is what the captain measures of the components.
type balance struct {
	shares cluster.Shares
	began  time.Duration // of the window
	from   map[wire.AgentID]work
	length int // of the window, in WeighEvery
	last   weighed
	moving bool // the last window ended with a change
	rates  map[wire.AgentID]*rate
}

// work is what a component had done at some time.
type work struct {
	at, busy        time.Duration
	run             uint64
	owned, mirrored int64
	waited          float64 // byte-seconds
}

// since returns the mean load between an earlier moment and this one; ok is false when they do not compare.
func (w *work) since(from *work) (l Load, ok bool) {
	if w.run != from.run || w.at <= from.at {
		return Load{}, false
	}
	took := (w.at - from.at).Seconds()
	return Load{
		Owned: float64(w.owned-from.owned) / took, Mirrored: float64(w.mirrored-from.mirrored) / took,
		Busy: (w.busy - from.busy).Seconds() / took, Waiting: (w.waited - from.waited) / took,
	}, true
}

// rate is the work of a component between its last two statuses that are a little apart.
type rate struct{ from, to work }

// rateEvery is how far apart, and rateOld the age from which they say nothing of today. maxWaited bounds what a component
// may claim: a GiB that waits for a million years.
const (
	rateEvery = time.Second
	rateOld   = 3 * rateEvery
	maxWaited = 1 << 75
)

func newBalance() balance {
	return balance{from: map[wire.AgentID]work{}, length: 1, rates: map[wire.AgentID]*rate{}}
}

// noteWork takes a component's status.
func (c *captain) noteWork(from wire.AgentID, m *Status) {
	if m.Component == nil || !(m.Component.Waited >= 0 && m.Component.Waited < maxWaited) { // nor NaN
		return
	}
	w := work{
		at: c.n.now, run: m.Run, busy: m.Component.Busy, owned: m.Component.TakenOwned, mirrored: m.Component.TakenMirrored,
		waited: m.Component.Waited,
	}
	r := c.balance.rates[from]
	switch {
	case r == nil || r.to.run != w.run:
		c.balance.rates[from] = &rate{w, w}
	case w.at-r.to.at >= rateEvery:
		r.from, r.to = r.to, w
	}
}

// load returns how much a component takes, nothing when it is silent.
func (b *balance) load(a wire.AgentID, now time.Duration) Load {
	if r := b.rates[a]; r != nil && now-r.to.at < rateOld {
		l, _ := r.to.since(&r.from)
		return l
	}
	return Load{}
}

// pressed is a component as its weight is judged.
type pressed struct {
	agent    wire.AgentID
	weight   uint8
	fixed    bool
	busy     float64 // part of the time
	pressure float64 // bytes
}

// weighed is a change of a weight.
type weighed struct {
	agent    wire.AgentID
	from, to uint8
}

func (w weighed) up() bool { return w.to > w.from }

// weigh measures, and proposes a change of a weight at the end of a window. now is the assignment of today.
func (c *captain) weigh(now *cluster.Shares) {
	b := &c.balance
	at := c.n.now - b.began
	switch {
	case !now.Equal(&b.shares):
		b.shares, b.from = *now, nil
		maps.DeleteFunc(b.rates, func(a wire.AgentID, _ *rate) bool { return c.n.state.Agents[a] == nil })
		fallthrough
	case b.from == nil:
		b.began, b.from = c.n.now, map[wire.AgentID]work{}
		for _, m := range now.Members {
			if r := b.rates[m]; r != nil {
				b.from[m] = r.to
			}
		}
		return
	case at < time.Duration(b.length)*c.n.cfg.WeighEvery:
		return
	}
	ps := c.pressures(now)
	b.from = nil // measured anew
	band := wideBand
	if b.moving {
		band = narrowBand
	}
	w, ok := reweigh(ps, band)
	if b.moving = ok; ok {
		if w.agent == b.last.agent && w.up() != b.last.up() {
			b.length = min(2*b.length, maxWindow)
		}
		b.last = w
		c.n.event(0, "component.weight", "agent", w.agent, "weight", w.to, "before", w.from)
		c.n.Propose(cluster.Command{Weigh: &cluster.Weigh{Agent: w.agent, Weight: w.to, MembersAt: c.n.state.MembersAt}})
	} else if b.length > 1 {
		b.length /= 2
	}
}

// pressures returns what was measured in the window, nil while something is missing.
func (c *captain) pressures(now *cluster.Shares) []pressed {
	var ps []pressed
	for _, m := range now.Members {
		from, ok := c.balance.from[m]
		r, a := c.balance.rates[m], c.n.state.Agents[m]
		if !ok || r == nil || a == nil {
			return nil
		}
		l, ok := r.to.since(&from)
		if !ok {
			return nil
		}
		ps = append(ps, pressed{m, a.ShareWeight(), a.WeightFixed, l.Busy, l.Waiting})
	}
	return ps
}

// reweigh is the rule that the constants speak of.
func reweigh(ps []pressed, band float64) (w weighed, ok bool) {
	if len(ps) < 3 || !slices.ContainsFunc(ps, func(p pressed) bool { return p.busy >= busyFrom }) {
		return weighed{}, false
	}
	mean := 0.0
	for _, p := range ps {
		mean += p.pressure / float64(len(ps))
	}
	furthest := band
	for _, p := range ps {
		step := max(p.weight/weighStep, 1)
		switch over, under := p.pressure/mean, mean/p.pressure; {
		case p.fixed:
		case over > furthest && p.weight > minWeight:
			furthest, ok = over, true
			w = weighed{p.agent, p.weight, max(p.weight-step, minWeight)}
		case under > furthest && p.weight < maxWeighed:
			furthest, ok = under, true
			w = weighed{p.agent, p.weight, min(p.weight+step, maxWeighed)}
		}
	}
	return w, ok
}
