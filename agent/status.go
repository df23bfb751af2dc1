package agent

import (
	"fmt"
	"math"
	"slices"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// silentAfter is the silence of an agent after which status raises an alarm, journalFull the filling of a journal (new
// updates are refused from two thirds on), and standsAfter how long a group's targets may lag behind.
const (
	silentAfter = 5 * time.Second
	journalFull = 0.6
	standsAfter = 30 * time.Second
)

// statusOf makes the document of a node. It copies all that it keeps. elected is when the node last became captain.
func statusOf(n *core.Node, elected time.Duration) *api.Status {
	b := &statusBuilder{st: n.State(), heard: n.Heard(), now: n.Label(), tenure: n.Now() - elected, voters: n.Voters(), waiting: n.Waiting}
	s := &api.Status{
		Version: api.Version, Cluster: b.st.Cluster, At: time.Unix(0, b.now).UTC(), Answered: b.agentName(n.ID()),
		Complete: b.heard != nil, Captain: b.agentName(n.Captain()), View: uint64(b.st.View), Generation: b.st.Generation, Settled: b.st.Settled == b.st.View, Degraded: len(b.st.Members) < 2,
		Agents: []api.Agent{}, Components: []api.Component{}, Groups: []api.Group{}, Alarms: []api.Alarm{},
		Faults: []api.Fault{},
	}
	b.out, b.shares = s, b.st.Shares()
	for _, id := range cluster.SortedKeys(b.st.Agents) {
		b.agent(b.st.Agents[id])
	}
	for _, id := range cluster.SortedKeys(b.st.Groups) {
		b.group(b.st.Groups[id])
	}
	b.alarms()
	return s
}

type statusBuilder struct {
	st    *cluster.State
	heard map[wire.AgentID]core.Heard // nil when this agent is not the captain
	now   int64                       // label
	// tenure is how long a captain has been one: before it is a while, who was not heard of need not be silent.
	tenure time.Duration
	voters []wire.AgentID
	// waiting says what a group's oldest set waits for.
	waiting func(wire.GroupID) string
	shares  cluster.Shares // of the sets that are granted now
	out     *api.Status
}

// agentName returns an agent's name, its number when the state has no such agent, and nothing for 0.
func (b *statusBuilder) agentName(id wire.AgentID) string {
	switch a := b.st.Agents[id]; {
	case a != nil:
		return a.Name
	case id == 0:
		return ""
	default:
		return fmt.Sprintf("agent %d", id)
	}
}

func (b *statusBuilder) heardSeconds(id wire.AgentID) *float64 {
	if h, ok := b.heard[id]; ok {
		return new(h.Ago.Seconds())
	}
	return nil
}

func rolesOf(a *cluster.Agent) []string {
	roles := []string{}
	for _, r := range []struct {
		has  bool
		role Role
	}{{a.Primary, Primary}, {a.Backup, Backup}, {a.Secondary, Secondary}} {
		if r.has {
			roles = append(roles, string(r.role))
		}
	}
	return roles
}

func (b *statusBuilder) agent(a *cluster.Agent) {
	b.out.Agents = append(b.out.Agents, api.Agent{
		ID: uint64(a.ID), Name: a.Name, Address: a.Address, ComponentAddress: a.ComponentAddress, Roles: rolesOf(a), Domain: a.Domain,
		Voter: slices.Contains(b.voters, a.ID), HeardSeconds: b.heardSeconds(a.ID), LeftBehind: a.Behind,
	})
	if !a.Backup {
		return
	}
	c := api.Component{Agent: a.Name, Address: a.Address, ComponentAddress: a.ComponentAddress, Member: b.st.IsMember(a.ID), Lost: a.Lost, Drain: a.Drain, HeardSeconds: b.heardSeconds(a.ID)}
	c.Domain, c.Weight, c.WeightFixed, c.SharePercent = a.Domain, int(a.ShareWeight()), a.WeightFixed, b.shares.Percent(a.ID)
	if c.Drain && c.Member {
		if g := b.st.Uses(a.ID); g != nil {
			c.DrainsFor = fmt.Sprintf("group %s: sets from %d on", g.Name, g.Applied+1)
			if w := b.waiting(g.ID); w != "" {
				c.DrainsFor = fmt.Sprintf("group %s: %s", g.Name, w)
			}
		}
	}
	if h, ok := b.heard[a.ID]; ok && h.Status.Component != nil {
		cs := h.Status.Component
		c.Rebuilding, c.UnheldUpdates, c.UnappliedSets = cs.Rebuilding, cs.Unheld, cs.Sets
		c.OwnedUpdates, c.OwnedBytes, c.MirroredUpdates, c.MirroredBytes = cs.Owned, cs.OwnedBytes, cs.Mirrored, cs.MirroredBytes
		c.OwnedRate, c.MirroredRate = math.Round(h.Load.Owned), math.Round(h.Load.Mirrored)
		c.BusyPercent, c.WaitingBytes = 100*h.Load.Busy, int64(h.Load.Waiting)
		c.JournalUsed, c.JournalLimit = cs.Used, cs.Limit
	}
	b.out.Components = append(b.out.Components, c)
}

func (b *statusBuilder) group(g *cluster.Group) {
	out := api.Group{
		ID: uint32(g.ID), Name: g.Name, Mode: g.Mode.String(), PeriodMS: g.PeriodMS, SetBytes: g.SetBytes,
		PortionSize: g.PortionSize, ResyncRate: g.ResyncRate, Bandwidth: g.Bandwidth, Spool: g.SpoolBytes(), Phase: g.Phase.String(),
		Granted: uint64(g.Granted), Committed: uint64(g.Committed), Applying: uint64(g.ApplyTo), Applied: uint64(g.Applied),
		Point: pointOf(newestPoint(g)), OnTargets: pointOf(g.Point), Torn: g.Torn,
		Primaries: []api.Source{}, Volumes: []api.Volume{},
	}
	if g.Mode == cluster.Sync {
		out.OnDegraded, out.DegradeAfterMS = g.OnDegraded.String(), g.DegradeAfter().Milliseconds()
	}
	out.Degraded = degradedOf(g)
	if g.Applied < g.Committed || out.Point == nil || b.now-newestPoint(g).Label > int64(standsAfter) {
		out.Waiting = b.waiting(g.ID)
	}
	if out.Point != nil {
		out.RPOSeconds = new(seconds(b.now - newestPoint(g).Label))
	}
	for _, p := range g.Primaries() {
		src := b.source(g, p)
		out.Open = max(out.Open, src.Open)
		out.Primaries = append(out.Primaries, src)
	}
	for _, id := range cluster.SortedKeys(g.Volumes) {
		v := g.Volumes[id]
		vol := api.Volume{
			ID: uint32(v.ID), Name: v.Name, Size: v.Size, Primary: b.agentName(v.Primary), Source: v.Source,
			Secondary: b.agentName(v.Secondary), Target: v.Target, Copied: v.CopiedAt != 0, InPlace: v.InPlace, Seeded: v.Seeded,
			BitmapAtEnd: v.BitmapAtEnd, Faults: []string{},
		}
		if v.Removed == nil {
			b.copying(g, v, &vol)
			vol.GrowsTo = v.Grow
		}
		vol.Removed = removedOf(g, v)
		out.Volumes = append(out.Volumes, vol)
	}
	if g.Phase != cluster.Replicating {
		out.Promote = promoteOf(g)
	}
	out.Check = b.check(g)
	out.CheckSchedule = api.CheckSchedule{EverySeconds: g.CheckEvery, Repair: g.CheckRepair, Rate: g.CheckRate}
	b.out.Groups = append(b.out.Groups, out)
}

// copying says how the copy of a volume stands, by its primary's newest word.
func (b *statusBuilder) copying(g *cluster.Group, v *cluster.Volume, out *api.Volume) {
	gs := b.groupStatus(g, v.Primary)
	if gs == nil {
		return
	}
	for _, c := range gs.Copies {
		if c.Volume != v.ID {
			continue
		}
		out.CopyLeft, out.CopyTotal, out.CopyRate = c.Left, c.Total, c.Rate
		if c.Rate > 0 {
			out.CopySecondsLeft = new(math.Ceil(float64(c.Left) / float64(c.Rate)))
		}
	}
}

// removedOf returns where the target of a removed volume stands, nil for any other.
func removedOf(g *cluster.Group, v *cluster.Volume) *api.Removed {
	r := v.Removed
	switch {
	case r == nil:
		return nil
	case v.Usable():
		return &api.Removed{Point: pointOf(r.Point), Done: g.Done(v)}
	case r.Torn:
		return &api.Removed{Done: g.Done(v), Reason: "a set was lost while it was being applied"}
	}
	return &api.Removed{Done: g.Done(v), Reason: "its first copy was not whole"}
}

// source returns where a primary stands, by its newest word to the captain about its newest incarnation.
func (b *statusBuilder) source(g *cluster.Group, p wire.AgentID) api.Source {
	src := api.Source{Agent: b.agentName(p)}
	if gs := b.groupStatus(g, p); gs != nil {
		src.Known, src.Incarnation, src.Open = true, uint64(gs.Inc), uint64(gs.Open)
		src.Seq, src.HeldUpTo = uint64(gs.Seq), uint64(gs.HeldUpTo)
		src.Bytes, src.Queued, src.CopyLeft, src.CopyTotal = gs.Bytes, gs.Queued, gs.Resync, gs.CopyTotal
		if gs.NoRoom && g.Live(p) == nil { // while an earlier run's incarnation is not ended yet, no resync of the group waits
			src.ResyncNeeds = gs.Need
		}
		src.Overload = overloadOf(gs.Overload)
		src.Written, src.Folded, src.Compressed, src.Sent = gs.Written, gs.Folded, gs.Compressed(), gs.Sent
	}
	return src
}

func overloadOf(o *core.Overload) *api.Overload {
	if o == nil {
		return nil
	}
	out := &api.Overload{Step: o.Step, DelayMS: float64(o.Delay) / float64(time.Millisecond), Spooled: o.Spooled, Spool: o.Spool}
	if o.FullIn > 0 {
		out.FullSeconds = new(o.FullIn.Seconds())
	}
	return out
}

func (b *statusBuilder) groupStatus(g *cluster.Group, p wire.AgentID) *core.GroupStatus {
	h := b.heard[p]
	for i := range h.Status.Groups {
		if h.Status.Groups[i].Group == g.ID {
			return &h.Status.Groups[i]
		}
	}
	return nil
}

// newestPoint returns the newest recovery point, of set 0 when there is none.
func newestPoint(g *cluster.Group) cluster.RecoveryPoint {
	if n := len(g.Points); n > 0 {
		return g.Points[n-1]
	}
	return g.Point
}

func pointOf(p cluster.RecoveryPoint) *api.Point {
	if p.Set == 0 {
		return nil
	}
	return &api.Point{Set: uint64(p.Set), Label: time.Unix(0, p.Label).UTC()}
}

// seconds turns a difference of labels into seconds. Labels of two captains may be a little apart.
func seconds(nanoseconds int64) float64 { return time.Duration(max(nanoseconds, 0)).Seconds() }

func promoteOf(g *cluster.Group) *api.Promote {
	p := &api.Promote{
		Doubted: g.Doubted(), Degraded: degradedOf(g),
		Asked: time.Unix(0, g.PromoteLabel).UTC(), Incarnation: len(g.Incs), Chosen: g.FinalChosen, Final: uint64(g.Final),
		Point: pointOf(g.Point), LostKnown: g.Outcome.Known, LostUpdates: g.Outcome.Updates, LostBytes: g.Outcome.Bytes,
	}
	for _, inc := range g.Incs {
		if inc.Sealed {
			p.Sealed++
		}
	}
	if g.Point.Set != 0 {
		p.LostSeconds = seconds(g.PromoteLabel - g.Point.Label)
	}
	return p
}

// degradedOf returns how a sync group departs from acknowledging only what is held, nil when it does not.
func degradedOf(g *cluster.Group) *api.Degraded {
	if g.Degraded == nil {
		return nil
	}
	return &api.Degraded{Phase: g.Degraded.Phase.String(), Since: time.Unix(0, g.Degraded.Since).UTC()}
}

func (b *statusBuilder) alarms() {
	raise := func(a api.Alarm) { b.out.Alarms = append(b.out.Alarms, a) }
	if b.out.Captain == "" {
		raise(api.Alarm{
			Name: "no-captain", Text: "this agent knows no captain: nothing is granted, committed or changed",
			Remedy: "start the other agents, or mend the network: a majority of the voters must reach each other",
		})
	}
	switch len(b.st.Members) {
	case 0:
		raise(api.Alarm{
			Name: "no-components", Text: "no backup component is in the view: nothing is replicated",
			Remedy: "start the agents with the backup role",
		})
	case 1:
		raise(api.Alarm{
			Name: "degraded", Agent: b.agentName(b.st.Members[0]),
			Text:   "one backup component is in the view: updates have a single copy until they are applied",
			Remedy: "start another agent with the backup role, or join one",
		})
	}
	for _, a := range b.out.Agents {
		if a.LeftBehind {
			raise(api.Alarm{
				Name: "left-behind", Agent: a.Name, Text: fmt.Sprintf("generation %d of the cluster has begun without it: it is refused if it comes back", b.st.Generation),
				Remedy: "delete its volumes and remove it with `flotilla component remove " + a.Name + "`; its host joins anew with an empty state directory",
			})
		} else if a.HeardSeconds == nil && b.out.Complete && b.tenure > silentAfter {
			raise(api.Alarm{Name: "silent", Agent: a.Name, Text: "the captain has not heard of it", Remedy: "start the agent, or mend its network"})
		} else if a.HeardSeconds != nil && *a.HeardSeconds > silentAfter.Seconds() {
			raise(api.Alarm{
				Name: "silent", Agent: a.Name, Text: fmt.Sprintf("the captain has not heard of it for %.0f s", *a.HeardSeconds),
				Remedy: "start the agent, or mend its network",
			})
		}
	}
	b.cutLinks(raise)
	b.faults(raise)
	for _, c := range b.out.Components {
		if c.JournalLimit > 0 && float64(c.JournalUsed) > journalFull*float64(c.JournalLimit) {
			raise(api.Alarm{
				Name: "journal-full", Agent: c.Agent,
				Text:   fmt.Sprintf("its journal uses %d of %d bytes: primaries are slowed, then suspended", c.JournalUsed, c.JournalLimit),
				Remedy: "look whether the secondary is up, or raise journal.limit",
			})
		}
	}
	for i := range b.out.Groups {
		g := &b.out.Groups[i]
		if d := b.st.Exposed(b.st.Groups[wire.GroupID(g.ID)]); d != "" && g.Promote == nil {
			raise(api.Alarm{
				Name: "exposed", Group: g.Name,
				Text:   fmt.Sprintf("no component is known to be outside of domain %s, where it is written: the journals could die with the primary's site", d),
				Remedy: "join a component at the secondary's site, or say where the components are with `flotilla component set NAME --domain DOMAIN`",
			})
		}
		b.primaryAlarms(g, raise)
		b.resyncAlarms(g, raise)
		degradedAlarm(g, raise)
		checkAlarm(g, raise)
		lag := g.OnTargets != nil && time.Duration(b.now-g.OnTargets.Label.UnixNano()) > standsAfter
		if g.Promote == nil && g.Waiting != "" && lag {
			raise(api.Alarm{
				Name: "standing-still", Group: g.Name, Text: "its targets do not advance: " + g.Waiting,
				Remedy: "start or mend what is waited for; docs/runbook.md says how",
			})
		}
		if g.Torn {
			remedy := "keep the primaries running until the resync is whole"
			if g.Promote != nil {
				remedy = "check and repair what is on the targets before you use it, or restore it from elsewhere"
			}
			raise(api.Alarm{
				Name: "torn", Group: g.Name,
				Text: "a set was lost while it was being applied: the targets are not at a recovery point", Remedy: remedy,
			})
		}
	}
}

// cutLinks raises an alarm for every two agents that the captain hears and that do not reach each other.
func (b *statusBuilder) cutLinks(raise func(api.Alarm)) {
	quick := func(id wire.AgentID) bool { h, ok := b.heard[id]; return ok && h.Ago < silentAfter }
	seen := map[[2]wire.AgentID]bool{}
	for _, id := range cluster.SortedKeys(b.heard) {
		for _, other := range b.heard[id].Status.Unreached {
			pair := [2]wire.AgentID{min(id, other), max(id, other)}
			if seen[pair] || !quick(id) || !quick(other) {
				continue
			}
			seen[pair] = true
			raise(api.Alarm{
				Name: "cut-link", Agent: b.agentName(pair[0]),
				Text:   fmt.Sprintf("it and %s do not reach each other: what they have for each other goes over other agents", b.agentName(pair[1])),
				Remedy: "mend the network between the two; nothing is lost meanwhile",
			})
		}
	}
}

// degradedAlarm names a sync group that acknowledges, or has acknowledged, what is not held.
func degradedAlarm(g *api.Group, raise func(api.Alarm)) {
	if g.Degraded == nil || g.Promote != nil {
		return
	}
	text := "its writes can not be held, and wait until every primary knows that it degrades"
	switch g.Degraded.Phase {
	case "degraded":
		text = "it is sync and acknowledges writes that are not held: a promote may not find those"
	case "ending":
		text = "it is becoming synchronous again: writes wait until all that was acknowledged is held"
	}
	raise(api.Alarm{
		Name: "sync-degraded", Group: g.Name,
		Text:   fmt.Sprintf("since %s: %s", g.Degraded.Since.Format(time.RFC3339), text),
		Remedy: "mend what keeps its writes from being held (other alarms name it); it is synchronous again by itself",
	})
}

// resyncAlarms names the resyncs that wait for room, and the targets that are overwritten in place.
func (b *statusBuilder) resyncAlarms(g *api.Group, raise func(api.Alarm)) {
	for _, p := range g.Primaries {
		if p.ResyncNeeds > 0 && g.Promote == nil {
			raise(api.Alarm{
				Name: "resync-no-room", Group: g.Name, Agent: p.Agent,
				Text: fmt.Sprintf("its resync of up to %d bytes does not fit into the journals, and waits: what is written meanwhile is on its source and in its bitmap only; the targets stay at their last recovery point",
					p.ResyncNeeds),
				Remedy: fmt.Sprintf("raise journal.limit or join a component; or give that point up until the resync is whole: flotilla group set %s --allow-inconsistent", g.Name),
			})
		}
	}
	for _, v := range g.Volumes {
		if v.InPlace && v.Removed == nil {
			raise(api.Alarm{
				Name: "inconsistent", Group: g.Name, Agent: v.Secondary,
				Text:   fmt.Sprintf("the target of volume %s is overwritten in place, as was allowed: there is no recovery point of it until its resync is whole", v.Name),
				Remedy: "keep its primary running until then; `flotilla volume list` shows how far it is",
			})
		}
	}
}

// primaryAlarms names the primaries that hold up the recovery point of the others, and the volumes that were taken out so
// that they do not.
func (b *statusBuilder) primaryAlarms(g *api.Group, raise func(api.Alarm)) {
	for _, p := range g.Primaries {
		i := slices.IndexFunc(b.out.Agents, func(a api.Agent) bool { return a.Name == p.Agent })
		if g.Promote != nil || len(g.Primaries) < 2 || i < 0 || !b.out.Complete {
			continue
		}
		silent := b.tenure
		if heard := b.out.Agents[i].HeardSeconds; heard != nil {
			silent = time.Duration(*heard * float64(time.Second))
		}
		if silent <= silentAfter {
			continue
		}
		raise(api.Alarm{
			Name: "point-frozen", Group: g.Name, Agent: p.Agent,
			Text: fmt.Sprintf("its recovery point stands still: primary %s has not been heard of for %.0f s, and nobody can say what its volumes hold; the others go on in a chain",
				p.Agent, silent.Seconds()),
			Remedy: fmt.Sprintf("start that agent, or mend its network; if it is gone for good: flotilla group set %s --remove-primary %s", g.Name, p.Agent),
		})
	}
	for _, v := range g.Volumes {
		if v.Removed == nil {
			continue
		}
		where := "at no point: " + v.Removed.Reason
		if v.Removed.Point != nil {
			where = fmt.Sprintf("at set %d of %s", v.Removed.Point.Set, v.Removed.Point.Label.Format(time.RFC3339))
		}
		raise(api.Alarm{
			Name: "volume-removed", Group: g.Name, Agent: v.Primary,
			Text:   fmt.Sprintf("volume %s is out of the group: it is neither replicated nor served, and its target on %s stands %s", v.Name, v.Secondary, where),
			Remedy: fmt.Sprintf("save or use the target if it is wanted, then: flotilla volume delete %s/%s; create it anew to protect it again", g.Name, v.Name),
		})
	}
}
