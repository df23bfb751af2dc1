package agent

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/primary"
	"flotilla/blockdev"
	"flotilla/wire"
)

func noAgent(name string) error {
	return &api.Error{Code: api.NotFound, Text: fmt.Sprintf("there is no agent named %q: `flotilla status` lists them", name)}
}

// groupNamed returns the group that a request's path names.
func groupNamed(n *core.Node, r *http.Request) (*cluster.Group, error) {
	name := r.PathValue("group")
	if g := n.State().GroupByName(name); g != nil {
		return g, nil
	}
	return nil, &api.Error{Code: api.NotFound, Text: fmt.Sprintf("there is no group named %q: `flotilla group list` lists them", name)}
}

// getStatus answers with the captain's view, or with this agent's own where the captain cannot be reached.
func (s *apiServer) getStatus(w http.ResponseWriter, r *http.Request) error {
	var own *api.Status
	var captain wire.AgentID
	var address string
	elected := s.events.electedAt()
	s.loop.View(func(n *core.Node) {
		own, captain = statusOf(n, elected), n.Captain()
		if a := n.State().Agents[captain]; a != nil {
			address = a.Address
		}
	})
	own.Cluster = s.creds().Cluster.String() // also before the state has arrived
	if !own.Complete && address != "" && !passedOn(r) {
		status, document, err := s.fetch(r, captain, address)
		if alarms := s.ownExpiry(); err == nil && len(alarms) > 0 {
			document, err = addAlarms(document, alarms)
		}
		if err == nil {
			writeJSON(w, status, document)
			return nil
		}
		own.Alarms = append(own.Alarms, api.Alarm{
			Name: "captain-unreachable", Agent: own.Captain, Text: err.Error(), Remedy: "look at that agent and at the network to it",
		})
	}
	own.Alarms = append(append(own.Alarms, s.ownExpiry()...), s.othersExpiry()...)
	writeJSON(w, http.StatusOK, own)
	return nil
}

func (s *apiServer) getEvents(w http.ResponseWriter, r *http.Request) error {
	after, err := numberParameter(r, "after")
	if err != nil {
		return err
	}
	wait, err := numberParameter(r, "wait")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), min(time.Duration(min(wait, 3600))*time.Second, maxEventWait))
	defer cancel()
	events, missed, next := s.events.after(ctx, after)
	page := api.EventPage{Run: s.events.run, Missed: missed, Events: []api.Event{}, Next: next}
	names := map[wire.GroupID]string{}
	s.loop.View(func(n *core.Node) {
		for id, g := range n.State().Groups {
			names[id] = g.Name
		}
	})
	for _, e := range events {
		name := names[e.group]
		if name == "" && e.group != 0 {
			name = fmt.Sprintf("group %d", e.group) // deleted meanwhile
		}
		page.Events = append(page.Events, api.Event{Seq: e.seq, At: e.at.UTC(), Name: e.name, Group: name, Attrs: e.attrs})
	}
	writeJSON(w, http.StatusOK, page)
	return nil
}

// numberParameter reads a number of the query; 0 when it is not there.
func numberParameter(r *http.Request, key string) (uint64, error) {
	text := r.URL.Query().Get(key)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, &api.Error{Code: api.Invalid, Text: fmt.Sprintf("parameter %s: %q is not a number", key, text)}
	}
	return n, nil
}

func (s *apiServer) getLocal(w http.ResponseWriter, _ *http.Request) error {
	l := s.local()
	l.Devices = s.devices()
	writeJSON(w, http.StatusOK, l)
	return nil
}

func (s *apiServer) getDevice(w http.ResponseWriter, r *http.Request) error {
	path := r.URL.Query().Get("path")
	seen, err := blockdev.Inspect(path)
	if err != nil {
		return &api.Error{Code: api.Invalid, Text: err.Error()}
	}
	answer := api.Device{Path: path, Size: seen.Size, SizeWithBitmap: primary.SizeWithBitmap(seen.Size), Signatures: seen.Signatures}
	if seen.Block {
		answer.LogicalBlock = seen.BlockSizes.Logical
	}
	for _, u := range seen.Uses {
		answer.Uses = append(answer.Uses, u.String())
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// change proposes a command and answers with the number that it gave.
func (s *apiServer) change(w http.ResponseWriter, r *http.Request, command func(n *core.Node) (cluster.Command, error)) error {
	id, err := s.propose(r.Context(), command)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, api.Made{ID: id})
	return nil
}

func modeOf(text string) (cluster.Mode, error) {
	if text == "" {
		return 0, nil
	}
	if m, ok := cluster.ParseMode(text); ok {
		return m, nil
	}
	return 0, &api.Error{Code: api.Invalid, Text: fmt.Sprintf("mode %q is neither async nor sync", text)}
}

func onDegradedOf(text string) (cluster.OnDegraded, error) {
	if text == "" {
		return cluster.BlockDegraded, nil
	}
	if o, ok := cluster.ParseOnDegraded(text); ok {
		return o, nil
	}
	return 0, &api.Error{Code: api.Invalid, Text: fmt.Sprintf("on_degraded %q is neither block nor async", text)}
}

func (s *apiServer) postGroup(w http.ResponseWriter, r *http.Request) error {
	var q api.GroupRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	mode, err := modeOf(q.Mode)
	if err != nil {
		return err
	}
	onDegraded, err := onDegradedOf(q.OnDegraded)
	if err != nil {
		return err
	}
	if err := checkName("group", q.Name); err != nil {
		return err
	}
	if q.CheckSchedule != nil {
		return &api.Error{Code: api.Invalid, Text: "check_schedule is set once the group is there"}
	}
	return s.change(w, r, func(*core.Node) (cluster.Command, error) {
		return cluster.Command{CreateGroup: &cluster.CreateGroup{
			Name: q.Name, Mode: mode, PeriodMS: q.PeriodMS, SetBytes: q.SetBytes, PortionSize: q.PortionSize, ResyncRate: api.Rate(q.ResyncRate), Bandwidth: api.Rate(q.Bandwidth), Spool: spoolOf(q.Spool),
			Contract: cluster.Contract{OnDegraded: onDegraded, DegradeAfterMS: q.DegradeAfterMS},
		}}, nil
	})
}

func (s *apiServer) patchGroup(w http.ResponseWriter, r *http.Request) error {
	var q api.GroupRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	mode, err := modeOf(q.Mode)
	if err != nil {
		return err
	}
	onDegraded, err := onDegradedOf(q.OnDegraded)
	if err != nil {
		return err
	}
	if q.RemovePrimary != "" {
		return s.removePrimary(w, r, &q)
	}
	if q.AllowInconsistent {
		return s.allowInconsistent(w, r, &q)
	}
	if q.Force {
		return &api.Error{Code: api.Invalid, Text: "force is for remove_primary: nothing else of a group needs it"}
	}
	if q.Name != "" || q.PortionSize != 0 {
		return &api.Error{Code: api.Invalid, Text: "a group's name and portion size are fixed when it is made: make another group"}
	}
	return s.change(w, r, func(n *core.Node) (cluster.Command, error) {
		g, err := groupNamed(n, r)
		if err != nil {
			return cluster.Command{}, err
		}
		set := &cluster.SetGroup{
			Group: g.ID, Mode: mode, PeriodMS: q.PeriodMS, SetBytes: q.SetBytes, Schedule: scheduleOf(q.CheckSchedule), ResyncRate: q.ResyncRate, Bandwidth: q.Bandwidth,
		}
		if q.Spool != nil {
			set.Spool = new(spoolOf(q.Spool))
		}
		if q.OnDegraded != "" {
			set.OnDegraded = &onDegraded
		}
		if q.DegradeAfterMS != 0 {
			set.DegradeAfterMS = &q.DegradeAfterMS
		}
		return cluster.Command{SetGroup: set}, nil
	})
}

// spoolOf returns the size of a spool as the state has it: nothing said is its default, and nothing wanted is not 0.
func spoolOf(bytes *int64) int64 {
	switch {
	case bytes == nil:
		return 0
	case *bytes == 0:
		return cluster.NoSpool
	}
	return *bytes
}

// allowInconsistent has the resyncs of a group applied in place.
func (s *apiServer) allowInconsistent(w http.ResponseWriter, r *http.Request, q *api.GroupRequest) error {
	if (*q != api.GroupRequest{AllowInconsistent: true}) {
		return &api.Error{Code: api.Invalid, Text: "allow_inconsistent is asked for alone: change the settings in another request"}
	}
	return s.change(w, r, func(n *core.Node) (cluster.Command, error) {
		g, err := groupNamed(n, r)
		if err != nil {
			return cluster.Command{}, err
		}
		return cluster.Command{AllowInconsistent: &cluster.AllowInconsistent{Group: g.ID}}, nil
	})
}

// removePrimary takes an agent's volumes out of a group. Whether it is heard only the captain knows, and one that was
// elected a moment ago does not yet.
func (s *apiServer) removePrimary(w http.ResponseWriter, r *http.Request, q *api.GroupRequest) error {
	if (*q != api.GroupRequest{RemovePrimary: q.RemovePrimary, Force: q.Force}) {
		return &api.Error{Code: api.Invalid, Text: "remove_primary is asked for alone: change the settings in another request"}
	}
	elected := s.events.electedAt()
	return s.change(w, r, func(n *core.Node) (cluster.Command, error) {
		g, err := groupNamed(n, r)
		if err != nil {
			return cluster.Command{}, err
		}
		a := n.State().AgentByName(q.RemovePrimary)
		if a == nil {
			return cluster.Command{}, noAgent(q.RemovePrimary)
		}
		heard, ok := n.Heard()[a.ID]
		switch {
		case q.Force:
		case ok && heard.Ago < silentAfter:
			return cluster.Command{}, &api.Error{Code: api.Refused, Text: fmt.Sprintf(
				"primary %q was heard %.1f s ago: its applications would lose their volumes: stop its agent first, or use --force", a.Name, heard.Ago.Seconds())}
		case !ok && n.Now()-elected < silentAfter:
			return cluster.Command{}, &api.Error{Code: api.Unavailable, Text: fmt.Sprintf(
				"the captain was elected a moment ago and does not know yet whether primary %q lives: try again in %v", a.Name, silentAfter)}
		}
		return cluster.Command{RemovePrimary: &cluster.RemovePrimary{Group: g.ID, Primary: a.ID, Force: q.Force}}, nil
	})
}

func (s *apiServer) deleteGroup(w http.ResponseWriter, r *http.Request) error {
	return s.change(w, r, func(n *core.Node) (cluster.Command, error) {
		g, err := groupNamed(n, r)
		if err != nil {
			return cluster.Command{}, err
		}
		return cluster.Command{DeleteGroup: &cluster.DeleteGroup{Group: g.ID}}, nil
	})
}

func (s *apiServer) postVolume(w http.ResponseWriter, r *http.Request) error {
	var q api.VolumeRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	if err := checkName("volume", q.Name); err != nil {
		return err
	}
	return s.change(w, r, func(n *core.Node) (cluster.Command, error) {
		g, err := groupNamed(n, r)
		if err != nil {
			return cluster.Command{}, err
		}
		primary, secondary := n.State().AgentByName(q.Primary), n.State().AgentByName(q.Secondary)
		switch {
		case primary == nil:
			return cluster.Command{}, noAgent(q.Primary)
		case secondary == nil:
			return cluster.Command{}, noAgent(q.Secondary)
		case q.Source == "" || q.Target == "":
			return cluster.Command{}, &api.Error{Code: api.Invalid, Text: "a volume needs a source and a target"}
		}
		return cluster.Command{CreateVolume: &cluster.CreateVolume{
			Group: g.ID, Name: q.Name, Size: q.Size,
			Primary: primary.ID, Source: q.Source, Secondary: secondary.ID, Target: q.Target, Seeded: q.Seeded, BitmapAtEnd: q.BitmapAtEnd,
			Overwrite: q.Force,
		}}, nil
	})
}

func (s *apiServer) deleteVolume(w http.ResponseWriter, r *http.Request) error {
	return s.changeVolume(w, r, func(v *cluster.Volume) cluster.Command {
		return cluster.Command{DeleteVolume: &cluster.DeleteVolume{Volume: v.ID}}
	})
}

func (s *apiServer) postRecopy(w http.ResponseWriter, r *http.Request) error {
	return s.changeVolume(w, r, func(v *cluster.Volume) cluster.Command {
		return cluster.Command{RecopyVolume: &cluster.RecopyVolume{Volume: v.ID}}
	})
}

// changeVolume proposes a command about the volume that the request's path names.
func (s *apiServer) changeVolume(w http.ResponseWriter, r *http.Request, command func(v *cluster.Volume) cluster.Command) error {
	return s.change(w, r, func(n *core.Node) (cluster.Command, error) {
		g, err := groupNamed(n, r)
		if err != nil {
			return cluster.Command{}, err
		}
		if id := volumeNamed(g, r.PathValue("volume")); id != 0 {
			return command(g.Volumes[id]), nil
		}
		return cluster.Command{}, noVolume(g, r.PathValue("volume"))
	})
}

func (s *apiServer) getPlan(w http.ResponseWriter, r *http.Request) error {
	var plan *api.Plan
	var err error
	s.loop.View(func(n *core.Node) {
		var g *cluster.Group
		if g, err = groupNamed(n, r); err == nil {
			plan = planOf(n, g)
		}
	})
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, plan)
	return nil
}

func (s *apiServer) postPromote(w http.ResponseWriter, r *http.Request) error {
	var q api.PromoteRequest
	if r.ContentLength != 0 { // without a body nothing is forced
		if err := readJSON(r, &q); err != nil {
			return err
		}
	}
	return s.change(w, r, func(n *core.Node) (cluster.Command, error) {
		g, err := groupNamed(n, r)
		if err != nil {
			return cluster.Command{}, err
		}
		return cluster.Command{Promote: &cluster.Promote{Group: g.ID, Label: n.Label(), Force: q.Force}}, nil
	})
}

func (s *apiServer) deleteAgent(w http.ResponseWriter, r *http.Request) error {
	return s.change(w, r, func(n *core.Node) (cluster.Command, error) {
		a := n.State().AgentByName(r.PathValue("agent"))
		if a == nil {
			return cluster.Command{}, noAgent(r.PathValue("agent"))
		}
		remove := cluster.Command{RemoveAgent: &cluster.RemoveAgent{Agent: a.ID}}
		if a.ID != n.ID() {
			return remove, nil
		}
		// A captain that removes itself could not see it through: another does it.
		if err := n.Try(remove); err != nil {
			return cluster.Command{}, &api.Error{Code: api.Refused, Text: err.Error()}
		}
		if !n.HandOver() {
			return cluster.Command{}, &api.Error{Code: api.Refused, Text: fmt.Sprintf(
				"agent %q is the captain, and no other agent that votes is heard to take its place: start or join another first", a.Name)}
		}
		return cluster.Command{}, &api.Error{Code: api.Unavailable, Text: fmt.Sprintf(
			"agent %q is the captain and hands over to another first; nothing was done: try again", a.Name)}
	})
}

func (s *apiServer) patchAgent(w http.ResponseWriter, r *http.Request) error {
	var q api.AgentChange
	if err := readJSON(r, &q); err != nil {
		return err
	}
	set := &cluster.SetAgent{Domain: q.Domain}
	if q.Weight != nil {
		if *q.Weight < 0 || *q.Weight > cluster.MaxWeight {
			return &api.Error{Code: api.Invalid, Text: fmt.Sprintf(
				"a weight of %d is not from 1 to %d, nor 0 to have it measured", *q.Weight, cluster.MaxWeight)}
		}
		set.Weight = new(uint8(*q.Weight))
	}
	return s.change(w, r, func(n *core.Node) (cluster.Command, error) {
		a := n.State().AgentByName(r.PathValue("agent"))
		if a == nil {
			return cluster.Command{}, noAgent(r.PathValue("agent"))
		}
		set.Agent = a.ID
		return cluster.Command{SetAgent: set}, nil
	})
}

func (s *apiServer) postDrain(w http.ResponseWriter, r *http.Request) error {
	var q api.DrainRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	return s.change(w, r, func(n *core.Node) (cluster.Command, error) {
		a := n.State().AgentByName(r.PathValue("agent"))
		if a == nil {
			return cluster.Command{}, noAgent(r.PathValue("agent"))
		}
		return cluster.Command{Drain: &cluster.Drain{Agent: a.ID, Undo: q.Undo, Force: q.Force}}, nil
	})
}

// checkName refuses names that would not do in a path, an export's name or a table.
func checkName(what, name string) error {
	const longest = 63
	ok := name != "" && len(name) <= longest
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			ok = false
		}
	}
	if !ok || name == "." || name == ".." {
		return &api.Error{Code: api.Invalid, Text: fmt.Sprintf(
			"%s name %q: want 1 to %d letters, digits, dots, hyphens and underscores", what, name, longest)}
	}
	return nil
}
