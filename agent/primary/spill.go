package primary

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// The spiller takes payloads of a group whose queue is long out of memory and into its spool, see overload.go for when. Senders
// read them back, a frame at a time. What it can not write stays in memory, where the queue's limits hold for it. What can not be
// read back, or is not what was written, is lost to the queue and not to anybody else: its bits are set, so the group is suspended.

// spillBatch is how much is written at a time, in bytes.
const spillBatch = 1 << 20

// spillRest is how long a spool that failed is left alone.
const spillRest = 5 * time.Minute

// spillAgain is after what time it is looked whether a spool that was full has room now, though nothing of it was given back.
const spillAgain = time.Second

// trouble is what became of a spool whose disk failed. It is guarded by group.mu.
type trouble struct {
	failing
	text string
}

// rests reports whether the spool is left alone.
func (t *trouble) rests(now time.Duration) bool { return t.any && now-t.last < spillRest }

// runSpiller spills whenever it is kicked and there is something to spill, until the context ends.
func (g *group) runSpiller(ctx context.Context) {
	defer g.spool.close()
	var buf []byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.spillNow:
		}
		g.spool.reap()
		g.spoolAgain()
		for ctx.Err() == nil && g.spillOnce(&buf) {
		}
	}
}

// spoolAgain looks now and then whether a full spool has room.
func (g *group) spoolAgain() {
	now := g.p.loop.Now()
	g.mu.Lock()
	due := now >= g.over.tryAt
	if due {
		g.over.tryAt = now + spillAgain
	}
	g.mu.Unlock()
	if due {
		g.spool.again()
	}
}

// spills reports whether the spiller is to work.
func (g *group) spills() bool {
	room := g.spool.room()
	g.mu.Lock()
	defer g.mu.Unlock()
	return (g.over.step == stepSpill || g.over.step == stepEnd) && g.spoolUsableLocked(g.p.loop.Now(), &room)
}

// spillOnce spills a batch, and reports whether it should be called again at once.
func (g *group) spillOnce(buf *[]byte) bool {
	if !g.spills() {
		return false
	}
	l := &g.p.limits
	var inc wire.Incarnation
	var batch []core.Spill
	g.p.loop.Do(func(n *core.Node, _ time.Duration) {
		v, ok := n.View(g.id)
		if !ok || (v.Mode != cluster.Async && !v.Early) {
			return
		}
		over := load(v) - l.PaceMark
		if over <= 0 {
			return
		}
		inc, batch = n.Spillable(g.id, l.PaceMark/4, min(over, spillBatch), false)
		if len(batch) == 0 && load(v) > l.SpillMark {
			inc, batch = n.Spillable(g.id, l.PaceMark/4, min(over, spillBatch), true)
		}
		for i := range batch {
			batch[i].Handle.(payload).Retain()
		}
	})
	if len(batch) == 0 {
		return false
	}
	ups := make([]wire.Update, len(batch))
	for i := range batch {
		ups[i] = batch[i].Update
		ups[i].Seal(g.id, inc)
	}
	places, used, err := g.spool.put(ups, *buf)
	*buf = used
	exchange := make([]core.Spilled, len(places))
	for i, p := range places {
		exchange[i] = core.Spilled{Seq: ups[i].Seq, Handle: p}
	}
	g.p.loop.Do(func(n *core.Node, now time.Duration) { n.Spilled(now, g.id, inc, exchange) })
	for i := range batch {
		batch[i].Handle.(payload).Release()
	}
	switch {
	case errors.Is(err, errSpoolFull), errors.Is(err, errSpoolClosed):
		return false
	case err != nil:
		g.spoolFailed(err)
		return false
	}
	return true
}

// spoolFailed notes that the disk of a spool failed, and tells it.
func (g *group) spoolFailed(err error) {
	now := g.p.loop.Now()
	g.mu.Lock()
	g.trouble.note(now)
	g.trouble.text = err.Error()
	g.mu.Unlock()
	g.p.event(g.id, "spool.failed", "dir", g.spool.dir, "error", err.Error())
}

// unspill brings the data of a frame's updates back that are in a spool, and seals all of them. buf is used for the data and
// returned. It fails where they can not be read, or are not those that were sealed before.
func unspill(out *core.Outgoing, buf []byte) ([]byte, error) {
	total := 0
	for _, h := range out.Handles {
		if p, ok := h.(*spooled); ok {
			total += int(p.n)
		}
	}
	if cap(buf) < total {
		buf = make([]byte, total)
	}
	rest := buf[:total]
	for i := 0; i < len(out.Updates); {
		n, length := adjacent(out.Handles[i:])
		if n == 0 {
			out.Updates[i].Seal(out.Header.Group, out.Header.Incarnation)
			i++
			continue
		}
		first := out.Handles[i].(*spooled)
		data := rest[:length]
		rest = rest[length:]
		if err := first.read(data); err != nil {
			return buf, fmt.Errorf("read %d bytes back from the spool in %s: %w", length, first.seg.spool.dir, err)
		}
		for range n {
			p, u := out.Handles[i].(*spooled), &out.Updates[i]
			u.Data, data, u.Sum = data[:p.n:p.n], data[p.n:], p.sum
			if err := u.Verify(out.Header.Group, out.Header.Incarnation); err != nil {
				return buf, fmt.Errorf("read back from the spool in %s: %w", first.seg.spool.dir, err)
			}
			i++
		}
	}
	return buf, nil
}

// adjacent returns how many of the first handles lie one behind the other in a spool, and their bytes.
func adjacent(handles []any) (n, bytes int) {
	var last *spooled
	for _, h := range handles {
		p, ok := h.(*spooled)
		if !ok || (last != nil && !p.follows(last)) {
			break
		}
		n, bytes, last = n+1, bytes+int(p.n), p
	}
	return n, bytes
}

// lostSpooled suspends a group of which something can not be brought back.
func (p *Primary) lostSpooled(id wire.GroupID, out *core.Outgoing, err error) {
	p.mu.Lock()
	g := p.groups[id]
	p.mu.Unlock()
	if g == nil || g.spool.isClosed() {
		return // it has gone with all that it had
	}
	g.spoolFailed(err)
	current := false
	p.loop.View(func(n *core.Node) {
		v, _ := n.View(id)
		current = v.Inc == out.Header.Incarnation
	})
	if current { // otherwise that incarnation has gone with its queue
		g.suspend("what was spilled can not be read back: " + err.Error())
	}
}

// spoolUsableLocked reports whether the spool takes anything now. g.mu is held.
func (g *group) spoolUsableLocked(now time.Duration, r *spoolRoom) bool {
	return r.set > 0 && !r.full && !g.trouble.rests(now)
}
