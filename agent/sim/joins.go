package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
)

// maxJoins bounds the components that join in one run.
const maxJoins = 2

// join admits a new agent in the backup role, and starts it once the cluster knows it.
func (w *World) join(r *rand.Rand) {
	if w.joins < maxJoins {
		w.admit(r)
	}
}

// admit is join without a bound.
func (w *World) admit(r *rand.Rand) {
	w.joins++
	name := fmt.Sprintf("j%d", w.joins)
	w.happened(joinCluster)
	var try func()
	try = func() {
		if st := w.newest(); st.AgentByName(name) != nil {
			h := newHost(w, st.AgentByName(name).ID, st, core.Boot{})
			h.clock.adjust(w.now, 0.1*(r.Float64()-0.5), 0)
			h.promised = st.Generation // as it is told when it is admitted
			w.hosts = append(w.hosts, h)
			w.trace("agent %d joins", h.id)
			h.start()
			return
		}
		w.ask(func(n *core.Node) {
			n.Propose(cluster.Command{AddAgent: &cluster.AddAgent{Name: name, Address: name, Backup: true}})
		})
		w.after(300*time.Millisecond, "join again", try)
	}
	try()
}

// removeForGood ends a component's host for ever. When the component was declared lost, an operator removes its agent.
func (w *World) removeForGood(r *rand.Rand) {
	var hs []*host
	for _, h := range w.hosts {
		if h.backup && len(h.sources) == 0 && !h.doomed {
			hs = append(hs, h)
		}
	}
	if len(hs) < 3 {
		return
	}
	h := hs[r.IntN(len(hs))]
	if h.node == nil || !w.othersWell(h) || !w.oracle.allMirrored(h) || !w.votersWell() {
		return
	}
	h.kill(w.power)
	h.doomed = true
	w.trace("host %d is gone for good", h.id)
	w.happened(removeLost)
	var try func()
	try = func() {
		st := w.newest()
		if st.Agents[h.id] == nil {
			w.trace("agent %d is removed", h.id)
			h.removed = true
			return
		}
		if !st.IsMember(h.id) {
			w.ask(func(n *core.Node) {
				n.Propose(cluster.Command{RemoveAgent: &cluster.RemoveAgent{Agent: h.id}})
			})
		}
		w.after(300*time.Millisecond, "remove again", try)
	}
	w.after(300*time.Millisecond, "remove", try)
}

// votersWell reports whether all voters are up, and so many that a majority is left when one goes for good: while the seat of one that
// was removed is not taken again there may be two. A majority that does not come back is the end of what the protocol promises.
func (w *World) votersWell() bool {
	voters := w.captain().Voters()
	for _, id := range voters {
		if h := w.host(id); h == nil || h.node == nil {
			return false
		}
	}
	return len(voters) > 2
}
