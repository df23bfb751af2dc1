package core

import "flotilla/wire"

// What a resync has copied need not be copied again when its incarnation ends before the resync is whole. Nothing of its
// chain is applied by then, so the extents' bits are set. Beside the bit an extent can be *kept*: what was copied of it is in
// a set that counts, and it was not written since.
//
//	keep:   Keepable (candidates) … flush the source … Keep (make them durable when the caller likes)
//	write:  Touch (it is not kept any more: made durable before the source is written, as a bit is)
//	resume: Resume (a new incarnation copies what is set and not kept)
//
// The caller notes with each what it is kept for: the incarnation that copied it, I, and the newest set of I that was held
// then, h. It counts in a later incarnation, J, only if the replicated state says then that everything which I wrote up to
// the end of h is on the targets or on its way there (cluster.Group.Kept). Why the chain is what the source was, where J has
// finished it (P1):
//
//   - An extent kept for (I, h) was copied in I in a set c ≤ h, and no write has touched it since: it is cold (no write
//     between Touch and Numbered when the copy ended, none in a set of I before), and Touch takes that away. A write that
//     was refused by the source, or found no incarnation, has touched it as well. So the source still holds what the copy
//     read, and the last update of the extent in the stream is the copy's: writes before it have lower seqs in I or went
//     to no set, and incarnations after I have no update of it but those of writes that came after Touch.
//   - The source holds it durably, too: a power cut may take back what the copier has read and the source had not flushed.
//     Keep comes after a flush that began when the copy had ended, and looks again whether a write has come in between.
//   - Seals are prefixes. The copy and all before it in I count if I's seal is not below the end of h, as is recorded. What
//     was held may be gone (a double loss): then the seal is lower, and nothing is kept. Held writes may be cut off that a
//     folded update has to stay together with: never in a closed set, for no update is folded across its end. What I
//     wrote above its seal is dropped; it touched its extents, which are not kept.
//   - Sets are applied in order, and J's come after all of I's. A point in which J is whole is committed with all sets
//     before it, I's up to its seal among them, and no set between the two is a point: in I's the marks say broken, J's say
//     it until nothing is left to be copied. So it is committed and applied with the copy, or given up with it; and what
//     was given up since I was granted its first set keeps nothing. Of a promote see cluster.Group.Taken.
//   - An extent that J finds kept is to J as if it had been copied in J's first set: it is cold, its bit is cleared when
//     that set is applied, which is after I's, and it stays kept for the next incarnation, K. What K finds may be noted as
//     kept for (I, h), because nobody has written there since, or for (J, h'): then J counted on I when it began, I.e. I's
//     seal was recorded and nothing given up since I's grant; and a giving up since then is one since J's grant. So K need
//     look at the newest only.
//   - All this is of one primary and one volume. Sets of other primaries hold no updates of it. Where several primaries
//     write, a chain ends at a cut at which each is whole, as it did before.
//   - In sync mode nothing of I or J is acknowledged before J is whole, and by then all of the chain is committed. What a
//     degraded group acknowledged early in I has touched its extents: J copies them, or I's copy came after the write
//     and has it.
//
// What is kept is only ever a reason to copy less. All doubts (a torn sector, another copy's, a state that does not know I,
// a seal that is not recorded) mean that it is copied.

// Kept reports whether extent i need not be copied again, as it is to be on disk.
func (e *Extents) Kept(i int) bool { return e.kept[i/64]&(1<<(i%64)) != 0 }

// Keeps returns how many extents are kept.
func (e *Extents) Keeps() int { return e.keeps }

// keep sets the note of extent i.
func (e *Extents) keep(i int) {
	if !e.Kept(i) {
		e.kept[i/64] |= 1 << (i % 64)
		e.keeps++
	}
}

// drop takes the note of extent i away, and reports whether there was one.
func (e *Extents) drop(i int) bool {
	if !e.Kept(i) {
		return false
	}
	e.kept[i/64] &^= 1 << (i % 64)
	e.keeps--
	return true
}

// Restore notes an extent as kept that the disk says to be, before the first Resume. Without its bit it is nothing.
func (e *Extents) Restore(i int) {
	if e.ext[i].bit {
		e.keep(i)
	}
}

// Keepable returns the extents that were copied in the sets above one, up to another that is held, not written since, and are
// not kept yet: Keep may follow once the source was flushed.
func (e *Extents) Keepable(above, upTo wire.Set) []int {
	var out []int
	for i := e.hot.newest; i >= 0 && e.ext[i].set > above; i = e.ext[i].older {
		if e.keepable(int(i), upTo) && !e.Kept(int(i)) {
			out = append(out, int(i))
		}
	}
	return out
}

func (e *Extents) keepable(i int, upTo wire.Set) bool {
	x := &e.ext[i]
	return x.bit && x.cold() && !x.dirty && x.pins == 0 && x.set != 0 && x.set <= upTo
}

// Keep notes those of the extents that are still as Keepable found them, and returns them.
func (e *Extents) Keep(extents []int, upTo wire.Set) []int {
	kept := extents[:0]
	for _, i := range extents {
		if e.keepable(i, upTo) {
			e.keep(i)
			kept = append(kept, i)
		}
	}
	return kept
}

// Resume begins the copy of a new incarnation whose open set is the given one: every set bit is to be copied, but for kept
// extents that count. Others are kept no more. It returns the numbers of both; nil stands for none that counts.
func (e *Extents) Resume(open wire.Set, counts func(i int) bool) (toCopy, kept int) {
	e.toCopy, e.aside, e.cold, e.next, e.last, e.copies, e.hot = 0, 0, 0, 0, false, true, noHot
	for i := range e.ext {
		x := &e.ext[i]
		x.copy, x.apart, x.set, x.dirty = x.bit, false, 0, false
		switch {
		case !e.Kept(i):
		case x.bit && counts != nil && counts(i):
			x.copy, x.apart = false, true
			e.cold++
			e.heat(i, open)
		default:
			e.drop(i)
		}
		if x.copy {
			e.toCopy++
		}
	}
	return e.toCopy, e.keeps
}
