package core

import "flotilla/wire"

// hotList is the ends of the list of hot extents, -1 while it is empty. An extent is in it while its set is not 0. It moves
// to the newest end when it is written for the first time in a set, so that most writes touch nothing but their own extent.
// The list ascends by set but for writes that overtook each other between their numbering and its end.
type hotList struct{ newest, oldest int32 }

// noHot is never written.
var noHot = hotList{-1, -1}

// heat notes an update of extent i in a set.
func (e *Extents) heat(i int, set wire.Set) {
	x := &e.ext[i]
	if set <= x.set {
		return
	}
	if x.set != 0 {
		e.unlink(i)
	}
	x.set = set
	x.newer, x.older = -1, e.hot.newest
	if x.older >= 0 {
		e.ext[x.older].newer = int32(i)
	} else {
		e.hot.oldest = int32(i)
	}
	e.hot.newest = int32(i)
}

// cool takes an extent out of the list: no update keeps its bit set any more.
func (e *Extents) cool(i int) {
	e.unlink(i)
	x := &e.ext[i]
	if x.cold() {
		e.cold--
	}
	x.set, x.apart = 0, false
}

func (e *Extents) unlink(i int) {
	x := &e.ext[i]
	if x.newer >= 0 {
		e.ext[x.newer].older = x.older
	} else {
		e.hot.newest = x.older
	}
	if x.older >= 0 {
		e.ext[x.older].newer = x.newer
	} else {
		e.hot.oldest = x.newer
	}
}
