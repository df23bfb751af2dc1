package agent

import (
	"fmt"
	"net/http"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// postCheck begins a check of a group, or of one of its volumes, and answers with its number.
func (s *apiServer) postCheck(w http.ResponseWriter, r *http.Request) error {
	var q api.CheckRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	return s.change(w, r, func(n *core.Node) (cluster.Command, error) {
		g, err := groupNamed(n, r)
		if err != nil {
			return cluster.Command{}, err
		}
		start := &cluster.StartCheck{Group: g.ID, Repair: q.Repair, Rate: q.Rate, Label: n.Label()}
		if q.Volume != "" {
			if start.Volume = volumeNamed(g, q.Volume); start.Volume == 0 {
				return cluster.Command{}, noVolume(g, q.Volume)
			}
		}
		return cluster.Command{StartCheck: start}, nil
	})
}

// deleteCheck stops a group's check.
func (s *apiServer) deleteCheck(w http.ResponseWriter, r *http.Request) error {
	return s.change(w, r, func(n *core.Node) (cluster.Command, error) {
		g, err := groupNamed(n, r)
		if err != nil {
			return cluster.Command{}, err
		}
		return cluster.Command{StopCheck: &cluster.StopCheck{Group: g.ID}}, nil
	})
}

// volumeNamed returns the number of a group's volume, 0 when it has none of that name.
func volumeNamed(g *cluster.Group, name string) wire.VolumeID {
	for id, v := range g.Volumes {
		if v.Name == name {
			return id
		}
	}
	return 0
}

func noVolume(g *cluster.Group, name string) error {
	return &api.Error{Code: api.NotFound, Text: fmt.Sprintf("group %q has no volume named %q: `flotilla volume list` lists them", g.Name, name)}
}

// scheduleOf returns the command's part of a request, nil for nothing.
func scheduleOf(q *api.CheckSchedule) *cluster.CheckSchedule {
	if q == nil {
		return nil
	}
	return &cluster.CheckSchedule{CheckEvery: q.EverySeconds, CheckRepair: q.Repair, CheckRate: q.Rate}
}

// check returns a group's newest check: what the primaries that have ended recorded, and the last word of the others.
func (b *statusBuilder) check(g *cluster.Group) *api.Check {
	c := g.Check
	if c == nil {
		return nil
	}
	out := &api.Check{
		Number: c.Number, Repair: c.Repair, Rate: c.Rate, Started: time.Unix(0, c.Label).UTC(), Scheduled: c.Scheduled,
		Running: g.Checking(), Stopped: c.Stopped, Found: []api.CheckFound{},
	}
	if v := g.Volumes[c.Volume]; v != nil {
		out.Volume = v.Name
	}
	for i := range c.Parts {
		t := &c.Parts[i].Tally
		if !c.Parts[i].Ended {
			gs := b.groupStatus(g, c.Parts[i].Primary)
			if gs == nil || gs.Check == nil || gs.Check.Number != c.Number {
				continue
			}
			t = &gs.Check.Tally
		}
		out.Total += t.Total
		out.Done += t.Done
		out.Differing += t.Differing
		out.Repaired += t.Repaired
		out.Unknown += t.Unknown
		for k := range t.Found {
			out.Found = append(out.Found, foundOf(g, &t.Found[k]))
		}
	}
	if out.Running && out.Done > 0 {
		out.LeftSeconds = new(seconds(b.now-c.Label) * float64(out.Total-out.Done) / float64(out.Done))
	}
	return out
}

func foundOf(g *cluster.Group, f *cluster.CheckFound) api.CheckFound {
	name := fmt.Sprintf("volume %d", f.Volume) // deleted since
	if v := g.Volumes[f.Volume]; v != nil {
		name = v.Name
	}
	return api.CheckFound{Volume: name, Offset: f.Offset, Length: f.Length, Set: uint64(f.Set), Unreadable: f.Unreadable, Repaired: f.Repaired}
}

// checkAlarm is raised while what the newest check has found is not repaired.
func checkAlarm(g *api.Group, raise func(api.Alarm)) {
	c := g.Check
	if c == nil || c.Differing == c.Repaired || (c.Running && c.Repair) || g.Promote != nil {
		return
	}
	raise(api.Alarm{
		Name: "target-differs", Group: g.Name,
		Text:   fmt.Sprintf("check %d found %d bytes of its targets in pieces that are not what their sources are, and %d of them are repaired", c.Number, c.Differing, c.Repaired),
		Remedy: "look at the secondary's disks, then: flotilla check " + g.Name + " --repair --wait",
	})
}
