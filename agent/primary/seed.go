package primary

import (
	"cmp"
	"slices"
	"time"

	"flotilla/agent/core"
	"flotilla/wire"
)

// A seeded volume's target was filled by hand before the volume was made: its first copy compares before it copies. The
// checker asks for each extent that is to be copied, as it does in a check; one whose pieces are all the same counts as
// copied, unless a write failed in it meanwhile. When all have their answer the copier takes what is left. Only a first
// copy is compared: its sets are applied as they come, while those of a resync wait until it is whole.

// seedTries is how often a piece is asked before it is copied without an answer.
const seedTries = 3

// seedJob is the comparison of one volume for one incarnation. It is guarded by group.mu.
type seedJob struct {
	v       *volume
	inc     wire.Incarnation
	extent  int   // that is being taken, -1 for none
	pos     int64 // in it
	end     int64 // of it
	next    int   // extents before it were taken
	done    bool  // there is no further extent
	flying  map[wire.Seq]checkItem
	again   []checkItem
	asking  int
	extents map[int]*seedExtent // taken, and not decided
	same    int64               // bytes
	differ  int64
	sweepAt time.Duration
}

// seedExtent is an extent some of whose pieces have no answer yet.
type seedExtent struct {
	length int64
	left   int64 // bytes without an answer
	set    wire.Set
	bad    bool // it is to be copied
}

// followSeedsLocked begins and ends comparisons; seeds are the seeded volumes whose first copy is not whole. It reports
// the events, and whether something is to be told of the copies.
func (g *group) followSeedsLocked(seeds []wire.VolumeID, answers []core.Checked, now time.Duration) (events []core.Event, tell bool) {
	for _, v := range g.volumes {
		if v.seed != nil && (v.seed.inc != v.inc || v.ctx.Err() != nil) {
			v.seed = nil
		}
		if v.seed == nil && v.inc != 0 && v.seededInc != v.inc && !v.whole && slices.Contains(seeds, v.id) {
			v.seededInc = v.inc
			v.seed = &seedJob{v: v, inc: v.inc, extent: -1, flying: map[wire.Seq]checkItem{}, extents: map[int]*seedExtent{}}
			events = append(events, core.Event{Name: "copy.comparing", Attrs: []any{"volume", v.name, "incarnation", v.inc, "bytes", v.run.total}})
		}
		if j := v.seed; j != nil {
			j.take(g, answers, now)
			tell = tell || now-g.toldAt >= tellEvery
			if j.over() {
				v.seed = nil
				events = append(events, core.Event{Name: "copy.compared", Attrs: []any{"volume", v.name, "incarnation", v.inc, "same_bytes", j.same, "differing_bytes", j.differ}})
			}
		}
	}
	return events, tell
}

// take takes verdicts, and looks for those that do not come.
func (j *seedJob) take(g *group, answers []core.Checked, now time.Duration) {
	for i := range answers {
		if answers[i].Inc != j.inc || answers[i].Volume != j.v.id {
			continue
		}
		for _, res := range answers[i].Results {
			it, ok := j.flying[res.Seq]
			if !ok {
				continue
			}
			delete(j.flying, res.Seq)
			switch res.Verdict {
			case core.CheckSame, core.CheckDiffers, core.CheckUnreadable:
				j.decide(&it, res.Verdict == core.CheckSame, res.Seq)
			default:
				j.retry(it, now)
			}
		}
	}
	if now < j.sweepAt {
		return
	}
	j.sweepAt = now + sweepEvery
	for seq, it := range j.flying {
		switch {
		case it.set > g.view.Applied:
		case it.overdue == 0:
			it.overdue = now + checkAnswer
			j.flying[seq] = it
		case now >= it.overdue:
			delete(j.flying, seq)
			j.retry(it, now)
		}
	}
}

func (j *seedJob) retry(it checkItem, now time.Duration) {
	if it.tries++; it.tries >= seedTries {
		j.decide(&it, false, 0)
		return
	}
	it.after = now + time.Duration(it.tries)*100*time.Millisecond
	j.again = append(j.again, it)
}

// decide notes what a piece came to; with the last one its extent is done.
func (j *seedJob) decide(it *checkItem, same bool, seq wire.Seq) {
	e := j.extents[it.extent]
	e.left -= it.length
	e.bad = e.bad || !same
	e.set = max(e.set, it.set)
	j.v.wholeSeq = max(j.v.wholeSeq, seq)
	if e.left > 0 {
		return
	}
	delete(j.extents, it.extent)
	if !e.bad && j.v.marks.same(it.extent, e.set) {
		j.same += e.length
	} else {
		j.differ += e.length
	}
}

// asked takes a piece back from the checker.
func (j *seedJob) asked(it checkItem, at placed, seq wire.Seq, err error, now time.Duration) {
	j.asking--
	if err != nil { // of another incarnation, of a source that can not be read: the copier will see
		it.tries = seedTries
		j.retry(it, now)
		return
	}
	it.set, it.overdue = at.set, 0
	j.flying[seq] = it
}

// pull returns the next piece to ask for.
func (j *seedJob) pull(now time.Duration) (checkItem, bool) {
	if i := slices.IndexFunc(j.again, func(it checkItem) bool { return it.after <= now }); i >= 0 {
		it := j.again[i]
		j.again = slices.Delete(j.again, i, i+1)
		return it, true
	}
	if len(j.flying)+len(j.again) >= maxChecking {
		return checkItem{}, false
	}
	if j.extent < 0 && !j.done {
		i, off, length, ok := j.v.marks.nextSeed(j.next)
		if j.done = !ok; ok {
			j.extent, j.pos, j.end, j.next = i, off, off+length, i+1
			j.extents[i] = &seedExtent{length: length, left: length}
		}
	}
	if j.extent < 0 {
		return checkItem{}, false
	}
	it := checkItem{v: j.v, seed: j, extent: j.extent, off: j.pos, length: min(checkPiece, j.end-j.pos)}
	if j.pos += it.length; j.pos == j.end {
		j.extent = -1
	}
	return it, true
}

func (j *seedJob) over() bool {
	return j.done && len(j.extents) == 0 && j.asking == 0
}

// nextSeedLocked returns the next piece of a comparison under way.
func (g *group) nextSeedLocked(now time.Duration) (checkItem, bool) {
	var jobs []*seedJob
	for _, v := range g.volumes {
		if v.seed != nil && v.seed.inc == g.view.Inc && v.ctx.Err() == nil {
			jobs = append(jobs, v.seed)
		}
	}
	slices.SortFunc(jobs, func(a, b *seedJob) int { return cmp.Compare(a.v.id, b.v.id) })
	for _, j := range jobs {
		if it, ok := j.pull(now); ok {
			j.asking++
			return it, true
		}
	}
	return checkItem{}, false
}

// nextSeed returns the first extent from index from on that is to be copied, and its range.
func (a *activity) nextSeed(from int) (i int, off, length int64, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i, ok = a.ext.NextToCopy(from); ok {
		off, length = a.ext.Span(i)
	}
	return i, off, length, ok
}

// same ends the copy of an extent whose target is the same, unless a write has failed in it since.
func (a *activity) same(i int, set wire.Set) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ext.Same(i, set)
}
