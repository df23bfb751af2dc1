package journal

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"flotilla/agent/vfs"
)

const (
	// maxGone bounds what one gone record lists, so that it adds less than a block to a batch.
	maxGone = 256
	// keepBuffer is the largest buffer that an idle journal holds on to.
	keepBuffer = 1 << 20
)

// run is the flusher. It alone writes to segments, makes them and takes them away. It ends when stop is closed and
// everything appended before is durable or has failed.
func (j *Journal) run() {
	defer close(j.done)
	timer := time.NewTimer(j.opt.MarkDelay)
	defer timer.Stop()
	for {
		due, closing := false, false
		select {
		case <-j.wake:
		case <-timer.C:
			due = true
		case <-j.stop:
			closing = true
		}
		wait := j.drain(due, closing)
		j.dispose()
		if closing {
			return
		}
		if wait > 0 {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
	}
}

// drain flushes until nothing is left that should be flushed now. It returns how long to wait before the next look
// if nothing wakes the flusher, 0 for ever. With due, time has run out for a batch that waits, or else for the mark.
func (j *Journal) drain(due, closing bool) time.Duration {
	for {
		if !due && !closing {
			if wait := j.pause(); wait > 0 {
				return wait
			}
		}
		b := j.take(due || closing)
		if b == nil || !j.flush(b) {
			break
		}
		due = false
	}
	if j.marked {
		return 0
	}
	return j.opt.MarkDelay
}

// pause returns how long the collecting batch should wait for FlushInterval's sake.
func (j *Journal) pause() time.Duration {
	if j.opt.FlushInterval == 0 {
		return 0
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.cur == nil || len(j.cur.buf) >= flushBytes || j.waiting > 0 {
		return 0
	}
	return j.opt.FlushInterval - time.Since(j.lastStart)
}

// take closes the batch to write next: the one that collects, or one that only records what is gone or marks. It
// returns nil if there is none.
func (j *Journal) take(mark bool) *batch {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return nil
	}
	b := j.cur
	if b != nil {
		if ids := j.buriedLocked(); len(ids) > 0 && b.roomFor(recordSize(8*len(ids))) {
			b.addGone(ids)
		}
	} else if b = j.controlLocked(mark && !j.marked); b == nil {
		return nil
	}
	b.finish()
	b.prevTail, b.prevEnd = j.tail, j.end
	if b.fresh && j.tail != nil {
		j.tail.end = j.end
	}
	j.tail, j.end = b.seg, b.base+int64(len(b.buf))
	j.cur, j.fly = nil, b
	j.room.Broadcast()
	return b
}

// buriedLocked lists the segments that are free and not recorded so. j.mu is held.
func (j *Journal) buriedLocked() []uint64 {
	var ids []uint64
	for _, s := range j.segs {
		if s.buried && !s.gone && len(ids) < maxGone {
			ids = append(ids, s.id)
		}
	}
	slices.Sort(ids)
	return ids
}

// controlLocked makes a batch without records of the caller's if there is cause for one. j.mu is held.
func (j *Journal) controlLocked(mark bool) *batch {
	ids := j.buriedLocked()
	if j.tail == nil || len(ids) == 0 && !mark {
		return nil
	}
	b := &batch{seg: j.tail, base: j.end, buf: make([]byte, batchHeaderSize, block)}
	if len(ids) == 0 {
		if cap(j.buf) > keepBuffer {
			j.buf = nil
		}
		if !b.roomFor(0) {
			j.marked = true // No room for it; the next segment's header will say the same.
			return nil
		}
		return b
	}
	if !b.roomFor(recordSize(8 * len(ids))) {
		if j.used+j.opt.SegmentSize > j.opt.Limit {
			return nil
		}
		seg, err := j.newSegmentLocked()
		if err != nil {
			j.opt.Logger.Error("cannot record freed segments", "err", err)
			return nil
		}
		b.seg, b.base, b.fresh = seg, seg.header.length(), true
	}
	b.addGone(ids)
	return b
}

// roomFor reports whether so many bytes more stay within the segment. Only control records may ask: it counts the part
// that is kept free of records.
func (b *batch) roomFor(bytes int) bool {
	return alignUp(b.base+int64(len(b.buf)+bytes), block) <= b.seg.header.size
}

// flush makes a batch durable and tells those who wait. It reports whether that went well.
func (j *Journal) flush(b *batch) bool {
	j.lastStart = time.Now()
	err := j.write(b)
	var failed []pending
	full := vfs.IsFull(err) && !errors.As(err, new(syncError))
	if err != nil && !full {
		j.opt.Logger.Error("journal is lost", "dir", j.opt.Dir, "err", err)
		j.leaveLostMark(err)
	}

	j.mu.Lock()
	j.fly = nil
	switch {
	case err == nil:
		j.marked = len(b.done) == 0
		j.stats.Appends += uint64(len(b.done))
		j.stats.Bytes += b.bytes
		j.stats.Batches++
		j.stats.Syncs++
		for _, id := range b.gone {
			j.segs[id].gone = true
		}
	case full:
		err = fmt.Errorf("%w: %w", ErrFull, err)
		failed = j.rollBackLocked(b)
	default:
		j.failLocked(err)
		err = j.err
		failed = j.rollBackLocked(b)
	}
	if j.buf == nil {
		j.buf = b.buf
	}
	j.room.Broadcast()
	j.mu.Unlock()

	for _, p := range b.done {
		if p.done != nil {
			p.done(p.ref, err)
		}
	}
	for _, p := range failed {
		if p.done != nil {
			p.done(p.ref, err)
		}
	}
	return err == nil
}

// rollBackLocked gives a failed batch's place back. The batch that collected meanwhile was to stand behind it and
// fails with it; its records are returned. j.mu is held.
func (j *Journal) rollBackLocked(b *batch) []pending {
	var failed []pending
	if j.cur != nil {
		failed = j.cur.done
		if j.cur.fresh {
			j.dropSegmentLocked(j.cur.seg)
		}
		j.cur = nil
	}
	if b.fresh {
		j.dropSegmentLocked(b.seg)
		j.tail, j.end = b.prevTail, b.prevEnd
	} else {
		j.tail, j.end = b.seg, b.base
	}
	return failed
}

// write puts a batch on disk.
func (j *Journal) write(b *batch) error {
	if b.fresh {
		f, err := j.makeFile(b.seg)
		if err != nil {
			return err
		}
		j.mu.Lock()
		b.seg.file = f
		b.fresh = false
		if b.prevTail != nil {
			b.prevTail.sealed = true
			j.buryLocked(b.prevTail)
		}
		j.mu.Unlock()
	}
	if _, err := b.seg.file.WriteAt(b.buf, b.base); err != nil {
		if vfs.IsFull(err) && !j.opt.Preallocate {
			// Gives back what was written of it. Left there it would be harmless, being overwritten by the next.
			_ = b.seg.file.Truncate(b.base)
		}
		return fmt.Errorf("write a batch of %d bytes to segment %d: %w", len(b.buf), b.seg.id, err)
	}
	if err := b.seg.file.SyncData(); err != nil {
		return fmt.Errorf("flush segment %d: %w", b.seg.id, syncError{err})
	}
	return nil
}
