package primary

import (
	"cmp"
	"slices"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// A check compares a group's targets with its sources while both are in use. The replicated state says what is to be
// checked; each primary does its own volumes, piece by piece:
//
//  1. The checker (checker.go) reads a piece under the lock of its range and numbers its digest like a write, an update
//     of kind check: so the digest is of exactly the state at its seq. It takes no piece of an extent that is to be copied,
//     for there the target may differ, and asks for nothing while a copy is under way.
//  2. The update passes as a write does. The secondary compares at its place in its set, and sends the verdict here.
//  3. What differs is listed. To repair it, its extents are marked durably and left to the copier, as what a failed write
//     leaves is; then the piece is checked again.
//
// What gets no answer is asked again: verdicts are messages that may be lost, incarnations end, and of a set that is
// applied again a secondary may not know. Only a verdict of the present incarnation counts. A piece without an answer
// after checkTries is counted as unknown.
const (
	// checkPiece is the range of one check, in bytes: a multiple of no portion's border.
	checkPiece = 256 << 10
	// maxChecking bounds the pieces that wait for an answer, which comes with the application of their set.
	maxChecking = 1 << 15
	checkTries  = 16
	// checkRepairs is how often a piece is repaired that goes on to differ.
	checkRepairs = 3
	// checkAnswer is how long after the application of its set a piece waits for its verdict.
	checkAnswer = 2 * time.Second
	// sweepEvery is how often the pieces that wait are walked.
	sweepEvery = 500 * time.Millisecond
	endEvery   = time.Second
)

// checkOrder is what the state asks of this primary; number is 0 for nothing.
type checkOrder struct {
	number uint64
	only   wire.VolumeID // 0 for all
	repair bool
	rate   int64 // bytes a second
}

func checkOrderOf(g *cluster.Group, self wire.AgentID) checkOrder {
	c := g.CheckFor(self)
	if c == nil {
		return checkOrder{}
	}
	return checkOrder{number: c.Number, only: c.Volume, repair: c.Repair, rate: c.Rate}
}

// checkItem is a piece on its way through a check.
type checkItem struct {
	v           *volume
	inc         wire.Incarnation // for which it is asked
	off, length int64
	set         wire.Set      // in which it was asked last
	after       time.Duration // not to be asked before
	overdue     time.Duration // without an answer from then on, 0 while its set is not applied
	tries       int
	repairs     int
	found       bool     // it differed
	seed        *seedJob // that it is of, and not of a check; extent is the one that it is in
	extent      int
	mend        bool     // it is to be marked before it is asked again
	copied      wire.Set // it is asked again when this set is applied; unknownSet while it is to be copied
}

// unknownSet is no set that there ever is.
const unknownSet = ^wire.Set(0)

// checkJob is this primary's part in one check. It is guarded by group.mu.
type checkJob struct {
	order   checkOrder
	began   time.Duration
	cursors []checkCursor
	inc     wire.Incarnation
	flying  map[wire.Seq]checkItem // asked in inc
	again   []checkItem            // to be asked
	mends   []checkItem            // to be marked, and then asked
	asking  int                    // in the checker's hands
	tally   cluster.CheckTally
	ended   bool
	sweepAt time.Duration
	tellAt  time.Duration
	endAt   time.Duration
	tenth   int64 // of the whole that was last told
}

// checkCursor is how far one volume was taken.
type checkCursor struct {
	v    *volume
	next int64
	end  int64
}

// checkReport is what is to be told once group.mu is free.
type checkReport struct {
	events   []core.Event
	progress *core.CheckProgress
	gone     bool // there is no job any more
	end      *cluster.EndCheck
}

func (r *checkReport) event(name string, attrs ...any) {
	r.events = append(r.events, core.Event{Name: name, Attrs: attrs})
}

// followCheckLocked follows what the state asks for and takes what secondaries have found.
func (g *group) followCheckLocked(order checkOrder, answers []core.Checked, now time.Duration) (r checkReport) {
	j := g.check
	if j != nil && j.order.number != order.number {
		g.check, j, r.gone = nil, nil, true
	}
	if j == nil && order.number != 0 && g.added {
		j = g.newCheckLocked(order, now)
		g.check = j
		r.event("check.started", "check", order.number, "bytes", j.tally.Total, "repair", order.repair)
	}
	if j == nil {
		return r
	}
	if j.inc != g.view.Inc {
		for _, it := range j.flying {
			j.again = append(j.again, it)
		}
		clear(j.flying)
		for i := range j.again {
			if it := &j.again[i]; it.copied != 0 {
				it.copied = unknownSet // the copy may have gone with its incarnation: then the extents are copied again
			}
		}
		j.inc = g.view.Inc
	}
	for i := range answers {
		for _, res := range answers[i].Results {
			if it, ok := j.flying[res.Seq]; ok && answers[i].Inc == j.inc && answers[i].Volume == it.v.id {
				delete(j.flying, res.Seq)
				j.answered(it, res.Verdict, now, &r)
			}
		}
	}
	if now >= j.sweepAt {
		j.sweepAt = now + sweepEvery
		j.sweep(g.view.Applied, now)
	}
	j.tell(g, now, &r)
	return r
}

// newCheckLocked begins a check. All volumes of the group are open.
func (g *group) newCheckLocked(order checkOrder, now time.Duration) *checkJob {
	order.rate = cmp.Or(order.rate, g.p.limits.CheckRate)
	j := &checkJob{order: order, began: now, inc: g.view.Inc, flying: map[wire.Seq]checkItem{}}
	for _, v := range g.volumes {
		if order.only == 0 || order.only == v.id {
			c := checkCursor{v: v, end: v.size()} // what it grows by later is left to the next check
			j.cursors = append(j.cursors, c)
			j.tally.Total += c.end
		}
	}
	slices.SortFunc(j.cursors, func(a, b checkCursor) int { return cmp.Compare(a.v.id, b.v.id) })
	return j
}

// answered takes the verdict on a piece.
func (j *checkJob) answered(it checkItem, verdict core.CheckVerdict, now time.Duration, r *checkReport) {
	switch verdict {
	case core.CheckSame:
		j.tally.Done += it.length
		if it.found {
			j.tally.Repaired += it.length
			j.mark(&it)
			r.event("check.repaired", "check", j.order.number, "volume", it.v.name, "offset", it.off, "length", it.length)
		}
	case core.CheckDiffers, core.CheckUnreadable:
		if !it.found {
			it.found = true
			j.find(&it, verdict, r)
		}
		if !j.order.repair || it.repairs == checkRepairs {
			j.tally.Done += it.length
			return
		}
		it.repairs++
		it.mend = true
		j.mends = append(j.mends, it)
	default:
		j.retry(it, now)
	}
}

// find lists a piece that differs.
func (j *checkJob) find(it *checkItem, verdict core.CheckVerdict, r *checkReport) {
	j.tally.Differing += it.length
	if len(j.tally.Found) == cluster.MaxCheckFound {
		return // counted, and not named
	}
	j.tally.Found = append(j.tally.Found, cluster.CheckFound{
		Volume: it.v.id, Offset: uint64(it.off), Length: uint64(it.length), Set: it.set, Unreadable: verdict == core.CheckUnreadable,
	})
	r.event("check.differs", "check", j.order.number, "volume", it.v.name, "offset", it.off, "length", it.length, "set", it.set,
		"verdict", verdict.String())
}

// mark notes in the list that a piece was repaired. Lists that were told are not changed.
func (j *checkJob) mark(it *checkItem) {
	j.tally.Found = slices.Clone(j.tally.Found)
	for i := range j.tally.Found {
		if f := &j.tally.Found[i]; f.Volume == it.v.id && f.Offset == uint64(it.off) {
			f.Repaired = true
		}
	}
}

// retry has a piece asked again, or gives it up.
func (j *checkJob) retry(it checkItem, now time.Duration) {
	if it.tries++; it.tries >= checkTries {
		j.tally.Unknown += it.length
		j.tally.Done += it.length
		return
	}
	it.after = now + time.Duration(it.tries)*100*time.Millisecond
	j.again = append(j.again, it)
}

// sweep looks for pieces whose answer does not come, and forgets volumes that are closed.
func (j *checkJob) sweep(applied wire.Set, now time.Duration) {
	gone := func(it checkItem) bool {
		if it.v.ctx.Err() != nil {
			j.tally.Total -= it.length
			return true
		}
		return false
	}
	for i := range j.cursors {
		if c := &j.cursors[i]; c.v.ctx.Err() != nil {
			j.tally.Total -= c.end - c.next
			c.next = c.end
		}
	}
	j.again, j.mends = slices.DeleteFunc(j.again, gone), slices.DeleteFunc(j.mends, gone)
	for seq, it := range j.flying {
		switch {
		case gone(it):
			delete(j.flying, seq)
		case it.set > applied:
		case it.overdue == 0:
			it.overdue = now + checkAnswer
			j.flying[seq] = it
		case now >= it.overdue:
			delete(j.flying, seq)
			j.retry(it, now)
		}
	}
}

// over reports whether every piece has its answer.
func (j *checkJob) over() bool {
	return len(j.flying) == 0 && len(j.again) == 0 && len(j.mends) == 0 && j.asking == 0 &&
		!slices.ContainsFunc(j.cursors, func(c checkCursor) bool { return c.next < c.end })
}

// tell says how far the check is.
func (j *checkJob) tell(g *group, now time.Duration, r *checkReport) {
	t := &j.tally
	if !j.ended && j.over() {
		j.ended, j.tellAt = true, 0
		r.event("check.ended", "check", j.order.number, "bytes", t.Done, "differing_bytes", t.Differing, "repaired_bytes", t.Repaired,
			"unknown_bytes", t.Unknown, "seconds", now-j.began)
	}
	if tenth := 10 * t.Done / max(t.Total, 1); tenth > j.tenth && !j.ended {
		j.tenth = tenth
		r.event("check.progress", "check", j.order.number, "percent", 10*tenth, "bytes", t.Done, "of_bytes", t.Total, "differing_bytes", t.Differing)
	}
	if now >= j.tellAt {
		j.tellAt = now + tellEvery
		r.progress = &core.CheckProgress{Number: j.order.number, Tally: *t}
	}
	if j.ended && now >= j.endAt {
		j.endAt = now + endEvery
		r.end = &cluster.EndCheck{Group: g.id, Number: j.order.number, Tally: *t}
	}
}

// tellCheck tells the node and the user. No lock is held.
func (g *group) tellCheck(r *checkReport) {
	for _, e := range r.events {
		g.p.event(g.id, e.Name, e.Attrs...)
	}
	if r.gone || r.progress != nil || r.end != nil {
		g.p.loop.Do(func(n *core.Node, _ time.Duration) {
			if r.gone || r.progress != nil {
				n.SetCheck(g.id, r.progress)
			}
			if r.end != nil {
				r.end.Primary = n.ID()
				n.Propose(cluster.Command{EndCheck: r.end})
			}
		})
	}
}
