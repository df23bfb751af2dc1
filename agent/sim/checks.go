package sim

import (
	"errors"
	"math/rand/v2"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// checkJob is a primary's part in a check of its group, as its shell does it: see agent/primary/check.go. A piece is an
// extent. What is asked is real updates through the real cores; compare.go has the owner's and the secondary's part.
type checkJob struct {
	number  uint64
	repair  bool
	inc     wire.Incarnation
	pieces  []*checkPiece
	left    int  // pieces without a verdict
	asking  bool // a piece is in the checker's hands
	sweepAt time.Duration
	endAt   time.Duration
	judged  bool
	began   uint64 // damage with a number up to this one was there when it began
	tally   cluster.CheckTally
}

// checkPiece is one piece on its way.
type checkPiece struct {
	v            *volume
	first, count int // blocks
	state        checkState
	seq          wire.Seq
	set          wire.Set
	after        time.Duration // not to be asked before
	overdue      time.Duration // 0 while its set is not applied
	tries        int
	repairs      int
	found        bool
	unknown      bool
	copied       wire.Set // it is asked again when this set is applied
}

type checkState int

const (
	toAsk    checkState = iota
	asked               // it has a seq
	toMend              // it differed, and is to be marked
	isCopied            // it was marked: it is asked again when the copy has landed
	answered
)

const (
	notCopied   = ^wire.Set(0) // no set that there ever is
	checkTries  = 16
	mendTries   = 3
	checkAnswer = 2 * time.Second
)

func (p *checkPiece) span() (off, length int64) {
	return int64(p.first) * blockSize, int64(p.count) * blockSize
}

// followCheck follows what the state asks for and takes what secondaries have found.
func (s *sourceGroup) followCheck(v core.GroupView) {
	h := s.h
	order := h.node.State().Groups[s.id].CheckFor(h.id)
	if s.check != nil && (order == nil || order.Number != s.check.number) {
		s.check = nil
		h.node.SetCheck(s.id, nil)
	}
	var answers []core.Checked
	if h.node.Unchecked(s.id) {
		answers = h.node.TakeChecked(s.id)
	}
	if order == nil {
		return
	}
	if s.check == nil {
		s.check = s.newCheck(order)
	}
	j, now := s.check, h.time()
	if j.inc != v.Inc {
		for _, p := range j.pieces {
			switch p.state {
			case asked:
				p.state = toAsk
			case isCopied:
				p.copied = notCopied // the copy may have gone with its incarnation: then the extent is copied again
			}
		}
		j.inc = v.Inc
	}
	for i := range answers {
		if answers[i].Inc != j.inc {
			continue
		}
		for _, r := range answers[i].Results {
			for _, p := range j.pieces {
				if p.state == asked && p.seq == r.Seq && p.v.id == answers[i].Volume {
					s.answered(p, r.Verdict)
				}
			}
		}
	}
	if now >= j.sweepAt {
		j.sweepAt = now + 500*time.Millisecond
		j.sweep(v.Applied, now)
		h.node.SetCheck(s.id, &core.CheckProgress{Number: j.number, Tally: j.tally})
	}
	if j.left == 0 {
		s.endCheck(now)
	}
	s.scheduleAsk()
}

func (s *sourceGroup) newCheck(order *cluster.Check) *checkJob {
	j := &checkJob{number: order.Number, repair: order.Repair, began: s.h.w.damages}
	for _, v := range s.vols {
		if order.Volume != 0 && order.Volume != v.id {
			continue
		}
		for i := range v.ext.Len() {
			off, length := v.ext.Span(i)
			j.pieces = append(j.pieces, &checkPiece{v: v, first: int(off / blockSize), count: int(length / blockSize)})
			j.tally.Total += length
		}
	}
	j.left = len(j.pieces)
	s.h.w.trace("host %d begins check %d of group %d: %d pieces, repair %v", s.h.id, j.number, s.id, j.left, j.repair)
	return j
}

// done ends a piece.
func (j *checkJob) done(p *checkPiece) {
	_, length := p.span()
	p.state = answered
	j.tally.Done += length
	j.left--
}

func (j *checkJob) retry(p *checkPiece, now time.Duration) {
	p.state = toAsk
	if p.tries++; p.tries < checkTries {
		p.after = now + time.Duration(p.tries)*100*time.Millisecond
		return
	}
	_, length := p.span()
	p.unknown = true
	j.tally.Unknown += length
	j.done(p)
}

// sweep looks for pieces whose answer does not come.
func (j *checkJob) sweep(applied wire.Set, now time.Duration) {
	for _, p := range j.pieces {
		switch {
		case p.state != asked || p.set > applied:
		case p.overdue == 0:
			p.overdue = now + checkAnswer
		case now >= p.overdue:
			j.retry(p, now)
		}
	}
}

// answered takes the verdict on a piece.
func (s *sourceGroup) answered(p *checkPiece, verdict core.CheckVerdict) {
	w, j := s.h.w, s.check
	off, length := p.span()
	w.oracle.judgeVerdict(s, p, verdict)
	switch verdict {
	case core.CheckSame:
		w.stats.Compared++
		if p.found {
			j.tally.Repaired += length
			for i := range j.tally.Found {
				if f := &j.tally.Found[i]; f.Volume == p.v.id && f.Offset == uint64(off) {
					f.Repaired = true
				}
			}
			w.stats.Mended++
		}
		j.done(p)
	case core.CheckDiffers, core.CheckUnreadable:
		if !p.found {
			p.found = true
			w.stats.Differed++
			w.trace("check %d: blocks %d to %d of volume %d: %v", j.number, p.first, p.first+p.count-1, p.v.id, verdict)
			j.tally.Differing += length
			if len(j.tally.Found) < cluster.MaxCheckFound {
				j.tally.Found = append(j.tally.Found, cluster.CheckFound{
					Volume: p.v.id, Offset: uint64(off), Length: uint64(length), Set: p.set, Unreadable: verdict == core.CheckUnreadable,
				})
			}
		}
		if !j.repair || p.repairs == mendTries {
			j.done(p)
			return
		}
		p.repairs++
		p.state = toMend
	default:
		j.retry(p, s.h.time())
	}
}

// endCheck has it recorded that this primary has done its part.
func (s *sourceGroup) endCheck(now time.Duration) {
	j := s.check
	if !j.judged {
		j.judged = true
		s.h.w.oracle.judgeCheck(s, j)
		s.h.w.stats.ChecksEnded++
	}
	if now >= j.endAt {
		j.endAt = now + time.Second
		t := j.tally
		s.h.node.Propose(cluster.Command{EndCheck: &cluster.EndCheck{Group: s.id, Number: j.number, Primary: s.h.id, Tally: t}})
	}
}

// ready reports whether something may be done for a piece now.
func (s *sourceGroup) ready(p *checkPiece, applied wire.Set) bool {
	if !p.v.whole || p.after > s.h.time() {
		return false
	}
	off, length := p.span()
	switch p.state {
	case toAsk, toMend:
		return true
	case isCopied:
		if p.copied == notCopied && !p.v.ext.Behind(off, length) {
			p.copied = p.v.ext.Newest(off, length)
		}
		return p.copied <= applied
	}
	return false
}

// scheduleAsk takes a piece at a time.
func (s *sourceGroup) scheduleAsk() {
	h, j := s.h, s.check
	if j.asking || j.left == 0 || j.inc == 0 || s.openSeen == 0 {
		return
	}
	v, _ := h.node.View(s.id)
	for _, p := range j.pieces {
		if !s.ready(p, v.Applied) {
			continue
		}
		j.asking = true
		alive := h.alive()
		h.w.after(h.w.between(0, 3*time.Millisecond), "check piece", func() {
			j.asking = false
			if alive() && s.may(j, p) {
				s.take(p)
				h.do(func(*core.Node) {})
			}
		})
		return
	}
}

// may reports whether a piece may be asked for now.
func (s *sourceGroup) may(j *checkJob, p *checkPiece) bool {
	return s.check == j && s.openSeen != 0 && s.inc == j.inc && p.v.whole
}

// take reads a piece to ask for it, or marks it to be copied.
func (s *sourceGroup) take(p *checkPiece) {
	h := s.h
	now := h.time()
	off, length := p.span()
	for b := p.first; b < p.first+p.count; b++ {
		if p.v.locked[b] && (p.state == toMend || !h.w.opt.Mutants["check-unlocked"]) {
			p.after = now + time.Millisecond // a write is under way: the range lock makes the check wait
			return
		}
	}
	if p.state == toMend {
		s.mend(p)
		return
	}
	switch {
	case p.v.ext.Behind(off, length):
		p.after, p.state = now+100*time.Millisecond, toAsk
		return
	case h.broken():
		s.check.retry(p, now)
		p.after = now + time.Second
		return
	}
	j, alive := s.check, h.alive()
	digest := wire.Digest(encodeBlocks(p.v.dev.now[p.first : p.first+p.count]))
	unlock := func() {}
	if !h.w.opt.Mutants["check-unlocked"] {
		unlock = p.lock()
	}
	j.asking = true
	h.w.after(h.disk(0, 2*time.Millisecond), "check read", func() {
		j.asking = false
		if !alive() {
			return
		}
		if s.may(j, p) {
			s.ask(p, digest)
		}
		unlock()
		h.do(func(*core.Node) {})
	})
}

// lock keeps writes away from a piece.
func (p *checkPiece) lock() (unlock func()) {
	for b := p.first; b < p.first+p.count; b++ {
		p.v.locked[b] = true
	}
	return func() {
		for b := p.first; b < p.first+p.count; b++ {
			delete(p.v.locked, b)
		}
	}
}

// ask numbers the digest of a piece.
func (s *sourceGroup) ask(p *checkPiece, digest [wire.DigestLength]byte) {
	h, now := s.h, s.h.time()
	off, length := p.span()
	_, seq, err := s.submit([]wire.Update{{
		Volume: p.v.id, Portion: uint32(off / portionSize), Kind: wire.KindCheck, Offset: uint64(off), Length: uint32(length), Data: digest[:],
	}})
	if err != nil {
		p.after = now + 100*time.Millisecond
		if errors.Is(err, core.ErrPaused) {
			p.after = now + time.Millisecond
		}
		return
	}
	v, _ := h.node.View(s.id)
	p.state, p.seq, p.set, p.overdue = asked, seq, v.Open, 0
}

// mend marks a piece durably, and leaves it to the copier.
func (s *sourceGroup) mend(p *checkPiece) {
	h := s.h
	off, length := p.span()
	p.state, p.copied = isCopied, notCopied
	if h.w.opt.Mutants["mend-without-copy"] {
		return
	}
	unlock, alive := p.lock(), h.alive()
	mark := func() {
		if !alive() {
			return
		}
		p.v.ext.Dirtied(off, length)
		unlock()
		if s.openSeen != 0 {
			s.resynced()
		}
		h.do(func(*core.Node) {})
	}
	if p.v.ext.Touch(off, length) {
		h.saveBits(mark)
	} else {
		mark()
	}
}

// startCheck has the operator check a group, or one volume of it, and perhaps repair what differs.
func (w *World) startCheck(r *rand.Rand) bool {
	o := w.oracle.groups[w.drawGroup(r)]
	g := o.now()
	c := &cluster.StartCheck{Group: o.id, Repair: r.IntN(2) == 0, Label: int64(w.now)}
	if ids := cluster.SortedKeys(g.Volumes); r.IntN(3) == 0 {
		c.Volume = ids[r.IntN(len(ids))]
	}
	w.checks = true
	return g.Phase == cluster.Replicating && w.ask(func(n *core.Node) {
		w.trace("asked of %d: check %+v", n.ID(), *c)
		n.Propose(cluster.Command{StartCheck: c})
	})
}

// checksWithin is how long after the last fault a check may take: a repair waits for the application of every set before it,
// and where messages are slow that goes hardly faster than sets are made.
const checksWithin = 30 * time.Second

// stopChecks has the operator stop, in peace, what takes longer.
func (w *World) stopChecks() {
	if !w.checks {
		return
	}
	var stop func()
	stop = func() {
		for _, o := range w.oracle.groups {
			if o.now().Checking() {
				w.stats.ChecksStopped++
				w.ask(func(n *core.Node) { n.Propose(cluster.Command{StopCheck: &cluster.StopCheck{Group: o.id}}) })
			}
		}
		w.after(time.Second, "operator stops checks", stop)
	}
	w.after(checksWithin, "operator stops checks", stop)
}
