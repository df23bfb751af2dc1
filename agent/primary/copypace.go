package primary

import (
	"context"
	"time"

	"flotilla/wire"
)

// How fast the copier goes, in the order of the rules' strength (the idea of them is that of DRBD's resync controller, whose
// c-max-rate, c-min-rate, c-fill-target and c-delay-target they resemble):
//
//	ceiling  never faster than the group's resync rate.
//	minimum  a piece goes when it is due by the minimum rate, whatever the application does.
//	window   otherwise it waits while more than a window of updates, the application's among them, is not yet held. The
//	         window follows the time that an update takes to become held: it grows while that is short and the copier
//	         waits for it, and shrinks when it is long. So the queue stays short, and a slow link is first the
//	         application's. What is long depends on the way itself: from time to time the window is made small for a
//	         moment, to see how long an update takes that waits behind few.
//	rest     after a piece during which the application asked for something, the copier rests four times as long as the
//	         piece took: the busier the application is, the nearer the copier comes to a fifth of the disk's time.

const (
	restTimes = 4
	restMax   = 250 * time.Millisecond
	// idleDelay and busyDelay are how long an update may take to become held, beside and in front of an application.
	idleDelay = 250 * time.Millisecond
	busyDelay = 50 * time.Millisecond
	// busyFor is how long after a request an application counts as busy, quickFor how long a measured time counts.
	busyFor  = time.Second
	quickFor = 10 * time.Second
)

// copyPace is the state of these rules. It is pure, and guarded by group.mu.
type copyPace struct {
	most, least int64 // bytes a second; most 0: no ceiling
	roof        int64 // of the window, in bytes
	limit       int64 // the queue up to which the minimum counts, in bytes

	window  int64
	wanted  bool // the copier has waited for the window
	mostAt  time.Duration
	leastAt time.Duration
	restTo  time.Duration
	busyTo  time.Duration

	probe   wire.Seq // an update whose way is measured, 0 for none
	probeAt time.Duration
	quick   time.Duration // the shortest time that one took
	quickAt time.Duration // when it was measured
	saved   int64         // the window before it was made small to measure quick anew, 0 while it is not
}

func newCopyPace(l *Limits) copyPace {
	roof := max(l.PaceMark/2, 1)
	return copyPace{most: l.CopyRate, least: l.CopyLeast, roof: roof, limit: (l.PaceMark + l.QueueLimit) / 2, window: min(copyPiece, roof)}
}

// turn says whether a piece of n bytes may go at a load, and otherwise when to ask again: after wait and, where onLoad says
// so, when the load has changed.
func (p *copyPace) turn(now time.Duration, load, n int64) (wait time.Duration, onLoad bool) {
	if now < p.mostAt {
		return p.mostAt - now, false
	}
	wait = time.Hour
	if load+n <= p.limit {
		if now >= p.leastAt {
			return 0, false
		}
		wait = p.leastAt - now
	}
	if load > p.window {
		p.wanted = true
		return wait, true
	}
	return max(min(wait, p.restTo-now), 0), false
}

// goes notes that a piece of n bytes goes.
func (p *copyPace) goes(now time.Duration, n int64) {
	if p.most > 0 {
		p.mostAt = max(now, p.mostAt) + perSecond(n, p.most)
	}
	p.leastAt = now + perSecond(n, p.least)
}

// perSecond returns how long n bytes take at a rate.
func perSecond(n, rate int64) time.Duration {
	return time.Duration(float64(n) / float64(rate) * float64(time.Second))
}

// took notes how long the source was busy with a piece, and whether the application asked for something meanwhile.
func (p *copyPace) took(now, d time.Duration, busy bool) {
	if busy {
		p.restTo = now + min(restTimes*d, restMax)
		p.busyTo = now + busyFor
	}
}

// numbered begins a measurement with a piece, unless one is under way.
func (p *copyPace) numbered(now time.Duration, seq wire.Seq) {
	if p.probe == 0 {
		p.probe, p.probeAt = seq, now
	}
}

// held ends a measurement and sets the window by it.
func (p *copyPace) held(now time.Duration, upTo wire.Seq) {
	if p.probe == 0 || upTo < p.probe {
		return
	}
	d := now - p.probeAt
	p.probe = 0
	switch {
	case p.saved != 0:
		p.window, p.saved = p.saved, 0
		p.quick, p.quickAt = d, now
	case d <= p.quick || p.quickAt == 0:
		p.quick, p.quickAt = d, max(now, 1)
	case now-p.quickAt > quickFor:
		p.window, p.saved = min(copyPiece, p.roof), p.window
		return
	}
	aim := idleDelay
	if now < p.busyTo {
		aim = busyDelay
	}
	switch {
	case d > max(aim, 2*p.quick):
		p.window = max(p.window*3/4, min(copyPiece, p.roof))
	case p.wanted:
		p.window = min(p.window+max(copyPiece, p.window/4), p.roof)
	}
	p.wanted = false
}

// renew forgets what belongs to an incarnation.
func (p *copyPace) renew() {
	p.probe = 0
	if p.saved != 0 {
		p.window, p.saved = p.saved, 0
	}
}

// awaitTurn waits until a piece of n bytes may go. No range is held.
func (g *group) awaitTurn(ctx context.Context, n int64) error {
	var changed <-chan struct{}
	for {
		now := g.p.loop.Now()
		g.mu.Lock()
		wait, onLoad := g.tempo.turn(now, g.load.Load(), n)
		if wait == 0 {
			g.tempo.goes(now, n)
		}
		g.mu.Unlock()
		switch {
		case wait == 0 && ctx.Err() != nil:
			return errStopped
		case wait == 0:
			return nil
		case onLoad && changed == nil:
			changed = g.changed.wait() // it must be older than the look at the load
			continue
		case !onLoad:
			changed = nil
		}
		t := time.NewTimer(wait)
		select {
		case <-changed:
			changed = nil
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return errStopped
		}
		t.Stop()
	}
}
