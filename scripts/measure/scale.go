package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
)

const (
	scaleSize    = int64(2) << 30 // in many portions, so that chance shares them evenly
	scaleWriters = 64
	scaleBlock   = 64 << 10
	scaleAim     = 0.85 // of what the number of components promises
)

// scale measures what clusters of different sizes carry when the components' links are what limits them. Each update crosses
// two components' links (to the owner, from it to the mirror) and, to be applied, the owner's once more, so that N
// components carry N/2 times what two do if nothing else limits them. Counted is what has become *held* in a window in the
// middle of a run: what is accepted also fills queues.
func scale(ctx context.Context, o options, rep *report, name string) ([]figure, error) {
	var figures []figure
	var first float64
	for i, n := range o.counts {
		c, err := carry(ctx, o, rep, name, n)
		if err != nil {
			return nil, fmt.Errorf("%d components: %w", n, err)
		}
		prefix := fmt.Sprintf("scale/%d components", n)
		figures = append(figures,
			figure{prefix + ", held", c.held / 1e6, "MB/s", nil},
			figure{prefix + ", committed sets", c.sets, "1/s", nil},
			figure{prefix + ", busiest link", c.busiest, "of its rate", nil},
			figure{prefix + ", idlest link", c.idlest, "of its rate", nil},
			figure{prefix + ", sent for each byte held", c.perHeld, "bytes", nil},
			figure{prefix + ", mirrored for each byte sent", c.perSent, "bytes", nil},
			figure{prefix + ", suspended", float64(c.suspended), "", never()})
		// Each update comes in twice: at its owner and at its mirror.
		full := figure{prefix + ", part of what the links can", c.held / (float64(n) * float64(o.link) * 1e6 / 8 / 2), "", nil}
		if i == 0 { // others can only be compared with it if its links are what limits it
			full.aim, first = atLeast(scaleAim), c.held
			figures = append(figures, full)
			continue
		}
		figures = append(figures, full)
		part := 0.0 // also when the first carried nothing
		if promised := first * float64(n) / float64(o.counts[0]); promised > 0 {
			part = c.held / promised
		}
		figures = append(figures, figure{prefix + ", part of what is promised", part, "", atLeast(scaleAim)})
	}
	return figures, nil
}

// carried is what a cluster did in the window.
type carried struct {
	held            float64 // application bytes that became held, a second
	suspended       int     // times that the primary gave its incarnation up
	sets            float64 // that were committed, a second
	busiest, idlest float64 // component's link: the fuller direction, as a part of its rate
	perHeld         float64 // bytes of frames that the primary sent for each byte that became held: 1 when nothing is sent twice
	perSent         float64 // bytes of frames that components sent to mirrors for each byte that the primary sent: the same
}

// carry runs a cluster of n components under as much load as it takes.
func carry(ctx context.Context, o options, rep *report, name string, n int) (_ *carried, err error) {
	r, err := startRig(ctx, o, shape{primaries: 1, components: n, size: scaleSize, group: []string{"--portion-size", "1MiB"}, link: o.link})
	if err != nil {
		return nil, err
	}
	defer func() { err = r.finish(err) }()
	p := startPressure(r.ctx, r.volumes[0], scaleWriters, scaleBlock)
	r.users = append(r.users, p.done.Wait)
	began := time.Now()
	if err := pause(r.ctx, o.warm); err != nil {
		return nil, r.explain(err)
	}
	first, err := r.mark()
	if err != nil {
		return nil, r.explain(err)
	}
	c := &carried{}
	last, told, shown := first, first, 0.0
	for last.at.Sub(first.at) < o.window {
		if err := pause(r.ctx, time.Second); err != nil {
			return nil, r.explain(err)
		}
		m, err := r.mark()
		if err = errors.Join(err, p.failed()); err != nil {
			return nil, r.explain(err)
		}
		c.add(last, m)
		if last = m; m.at.Sub(told.at) >= tellEvery {
			s := m.at.Sub(told.at).Seconds()
			rep.timeline(name, began, []moment{{m.at, fmt.Sprintf("%d components: held %.2f MB/s, queue %.0f MiB; primary sent %.2f MB/s, components to mirrors %.2f MB/s",
				n, (c.held-shown)/s/1e6, m.queued/(1<<20), (m.sent-told.sent)/s/1e6, (m.mirrored-told.mirrored)/s/1e6)}})
			told, shown = m, c.held
		}
	}
	p.end()
	c.finish(o, r, first, last)
	return c, nil
}

// tellEvery is the time between two lines of the timeline.
const tellEvery = 5 * time.Second

// mark is how far a run is.
type mark struct {
	at             time.Time
	incarnation    uint64  // 0 while the primary has none
	held, queued   float64 // bytes that clients wrote in this incarnation: held, and not yet
	committed      uint64
	traffic        map[string]fleet.Traffic
	sent, mirrored float64 // bytes of frames that primaries and components sent
}

// mark reads it. The captain's word of the primary is up to 100 ms old.
func (r *rig) mark() (*mark, error) {
	var m *mark
	err := r.until("a captain says how far the group is", func(s *api.Status) bool {
		g := s.Group(groupName)
		if g == nil {
			return false
		}
		m = &mark{at: time.Now(), committed: g.Committed}
		if len(g.Primaries) == 1 && g.Primaries[0].Known {
			x := &g.Primaries[0]
			m.incarnation, m.held, m.queued = x.Incarnation, float64(x.Bytes-x.Queued), float64(x.Queued)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	if m.traffic, err = r.network.Traffic(r.ctx, lan); err != nil {
		return nil, err
	}
	if m.sent, err = r.frames(r.primaries); err != nil {
		return nil, err
	}
	m.mirrored, err = r.frames(r.components)
	return m, err
}

// add counts what became held between two marks. What an incarnation that has ended held last is not known: the little
// since its last mark does not count.
func (c *carried) add(from, to *mark) {
	if to.incarnation != from.incarnation {
		if from.incarnation != 0 {
			c.suspended++
		}
		return
	}
	c.held += to.held - from.held
}

// finish turns what was counted into rates.
func (c *carried) finish(o options, r *rig, from, to *mark) {
	seconds := to.at.Sub(from.at).Seconds()
	c.perHeld, c.perSent = (to.sent-from.sent)/max(c.held, 1), (to.mirrored-from.mirrored)/max(to.sent-from.sent, 1)
	c.held /= seconds
	c.sets, c.idlest = float64(to.committed-from.committed)/seconds, math.Inf(1)
	link := float64(o.link) * 1e6 / 8 * seconds
	for _, h := range r.components {
		a, b := from.traffic[h.Name], to.traffic[h.Name]
		used := float64(max(b.Sent-a.Sent, b.Received-a.Received)) / link
		c.busiest, c.idlest = max(c.busiest, used), min(c.idlest, used)
	}
}

// frames returns how many bytes of frames hosts have sent.
func (r *rig) frames(hosts []*fleet.Host) (total float64, err error) {
	for _, h := range hosts {
		m, err := h.Metrics(r.ctx)
		if err != nil {
			return 0, err
		}
		n, err := m.Sum("flotilla_peer_sent_bytes_total", `kind="data"`)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}
