package blockdev

import (
	"context"
	"fmt"
	"math"
	"sync"
)

// RangeLock locks byte ranges, shared for readers and exclusive for writers.
// Its zero value is ready for use, and it must not be copied.
//
// Who comes waits for everybody who came before, still holds or waits, and
// overlaps while one of the two is exclusive; and for nobody else. So a stream
// of readers does not starve a writer, and a waiting request holds up only
// those that overlap it. A request that need not wait costs one look at each
// entry and allocates nothing.
//
// Locking a second range while holding one can deadlock, as with any lock.
type RangeLock struct {
	mu sync.Mutex

	// The fields below are guarded by mu.

	// entries are all held and waiting ranges, dense and in no order.
	entries []rangeEntry
	// refs says, by the number that a guard carries, where its entry is now.
	refs []rangeRef
	// free are the numbers in refs that no entry has.
	free []uint32
	// first and last are the ends of the queue of waiters, oldest first.
	first, last *rangeWaiter
	// spare are waiters for reuse, at most maxSpareWaiters.
	spare []*rangeWaiter
}

type rangeEntry struct {
	span rangeSpan
	id   uint32
}

// rangeSpan is [start, end). An empty one is stored as [0, 0), which overlaps nothing.
type rangeSpan struct {
	start, end int64
	exclusive  bool
}

func (s *rangeSpan) conflicts(o *rangeSpan) bool {
	return s.start < o.end && o.start < s.end && (s.exclusive || o.exclusive)
}

type rangeRef struct {
	pos        uint32 // index in entries
	generation uint32 // rises when the number is freed, so that an old guard is recognized
}

// rangeWaiter is a request that waits. Every entry that conflicts with it and
// came before it is counted in blockers, and takes itself off when it goes. An
// entry that is held has no conflict with anybody queued before it, so all
// waiters it conflicts with are its to count down.
type rangeWaiter struct {
	span       rangeSpan
	blockers   int
	prev, next *rangeWaiter
	granted    chan struct{} // capacity 1; gets its token when blockers falls to 0
}

const maxSpareWaiters = 64

// RangeGuard is a held range. It may be unlocked by another goroutine than the
// one that locked it.
type RangeGuard struct {
	lock       *RangeLock
	id         uint32
	generation uint32
}

// Lock locks length bytes from off on exclusively. The context is looked at
// only if the request has to wait; if it ends first, nothing is locked and the
// error wraps its cause. An empty range waits for nobody.
func (l *RangeLock) Lock(ctx context.Context, off, length int64) (RangeGuard, error) {
	return l.acquire(ctx, off, length, true)
}

// RLock locks length bytes from off on shared, otherwise like Lock.
func (l *RangeLock) RLock(ctx context.Context, off, length int64) (RangeGuard, error) {
	return l.acquire(ctx, off, length, false)
}

func (l *RangeLock) acquire(ctx context.Context, off, length int64, exclusive bool) (RangeGuard, error) {
	if off < 0 || length < 0 || off > math.MaxInt64-length {
		return RangeGuard{}, fmt.Errorf("lock %d bytes at offset %d: %w", length, off, ErrOutOfRange)
	}
	span := rangeSpan{exclusive: exclusive}
	if length > 0 {
		span.start, span.end = off, off+length
	}
	l.mu.Lock()
	blockers := 0
	for i := range l.entries {
		if l.entries[i].span.conflicts(&span) {
			blockers++
		}
	}
	g := l.insertLocked(span)
	if blockers == 0 {
		l.mu.Unlock()
		return g, nil
	}
	w := l.enqueueLocked(span, blockers)
	l.mu.Unlock()

	select {
	case <-w.granted:
		l.mu.Lock()
		l.recycleLocked(w)
		l.mu.Unlock()
		return g, nil
	case <-ctx.Done():
		l.cancel(g, w)
		return RangeGuard{}, fmt.Errorf("wait for the lock of %d bytes at offset %d: %w", length, off, context.Cause(ctx))
	}
}

// Unlock releases the range. It panics if the guard holds nothing any more.
func (g RangeGuard) Unlock() {
	l := g.lock
	if l == nil {
		panic("blockdev: unlock of a range that was never locked")
	}
	l.mu.Lock()
	if l.refs[g.id].generation != g.generation {
		l.mu.Unlock()
		panic("blockdev: second unlock of a range")
	}
	span := l.removeLocked(g.id)
	l.releaseLocked(&span, l.first)
	l.mu.Unlock()
}

// cancel takes back a request that waited, even if it was granted meanwhile.
func (l *RangeLock) cancel(g RangeGuard, w *rangeWaiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	span := l.removeLocked(g.id)
	later := l.first
	if w.blockers == 0 {
		<-w.granted // It is out of the queue and everybody it blocks is in it.
	} else {
		later = w.next
		l.dequeueLocked(w)
	}
	l.recycleLocked(w)
	l.releaseLocked(&span, later)
}

// releaseLocked counts a range that has gone off from the waiters it blocked,
// which are those from w on, and grants the ones that nothing blocks any more.
func (l *RangeLock) releaseLocked(gone *rangeSpan, w *rangeWaiter) {
	for w != nil {
		next := w.next
		if gone.conflicts(&w.span) {
			w.blockers--
			if w.blockers == 0 {
				l.dequeueLocked(w)
				w.granted <- struct{}{}
			}
		}
		w = next
	}
}

func (l *RangeLock) insertLocked(span rangeSpan) RangeGuard {
	var id uint32
	if n := len(l.free); n > 0 {
		id, l.free = l.free[n-1], l.free[:n-1]
	} else {
		id = uint32(len(l.refs))
		l.refs = append(l.refs, rangeRef{})
	}
	ref := &l.refs[id]
	ref.pos = uint32(len(l.entries))
	l.entries = append(l.entries, rangeEntry{span: span, id: id})
	return RangeGuard{lock: l, id: id, generation: ref.generation}
}

// removeLocked fills the place of the entry with the last one.
func (l *RangeLock) removeLocked(id uint32) rangeSpan {
	ref := &l.refs[id]
	pos, end := ref.pos, len(l.entries)-1
	span := l.entries[pos].span
	moved := l.entries[end]
	l.entries[pos] = moved
	l.refs[moved.id].pos = pos
	l.entries = l.entries[:end]
	ref.generation++
	l.free = append(l.free, id)
	return span
}

func (l *RangeLock) enqueueLocked(span rangeSpan, blockers int) *rangeWaiter {
	var w *rangeWaiter
	if n := len(l.spare); n > 0 {
		w, l.spare = l.spare[n-1], l.spare[:n-1]
	} else {
		w = &rangeWaiter{granted: make(chan struct{}, 1)}
	}
	w.span, w.blockers, w.prev, w.next = span, blockers, l.last, nil
	if l.last == nil {
		l.first = w
	} else {
		l.last.next = w
	}
	l.last = w
	return w
}

func (l *RangeLock) dequeueLocked(w *rangeWaiter) {
	if w.prev == nil {
		l.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next = nil, nil
}

func (l *RangeLock) recycleLocked(w *rangeWaiter) {
	if len(l.spare) < maxSpareWaiters {
		l.spare = append(l.spare, w)
	}
}
