package primary

import (
	"fmt"
	"time"
)

// What of a source can not be read is put aside, extent by extent, so that the copy goes on with the rest. It is tried
// again, less and less often: a bad sector is mended by writing to it, a cable by somebody who needs some time. Until all
// of it is copied the volume is not whole: a first copy gives it no recovery point, a resync none that is newer.

const (
	// readAgain is how long the first try waits, and readAgainMax the longest pause; each is twice the one before.
	readAgain    = 2 * time.Second
	readAgainMax = 2 * time.Minute
	// maxListed bounds the ranges that status and events name.
	maxListed = 16
)

// Range is a part of a volume in bytes.
type Range struct{ Offset, Length int64 }

// String writes the range as status and events show it.
func (r Range) String() string { return fmt.Sprintf("%d+%d", r.Offset, r.Length) }

// unread is when what was put aside is tried again. It is guarded by group.mu.
type unread struct {
	since time.Duration // when the first of it was put aside
	pause time.Duration // 0 while nothing is put aside, nor being tried again
	until time.Duration // not before this time; 0 while the copy has other things to do
}

// waits reports whether nothing is left but what was put aside, and it is not time for it.
func (u *unread) waits(now time.Duration) bool { return now < u.until }

// putAside leaves an extent that could not be read, and tells of it.
func (v *volume) putAside(i int, err error) {
	off, length := v.marks.span(i)
	v.marks.putAside(i)
	now := v.p.loop.Now()
	v.g.mu.Lock()
	if v.unread.pause == 0 {
		v.unread.pause, v.unread.since = readAgain, now
	}
	fresh := v.unread.pause == readAgain // it was not tried again yet
	v.g.mu.Unlock()
	_ = v.noted(err)
	if n, _ := v.marks.aside(0); fresh && n <= maxListed {
		v.p.event(v.g.id, "source.unreadable", "volume", v.name, "range", Range{off, length}.String(), "error", err.Error())
	}
}

// wait is called when the copier finds nothing to do for a volume. Where something is put aside it is left alone for a
// while, and then tried again.
func (v *volume) wait(now time.Duration) {
	n, _ := v.marks.aside(0)
	v.g.mu.Lock()
	u := &v.unread
	due := n > 0 && u.until != 0
	switch {
	case n == 0:
		*u = unread{}
	case due: // the pause is over: nextToCopy has chosen it
		u.until, u.pause = 0, min(2*u.pause, readAgainMax)
	default:
		u.until = now + u.pause
	}
	v.g.mu.Unlock()
	if due {
		v.marks.recall()
	} else if n > 0 {
		v.g.tellCopies() // progress tells only now and then
	}
}
