package primary

import (
	"context"
	"slices"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// watchEvery is how often the watcher looks at the node though nobody woke it: for what depends on time alone.
const watchEvery = 100 * time.Millisecond

// watchPause is how long the watcher rests after a look when nobody waits for the next one: a busy async group wakes it
// with each write.
const watchPause = time.Millisecond

// watcher looks at the node whenever it says that something has changed, and tells the groups, the senders and the
// follower. Wake-ups that come while it looks are answered by one more look.
func (p *Primary) watcher(ctx context.Context) {
	senders := map[wire.AgentID]*sender{}
	defer func() {
		p.look(senders) // what was applied since the last look is clean, and need not be copied again
		for _, s := range senders {
			s.end()
		}
	}()
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	rest := time.NewTimer(0)
	defer rest.Stop()
	<-rest.C
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-t.C:
		}
		p.look(senders)
		urged := p.urge.wait()
		if p.hurried.Load() {
			continue
		}
		rest.Reset(watchPause)
		select {
		case <-ctx.Done():
			return
		case <-rest.C:
		case <-urged:
		}
	}
}

// look is one round of the watcher.
func (p *Primary) look(senders map[wire.AgentID]*sender) {
	groups := p.allGroups()
	seen := make([]observation, len(groups))
	var owners, members []wire.AgentID
	var want []groupWanted
	var gone []removedVolume
	var heard, changed bool
	p.loop.View(func(n *core.Node) {
		owners = n.Hops()
		st := n.State()
		heard = n.Captain() != 0 && n.CaptainSeen() < captainHeard
		if changed = st.Index != p.seenIndex || !p.seenAny; changed {
			p.seenIndex, p.seenAny = st.Index, true
			want, gone = wanted(n), removed(n)
		}
		if len(senders) > 0 {
			members = slices.Clone(st.Members)
		}
		for i, g := range groups {
			seen[i] = g.observe(n)
		}
	})
	if changed {
		p.want(want)
		p.tellRemoved(gone)
	}
	now := p.loop.Now()
	for i, g := range groups {
		if seen[i].known {
			g.take(seen[i], now, heard)
		} else {
			g.unknown(seen[i])
		}
	}
	p.lookForHurry(groups)
	for _, to := range owners {
		s := senders[to]
		if s == nil {
			s = startSender(p, to)
			senders[to] = s
		}
		kick(s.more)
	}
	for to, s := range senders {
		if !slices.Contains(members, to) && !slices.Contains(owners, to) && len(members) > 0 {
			s.end()
			delete(senders, to)
		}
	}
}

// unknown takes an observation of a group that the node does not serve yet: its volumes can be used all the same, in
// async, and everything that is written is dirty.
func (g *group) unknown(o observation) {
	g.shared.Store(o.shared)
	g.mode.Store(uint32(o.view.Mode))
	if o.view.Mode == cluster.Async {
		g.served.Store(true)
	}
	g.changed.broadcast()
}

func sortedGroups(st *cluster.State) []wire.GroupID { return cluster.SortedKeys(st.Groups) }

func sortedVolumes(g *cluster.Group) []wire.VolumeID { return cluster.SortedKeys(g.Volumes) }
