package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/backup"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/primary"
	"flotilla/agent/secondary"
)

// faultsEvery is how often an agent looks what its disks fail at, and faultStands how long one must last to be an alarm.
const (
	faultsEvery = time.Second
	faultStands = 5 * time.Second
)

// tellFaults tells the node what the disks of this agent fail at, until the context ends.
func (a *Agent) tellFaults(ctx context.Context) {
	tick := time.NewTicker(faultsEvery)
	defer tick.Stop()
	told := 0
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		var faults []core.Fault
		p := &a.parts
		if p.primary != nil {
			faults = append(faults, p.primary.Faults()...)
		}
		if p.backup != nil {
			faults = append(faults, p.backup.Faults()...)
		}
		if p.secondary != nil {
			faults = append(faults, p.secondary.Faults()...)
		}
		if len(faults) > 0 || told > 0 {
			a.loop.Do(func(n *core.Node, _ time.Duration) { n.SetFaults(faults) })
		}
		told = len(faults)
	}
}

// faultRemedies says what to do about each fault, GROUP/VOLUME standing for its volume. It is never written.
var faultRemedies = map[string]string{
	primary.SourceUnreadable:    "write the range anew, or mend the disk: it is copied when it can be read; docs/runbook.md, Disk errors",
	primary.SourceFailed:        "look at the disk; after a failed flush restart the agent on a sound one; docs/runbook.md, Disk errors",
	primary.SourceUnavailable:   "do what it says: it is tried again by itself",
	primary.SpoolFailed:         "look at the disk of spool.dir; the spool is tried again after 5 min, and until then writes are delayed sooner; docs/runbook.md, Overload",
	backup.JournalLost:          "nothing, if it happens once: it comes back as new; otherwise replace the disk",
	backup.JournalUnusable:      "mend the journal's directory or disk, or name another in journal.dir and restart the agent",
	secondary.TargetFailed:      "mend the device: it is written again by itself; a new, empty one: flotilla volume recopy GROUP/VOLUME",
	secondary.TargetUnavailable: "do what it says: it is tried again by itself; a new, empty device: flotilla volume recopy GROUP/VOLUME",
}

// faults lists what agents said that their disks fail at, and raises an alarm for each that lasts.
func (b *statusBuilder) faults(raise func(api.Alarm)) {
	for _, id := range cluster.SortedKeys(b.heard) {
		h := b.heard[id]
		if h.Ago >= silentAfter {
			continue // nobody knows
		}
		for _, f := range h.Status.Faults {
			out := api.Fault{Name: f.Name, Agent: b.agentName(id), Text: f.Text, Seconds: f.For.Seconds()}
			if g := b.st.Groups[f.Group]; g != nil && g.Volumes[f.Volume] != nil {
				out.Group, out.Volume = g.Name, g.Volumes[f.Volume].Name
				b.spoil(out)
			}
			b.out.Faults = append(b.out.Faults, out)
			if f.For < faultStands {
				continue
			}
			text, remedy := f.Text, faultRemedies[f.Name]
			if out.Volume != "" {
				text = fmt.Sprintf("volume %s: %s", out.Volume, text)
				remedy = strings.ReplaceAll(remedy, "GROUP/VOLUME", out.Group+"/"+out.Volume)
			}
			raise(api.Alarm{Name: f.Name, Group: out.Group, Agent: out.Agent, Text: text, Remedy: remedy})
		}
	}
}

// spoil notes a fault at its volume.
func (b *statusBuilder) spoil(f api.Fault) {
	g := b.out.Group(f.Group)
	if g == nil {
		return
	}
	if i := slices.IndexFunc(g.Volumes, func(v api.Volume) bool { return v.Name == f.Volume }); i >= 0 {
		g.Volumes[i].Faults = append(g.Volumes[i].Faults, f.Name)
	}
}
