package core

import (
	"math"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// Folding. A write that is superseded before it was sent, by an update of the same range in the same set, need not be sent:
// every recovery point that has the first must have the second, too, and then nobody can tell. It stays in the stream as an
// update without data (wire.KindFolded) that keeps its seq, portion and set and names its absorber. So all that counts seqs
// goes on as it was: manifests list it, components hold, mirror, report, repeat and seal it like any other.
//
// Why what is promised stays true:
//
//   - P1. A set's end comes after both of them, because they are of one set. A seal may end within a set: it ends nowhere from
//     a folded update up to its absorber, as it ends not between the pieces of a write. Whoever holds the folded update reports
//     that with it (holding.list), and a prefix that has it in it is dense, so that it was reported. The absorber may be folded
//     itself: its own report then forbids the rest of the way. At any other place both are in the prefix, or neither.
//     Between the two the range may be written in part; the absorber covers all of it. A check in between would compare what
//     the source had then, so nothing is folded across one of the portion.
//   - P2. A seq has one content for ever: what was in a frame once, whatever became of that, is not folded any more, and what is
//     folded stays so. So the copies of a seq are all alike, whoever repeats it. An update without data is dropped by the primary
//     only when it is held, as others are; that its data are gone earlier loses nothing that counts: while its absorber is not
//     held nothing that counts has either of them, and the bits of both are set until their set is applied.
//   - P3. Folding is for async groups. In sync a write is acknowledged when it is held, and promote must find it; a folded one would
//     have to wait for its absorber. Clients there wait themselves before they overwrite.
//
// What it costs: while hot ranges are on their way a seal drops more, at worst back to the end of the set before. On a slow link
// that set may have lasted longer than its period (foldsOn).

// span is a range of a volume.
type span struct {
	volume wire.VolumeID
	offset uint64
	length uint32
}

func spanOf(u *wire.Update) span { return span{u.Volume, u.Offset, u.Length} }

// folding is what of the open set was not sent and may be superseded.
type folding struct {
	on      bool
	unsent  map[span]*item            // the newest update of each range
	checked map[wire.Portion]wire.Seq // the newest check: what lies below it stays
	pending int64                     // folded updates that are not yet known to be held
}

// openFolding begins a set.
func (s *source) openFolding() {
	g := s.n.state.Groups[s.group]
	s.folding.on = g != nil && g.Mode == cluster.Async
	if !s.n.mutant("fold-across-sets") || s.folding.unsent == nil {
		s.folding.unsent = map[span]*item{}
	}
	s.folding.checked = map[wire.Portion]wire.Seq{}
}

// supersede folds what a new update of the open set makes unneeded.
func (s *source) supersede(it *item) {
	f := &s.folding
	if !f.on {
		return
	}
	switch it.u.Kind {
	case wire.KindCheck:
		f.checked[it.u.PortionID()] = it.u.Seq
		return
	case wire.KindWrite, wire.KindZero, wire.KindTrim:
	default:
		return
	}
	key := spanOf(&it.u)
	if old := f.unsent[key]; old != nil && old.u.Kind == wire.KindWrite && old.u.Seq > f.checked[old.u.PortionID()] &&
		it.u.Seq-old.u.Seq <= math.MaxUint32 {
		s.absorb(old, it)
	}
	f.unsent[key] = it
}

// absorb takes the data out of an update that was never sent.
func (s *source) absorb(old, by *item) {
	n := old.size()
	s.release(old)
	old.u.Kind, old.u.Data, old.u.Into = wire.KindFolded, nil, uint32(by.u.Seq-old.u.Seq)
	if s.n.mutant("fold-unbound") {
		old.u.Into = 1
	}
	s.queued -= n
	s.setBytes -= n
	s.traffic.Folded += n
	s.setFolded += n
	s.folding.pending++
}

// foldStretch is for how many periods a set may stay open for the sake of folding.
const foldStretch = 4

// foldsOn reports whether the open set is better not closed at the end of its period: something of the sets before it is still to be
// sent, so it cannot be held yet, and a third of what is written into it is superseded, which ends where it ends.
func (s *source) foldsOn(period time.Duration) bool {
	if 2*s.setFolded < s.setBytes || s.n.now-s.openedAt >= foldStretch*period {
		return false
	}
	for _, q := range s.queues {
		if q[0].set < s.open {
			return s.setFolded > 0
		}
	}
	return false
}

// sending ends what may happen to an update before it is sent.
func (s *source) sending(it *item) {
	key := spanOf(&it.u)
	if s.folding.unsent[key] == it && !s.n.mutant("fold-sent") {
		delete(s.folding.unsent, key)
	}
}
