package agent

import (
	"testing"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// TestNoRoomWhenItCanBeAllowed: status says that a resync waits for room when the command that it names is taken, and not
// before: a primary may know of its need before the incarnation of its earlier run is ended.
func TestNoRoomWhenItCanBeAllowed(t *testing.T) {
	st := cluster.New("c0ffee")
	st.Agents[1] = &cluster.Agent{ID: 1, Name: "a"}
	inc := &cluster.Incarnation{ID: 9, Primary: 1, Whole: 3}
	st.Groups[4] = &cluster.Group{
		ID: 4, Name: "db", Incs: []*cluster.Incarnation{inc},
		Volumes: map[wire.VolumeID]*cluster.Volume{7: {ID: 7, Name: "data", Primary: 1, CopiedAt: 5}},
	}
	waits := core.GroupStatus{Group: 4, Need: 512, NoRoom: true}
	b := &statusBuilder{st: st, heard: map[wire.AgentID]core.Heard{1: {Status: core.Status{Groups: []core.GroupStatus{waits}}}}}
	for _, ended := range []bool{false, true} {
		inc.Ended = ended
		g := &api.Group{Name: "db", Primaries: []api.Source{b.source(st.Groups[4], 1)}}
		var alarms []string
		b.resyncAlarms(g, func(a api.Alarm) { alarms = append(alarms, a.Name) })
		if taken := len(st.Groups[4].Resyncing()) > 0; taken != ended || len(alarms) > 0 != taken {
			t.Errorf("earlier incarnation ended: %v: alarms %q, and --allow-inconsistent would be taken: %v", ended, alarms, taken)
		}
	}
}
