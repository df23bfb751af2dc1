package sim

import (
	"fmt"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// rolled is the content of all volumes after a roll-forward, and for each block which update wrote it last. The order of
// updates is that of (set, incarnation, seq), so the frames of a set may be taken in any order.
type rolled struct {
	im   image
	last map[wire.VolumeID][]winner
}

// winner is the update that a block's content comes from, zero when that was on the target before.
type winner struct {
	set     wire.Set
	inc     wire.Incarnation
	seq     wire.Seq
	holders uint64 // the members that hold it, by their place in the view
}

// stored is a durable frame in members' journals.
type stored struct {
	set     wire.Set
	body    *wire.Body
	holders uint64
}

// checkRoll rolls the targets forward from recovery point to recovery point with what the members' journals hold, without
// one of them if it is named, and compares at each. What it returns is valid until the next call.
func (o *groupOracle) checkRoll(st *cluster.State, g *cluster.Group, points []wire.Set, without wire.AgentID) *rolled {
	w := o.w
	if len(points) == 0 || w.failure != nil {
		return nil
	}
	last := points[len(points)-1]
	o.resetRoll(w.power)
	frames := o.frameBuf
	for i := range frames {
		frames[i] = frames[i][:0]
	}
	for len(frames) < int(last-g.Applied)+1 {
		frames = append(frames, nil)
	}
	o.frameBuf = frames
	o.rollNo++
	for i, m := range st.Members {
		j := &w.host(m).journal
		if m == without || j.lost {
			continue
		}
		for _, r := range j.records {
			if r.set > g.Applied && r.set <= last && r.durable && !r.rotten && r.body.Group == o.id {
				fs := &frames[r.set-g.Applied]
				if r.twin.roll == o.rollNo {
					(*fs)[r.twin.at].holders |= 1 << i
					continue
				}
				r.twin.roll, r.twin.at = o.rollNo, len(*fs)
				*fs = append(*fs, stored{r.set, r.body, 1 << i})
			}
		}
	}
	what := "P1"
	if without != 0 {
		what = fmt.Sprintf("P2 without component %d", without)
	}
	want := replay{o: o, g: g, cursors: map[wire.Incarnation]*cursor{}}
	set := g.Applied
	for _, n := range points {
		if without == 0 {
			w.stats.Points++
		}
		for ; set < n; set++ {
			for _, f := range frames[set+1-g.Applied] {
				o.rollFrame(g, f)
			}
		}
		o.compare(what, g, n, o.roll.im, want.to(n))
		if w.failure != nil {
			break
		}
	}
	return &o.roll
}

// resetRoll takes the targets as they read, after a power cut when durable is set.
func (o *groupOracle) resetRoll(durable bool) {
	if o.roll.im == nil {
		o.roll = rolled{im: image{}, last: map[wire.VolumeID][]winner{}}
	}
	for _, h := range o.w.hosts {
		for id, d := range h.targets {
			if o.sizes[id] == 0 {
				continue // of another group
			}
			now := d.now
			if durable {
				now = d.durable
			}
			if len(o.roll.last[id]) != len(now) {
				o.roll.im[id], o.roll.last[id] = make([]uint64, len(now)), make([]winner, len(now))
			}
			copy(o.roll.im[id], now)
			clear(o.roll.last[id])
		}
	}
}

// rollFrame takes the updates of a frame that count, where no later one was taken before.
func (o *groupOracle) rollFrame(g *cluster.Group, f stored) {
	body := f.body
	inc := g.Inc(body.Incarnation)
	if inc == nil {
		return
	}
	var im []uint64
	var last []winner
	var of wire.VolumeID
	for i := range body.Updates {
		u := &body.Updates[i]
		if (inc.Sealed && u.Seq > inc.Seal) || u.Kind == wire.KindMark || u.Kind == wire.KindFolded || u.Kind == wire.KindCheck {
			continue
		}
		if of != u.Volume {
			of, im, last = u.Volume, o.roll.im[u.Volume], o.roll.last[u.Volume]
		}
		first := uint32(u.Offset / blockSize)
		for b := range u.Length / blockSize {
			l := &last[first+b]
			v := decodeBlock(u, b)
			switch {
			case l.set == f.set && l.inc == body.Incarnation && l.seq == u.Seq:
				l.holders |= f.holders // it stands twice
				if im[first+b] != v {
					o.w.fail("P1: seq %d of incarnation %d (set %d) stands as %#x and as %#x in the journals", u.Seq, body.Incarnation, f.set, im[first+b], v)
				}
			case l.set < f.set || (l.set == f.set && (l.inc < body.Incarnation || (l.inc == body.Incarnation && l.seq < u.Seq))):
				*l = winner{f.set, body.Incarnation, u.Seq, f.holders}
				im[first+b] = v
			}
		}
	}
}

// needs reports whether some block's content is held by that member only.
func (r *rolled) needs(member int) bool {
	for _, last := range r.last {
		for i := range last {
			if last[i].holders == 1<<member {
				return true
			}
		}
	}
	return false
}

// twin returns what the journals that hold a body share.
func (o *oracle) twin(b *wire.Body) *twin {
	t := o.twins[b]
	if t == nil {
		t = &twin{}
		o.twins[b] = t
	}
	return t
}
