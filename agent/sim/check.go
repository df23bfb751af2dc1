package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

func blocksOf(v *cluster.Volume) int { return int(v.Size / blockSize) }

// image is the content of all volumes.
type image map[wire.VolumeID][]uint64

func (im image) write(u *wire.Update) {
	vol := im[u.Volume]
	if vol == nil {
		return
	}
	first := int(u.Offset / blockSize)
	for b := range u.Length / blockSize {
		vol[first+int(b)] = decodeBlock(u, b)
	}
}

// targets returns the targets as they read, after a power cut when durable is set.
func (o *groupOracle) targets(durable bool) image {
	im := image{}
	for _, h := range o.w.hosts {
		for id, d := range h.targets {
			if o.sizes[id] == 0 {
				continue // of another group
			}
			if durable {
				im[id] = slices.Clone(d.durable)
			} else {
				im[id] = slices.Clone(d.now)
			}
		}
	}
	return im
}

// replay rolls what the incarnations numbered forward, from recovery point to recovery point.
type replay struct {
	o       *groupOracle
	g       *cluster.Group
	cursors map[wire.Incarnation]*cursor
}

// cursor is how far an incarnation is rolled.
type cursor struct {
	t      *incTruth
	blocks []uint64
	im     image // of them
	next   int   // of t.sets
}

// to returns what the sources had at the end of set n, per volume that belongs to the point. It is called with ascending
// n, and what it returned before changes.
func (r *replay) to(n wire.Set) image { return r.of(r.g.Primaries(), n) }

// of is to for some primaries.
func (r *replay) of(primaries []wire.AgentID, n wire.Set) image {
	im := image{}
	for _, p := range primaries {
		inc := r.g.IncAt(p, n)
		if inc == nil && n == r.o.point.set {
			inc = r.o.point.incs[p]
		}
		if inc == nil {
			for _, v := range r.g.Volumes {
				if v.Primary == p && v.Removed == nil && v.Copied(n) {
					r.o.w.fail("recovery point %d has volume %d, and no incarnation of its primary %d", n, v.ID, p)
				}
			}
			continue
		}
		t := r.o.incs[inc.ID]
		if t == nil {
			continue // it numbered nothing
		}
		c := r.cursors[inc.ID]
		if c == nil {
			c = &cursor{t: t, blocks: slices.Clone(t.base)}
			c.im = t.imageOf(c.blocks)
			r.cursors[inc.ID] = c
		}
		c.roll(inc, n)
		for id, now := range c.im {
			if v := r.g.Volumes[id]; v != nil && v.Copied(n) {
				im[id] = now
			}
		}
	}
	return im
}

// roll writes what counts up to the end of set n.
func (c *cursor) roll(inc *cluster.Incarnation, n wire.Set) {
	for ; c.next < len(c.t.sets); c.next++ {
		s := &c.t.sets[c.next]
		switch {
		case s.set > n:
			return
		case inc.Sealed && s.last > inc.Seal: // its last one, of which a part counts
			for _, e := range c.t.logOf(c.next) {
				if e.seq > inc.Seal {
					return
				}
				for i := range e.ups {
					c.im.write(&e.ups[i])
				}
			}
		}
		for _, w := range s.writes {
			c.blocks[w.block] = w.value
		}
	}
}

// removals learns what the targets of volumes that were just taken out are to hold: what the sources had at the newest
// committed point, as the group now knows it, or knew it before.
func (o *groupOracle) removals(g *cluster.Group) {
	for _, id := range cluster.SortedKeys(g.Volumes) {
		v := g.Volumes[id]
		if v.Removed == nil {
			continue
		}
		_, known := o.removed[id]
		if o.removed == nil {
			o.removed = image{}
		}
		if !v.Usable() {
			o.removed[id] = nil // of no use from the first, or torn since
		}
		if known || !v.Usable() {
			continue
		}
		o.removed[id] = nil
		r := replay{o: o, g: g, cursors: map[wire.Incarnation]*cursor{}}
		at := v.Removed.Point.Set
		if at <= g.GivenUp {
			at = o.point.set // nothing was committed since sets were given up
		}
		if r.g.IncAt(v.Primary, at) == nil && at > g.GivenUp {
			r.g = o.before
		}
		if im := r.of([]wire.AgentID{v.Primary}, at); im[id] != nil {
			o.removed[id] = slices.Clone(im[id][:blocksOf(v)])
		}
	}
	if len(g.Primaries()) > 1 {
		before := *g // nodes change theirs in place
		before.Incs = nil
		for _, inc := range g.Incs {
			before.Incs = append(before.Incs, new(*inc))
		}
		o.before = &before
	}
}

// checkRemoved looks at the targets of removed volumes: they stand where they were left, and nothing comes to them later.
func (o *groupOracle) checkRemoved(g *cluster.Group) {
	if len(o.removed) == 0 {
		return
	}
	targets := o.targets(false)
	for _, id := range cluster.SortedKeys(o.removed) {
		v, want := g.Volumes[id], o.removed[id]
		if want == nil || !v.Usable() || !g.Done(v) {
			continue
		}
		for b := range want {
			if targets[id][b] != want[b] {
				o.w.fail("P5: the target of volume %d, removed at set %d, holds %#x in block %d, and the source had %#x then",
					id, v.Removed.Point.Set, targets[id][b], b, want[b])
				return
			}
		}
	}
}

// fold takes what no later recovery point can be without out of the logs, unless it is wanted for a trace.
func (o *groupOracle) fold(g *cluster.Group) {
	if o.w.opt.Trace != nil {
		return
	}
	for _, inc := range g.Incs {
		if t := o.incs[inc.ID]; t != nil {
			t.fold(inc, g.Point.Set)
		}
	}
}

// checkPoints compares every recovery point that a promote could choose now with the truth (P1, P5), and looks whether
// one component could be lost (P2).
func (o *groupOracle) checkPoints() {
	w := o.w
	w.stats.Checks++
	st := w.newest()
	g := st.Groups[o.id]
	o.checkRemoved(g)
	if g.Torn || w.failure != nil {
		return
	}
	var points []wire.Set
	if g.Applied == g.ApplyTo && g.Point.Set != 0 && g.Point.Set == g.Applied {
		points = append(points, g.Point.Set)
	}
	for _, p := range g.Points {
		if p.Set >= g.ApplyTo && (p.Set == g.Applied || g.Applied >= o.lostUpTo) {
			points = append(points, p.Set)
		}
	}
	o.fold(g)
	alone, rolled := o.checkRoll(st, g, points, 0)
	if !rolled || len(g.Points) == 0 || w.failure != nil || w.doubleLoss || len(st.Members) < 2 || !o.allMirrored(nil) {
		return
	}
	for i := range g.Grants {
		if g.Grants[i].Last <= g.Applied {
			continue // all sets of a grant are assigned alike
		}
		for id, size := range o.sizes {
			for b := 0; b < size; b += portionSize / blockSize {
				if st.Pair(g, g.Grants[i].Last, wire.Portion{Volume: id, Index: uint32(b / (portionSize / blockSize))}).Mirror == 0 {
					return // degraded, and the view says so
				}
			}
		}
	}
	for _, m := range st.Members {
		w.stats.Points++
		if alone&w.host(m).holder() != 0 { // without it the image would be another, which may be as good
			o.checkRoll(st, g, points[len(points)-1:], m) // it takes what every lower point does
		}
	}
}

// compare holds an image against the truth and against the chains.
func (o *groupOracle) compare(what string, g *cluster.Group, n wire.Set, im, want image) {
	point := func() string {
		return fmt.Sprintf("%s: recovery point %d (applied %d, apply to %d)", what, n, g.Applied, g.ApplyTo)
	}
	for _, id := range cluster.SortedKeys(want) {
		// What lies behind the size is of no point yet. When the size has risen every point that is left has it.
		size := blocksOf(g.Volumes[id])
		if slices.Equal(want[id][:size], im[id][:size]) {
			continue
		}
		for b := range size {
			if want[id][b] != im[id][b] {
				o.w.fail("%s: volume %d block %d is %#x, and the source had %#x (copied at %d, incarnations %s)",
					point(), id, b, im[id][b], want[id][b], g.Volumes[id].CopiedAt, incsOf(g))
				o.explain(id, b)
				return
			}
		}
	}
	if len(want) == len(o.sizes) {
		o.checkChains(point, im)
	}
}

// explain traces every update of a block, and who holds it.
func (o *oracle) explain(vol wire.VolumeID, block int) {
	if o.w.opt.Trace == nil {
		return
	}
	for _, id := range cluster.SortedKeys(o.incs) {
		for _, e := range o.incs[id].log {
			for i := range e.ups {
				u := &e.ups[i]
				if u.Volume != vol || int(u.Offset/blockSize) > block || int(u.End()/blockSize) <= block {
					continue
				}
				seq := e.seq - wire.Seq(len(e.ups)-1-i)
				holders := ""
				for _, h := range o.w.hosts {
					for _, r := range h.journal.records() {
						if r.body.Incarnation == id && slices.ContainsFunc(r.body.Updates, func(x wire.Update) bool { return x.Seq == seq }) {
							holders += fmt.Sprintf(" %d(set %d, durable %v)", h.id, r.body.Set, r.durable)
						}
					}
				}
				o.w.trace("block %d of volume %d: incarnation %d seq %d set %d %v = %#x, held by%s", block, vol, id, seq, e.set, u.Kind, decodeBlock(u, uint32(block)-uint32(u.Offset/blockSize)), holders)
			}
		}
	}
}

// checkChains holds an image against the clients' dependent writes: it must be a prefix of each chain.
func (o *groupOracle) checkChains(what func() string, im image) {
	for _, c := range o.w.clients {
		if c.group != o.id || len(c.slots) == 0 {
			continue
		}
		var highest uint64
		at := func(s slot) (uint64, bool) {
			v := im[s.volume][s.block]
			return v & (1<<chainShift - 1), v == 0 || v>>chainShift == uint64(c.id)
		}
		for _, s := range c.slots {
			v, ok := at(s)
			if !ok {
				o.w.fail("%s: slot of client %d on volume %d holds %#x", what(), c.id, s.volume, im[s.volume][s.block])
				return
			}
			highest = max(highest, v)
		}
		k := uint64(len(c.slots))
		for i, s := range c.slots {
			v, _ := at(s)
			want := uint64(0)
			if highest >= 1 {
				// The largest counter up to highest that falls on slot i.
				want = highest - (highest+k-uint64(i))%k
				if highest < (highest+k-uint64(i))%k {
					want = 0
				}
			}
			if v != want {
				o.w.fail("%s: client %d wrote %d and %d before %d, and of them volume %d block %d holds %d",
					what(), c.id, want, highest-1, highest, s.volume, s.block, v)
				return
			}
		}
	}
}

// promotedNow takes the targets as a promote left them: they are at the point, and hold every acknowledged write of a
// sync group (P3).
func (o *groupOracle) promotedNow(st *cluster.State) {
	w := o.w
	g := st.Groups[o.id]
	o.promoted = o.targets(false)
	w.trace("group %d is promoted at set %d, final %d", o.id, g.Point.Set, g.Final)
	if g.Torn {
		return
	}
	want := replay{o: o, g: g, cursors: map[wire.Incarnation]*cursor{}}
	o.compare("promote", g, g.Point.Set, o.promoted, want.to(g.Point.Set))
	if g.Mode != cluster.Sync || g.Doubted() || w.failure != nil {
		return
	}
	for _, id := range cluster.SortedKeys(o.sizes) {
		if v := g.Volumes[id]; v.Removed != nil || !v.Copied(g.Point.Set) {
			continue
		}
		t := o.vols[id]
		for _, b := range cluster.SortedKeys(t.acked) {
			k := slices.Index(t.history[b], o.promoted[id][b])
			// A value may stand in the history twice only as zero; take the last.
			for j := len(t.history[b]) - 1; j > k; j-- {
				if t.history[b][j] == o.promoted[id][b] {
					k = j
				}
			}
			if k+1 < t.acked[b] {
				w.fail("P3: volume %d block %d was acknowledged as %#x and is %#x after the promote to set %d",
					id, b, t.history[b][t.acked[b]-1], o.promoted[id][b], g.Point.Set)
				return
			}
		}
	}
}

// settled reports whether a run has come to rest.
func (o *oracle) settled() bool {
	return !slices.ContainsFunc(o.groups, func(g *groupOracle) bool { return !g.settled() })
}

// unsettled says what the groups wait for.
func (o *oracle) unsettled() string {
	var why []string
	for _, g := range o.groups {
		if w := g.unsettled(); w != "" {
			why = append(why, w)
		}
	}
	return strings.Join(why, "; ")
}

// checkPoints compares every recovery point with the truth.
func (o *oracle) checkPoints() {
	for _, g := range o.groups {
		g.checkPoints()
	}
}

// checkEnd looks at the end of a run: source equals target, holds were bounded, payloads were given back.
func (o *oracle) checkEnd() {
	for _, g := range o.groups {
		g.checkEnd()
	}
	for _, h := range o.w.hosts {
		if h.handles < 0 {
			o.w.fail("host %d: %d payload handles were released twice", h.id, -h.handles)
		}
	}
}

// settled reports whether a group has come to rest: promoted, or everything applied and source and target equal.
func (o *groupOracle) settled() bool {
	g := o.now()
	if g.Phase == cluster.Promoted {
		return o.promoted != nil
	}
	if o.asked || g.Phase == cluster.Promoting {
		return false
	}
	return o.unsettled() == ""
}

func (o *groupOracle) unsettled() string {
	why := o.unsettledGroup()
	if c := o.w.captain(); c != nil && why != "" {
		why += "; waits: " + c.Waiting(o.id)
	}
	return why
}

func (o *groupOracle) unsettledGroup() string {
	g := o.now()
	if g.Phase == cluster.Promoted {
		return ""
	}
	if o.asked {
		return fmt.Sprintf("a promote is under way: %s, committed %d, applied %d of %d, final %v %d, incarnations %s", g.Phase, g.Committed, g.Applied, g.Granted, g.FinalChosen, g.Final, incsOf(g))
	}
	if g.Checking() {
		return fmt.Sprintf("a check is under way: %+v", *g.Check)
	}
	if g.Degraded != nil {
		return fmt.Sprintf("it is degraded: %+v, incarnations %s", *g.Degraded, incsOf(g))
	}
	for _, h := range o.w.hosts {
		for _, id := range cluster.SortedKeys(h.sources) {
			if o.sizes[id] == 0 {
				continue // of another group
			}
			if g.Volumes[id].Removed != nil {
				continue // checkRemoved looks at it
			}
			if h.node == nil {
				return fmt.Sprintf("host %d is down", h.id)
			}
			if v := h.primary[id]; v.ext.ToCopy() > 0 || len(v.locked) > 0 {
				return fmt.Sprintf("volume %d of host %d: %d extents to copy, %d blocks locked", id, h.id, v.ext.ToCopy(), len(v.locked))
			}
			v := g.Volumes[id]
			t := o.targets(false)[id]
			if v.Grow != 0 {
				return fmt.Sprintf("volume %d grows to %d bytes", id, v.Grow)
			}
			for b := range t[:blocksOf(v)] {
				if t[b] != h.sources[id].now[b] {
					return fmt.Sprintf("volume %d block %d: target %#x, source %#x (committed %d, applied %d of %d, copied at %d, incarnations %s)",
						id, b, t[b], h.sources[id].now[b], g.Committed, g.Applied, g.Granted, v.CopiedAt, incsOf(g))
				}
			}
		}
	}
	return ""
}

func incsOf(g *cluster.Group) string {
	s := ""
	for _, inc := range g.Incs {
		s += fmt.Sprintf("%+v ", *inc)
	}
	return s
}

// checkEnd looks at one group's end.
func (o *groupOracle) checkEnd() {
	w := o.w
	g := o.now()
	o.checkRemoved(g)
	if g.Phase == cluster.Promoted {
		now := o.targets(false)
		for id := range now {
			if !slices.Equal(now[id], o.promoted[id]) {
				w.fail("P4: volume %d changed after the promote", id)
			}
		}
		return
	}
	if limit := 50*time.Millisecond + 900*time.Millisecond; w.stats.MaxBlocked > limit && g.Mode == cluster.Async {
		w.fail("P6: an async write was blocked for %v", w.stats.MaxBlocked)
	}
}

func (w *World) scheduleCheck() {
	w.after(w.between(50*time.Millisecond, 400*time.Millisecond), "check", func() {
		w.oracle.checkPoints()
		if w.failure == nil {
			w.scheduleCheck()
		}
	})
}
