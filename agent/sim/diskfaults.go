package sim

import (
	"errors"
	"math/rand/v2"
	"time"

	"flotilla/agent/core"
	"flotilla/wire"
)

var (
	errFull    = errors.New("the journal is full")
	errJournal = errors.New("the journal is lost")
	errDevice  = errors.New("input/output error")
)

// strikeDisk lets a fault of disks hit a host, and reports whether it did.
func (w *World) strikeDisk(h *host, k kind, r *rand.Rand) bool {
	switch k {
	case slowDisk:
		h.diskUntil, h.diskFactor = w.now+span(r, 100*time.Millisecond, 3*time.Second), 5+r.IntN(35)
		h.journalSlow = r.IntN(2) == 0
		w.trace("the disks of host %d are %d times as slow until %v, only the journal's: %v", h.id, h.diskFactor, h.diskUntil, h.journalSlow)
	case sourceFails, targetFails:
		h.brokenUntil = w.now + span(r, 20*time.Millisecond, 2*time.Second)
		w.trace("the devices of host %d fail until %v", h.id, h.brokenUntil)
	case journalFails:
		h.journal.failing = true
		w.trace("the next flush of the journal of host %d fails", h.id)
	case journalRots:
		n := 0
		for _, rec := range h.journal.records() {
			if rec.durable && r.IntN(2) == 0 {
				h.journal.rot(rec)
				n++
			}
		}
		w.trace("%d frames rot in the journal of host %d", n, h.id)
		w.unreadable()
		if n > 0 && r.IntN(2) == 0 { // it is found at the next start
			w.stats.Kills++
			h.kill(false)
			w.restartAfter(h, span(r, 20*time.Millisecond, time.Second))
		}
		return n > 0
	}
	return true
}

// disk draws how long something takes on the host's disks.
func (h *host) disk(lo, hi time.Duration) time.Duration {
	return h.slowed(h.w.between(lo, hi), !h.journalSlow)
}

// journalDisk draws how long something takes on the disk of the host's journal.
func (h *host) journalDisk(lo, hi time.Duration) time.Duration {
	return h.slowed(h.w.between(lo, hi), true)
}

func (h *host) slowed(d time.Duration, slow bool) time.Duration {
	if slow && h.w.now < h.diskUntil {
		d *= time.Duration(h.diskFactor)
	}
	return d
}

// broken reports whether a call of the host's devices fails: every other one does while they are bad.
func (h *host) broken() bool { return h.w.now < h.brokenUntil && h.w.chance(0.5) }

// loseJournal makes the component declare itself lost, as one does that met a failed write or a damaged frame: it says
// nothing of what it holds and takes nothing until its life is over.
func (h *host) loseJournal(why string) {
	w := h.w
	if h.journal.lost {
		return
	}
	w.trace("host %d has lost its journal: %s", h.id, why)
	w.stats.JournalsLost++
	if st := w.newest(); !w.othersWell(h) || st.Settled != st.View || len(st.Eligible()) < 2 {
		w.excuse()
	}
	h.journal.lost, h.journal.failing = true, false
	w.unreadable()
	h.node.SetJournalLost(true)
}

// read returns a frame of the journal, or nil: because it is not there, which fails the run, or because it, or the whole
// journal, is damaged.
func (h *host) read(ref uint64, what string) *record {
	if h.journal.lost {
		return nil
	}
	rec := h.journal.find(ref)
	switch {
	case rec == nil:
		h.w.fail("host %d is to %s record %d, which its journal does not hold", h.id, what, ref)
	case rec.rotten:
		h.loseJournal("a frame is damaged")
		return nil
	}
	return rec
}

// failSource ends a write that the source refused: what the range holds is not known, so it is copied as it is.
func (h *host) failSource(v *volume, first int, values []uint64, off, length int64, done func(error)) {
	w := h.w
	w.stats.SourceErrors++
	for i, x := range values {
		if w.chance(0.5) {
			v.dev.write(first+i, x)
		}
	}
	w.oracle.unnumbered(v.id, first, v.dev.now[first:first+len(values)])
	v.ext.Dirtied(off, length)
	if v.group.openSeen != 0 {
		v.group.resynced()
	}
	for b := first; b < first+len(values); b++ {
		delete(v.locked, b)
	}
	h.do(func(*core.Node) {})
	done(errDevice)
}

// failTarget ends a request to a target that fails: a part is written, and a flush that fails drops what was written
// since the last one, of other requests too.
func (h *host) failTarget(vol wire.VolumeID, flush bool) {
	h.w.stats.TargetErrors++
	if flush {
		h.targets[vol].powerCut(h.w.rng)
		h.openTarget(vol)
	}
}
