package agent

import (
	"strings"
	"testing"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/backup"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/primary"
	"flotilla/agent/secondary"
	"flotilla/wire"
)

// TestFaultsInStatus: what agents say is listed, named at its volume, and an alarm once it lasts; what an agent said that is
// not heard any more is not.
func TestFaultsInStatus(t *testing.T) {
	st := cluster.New("c0ffee")
	for id, name := range map[wire.AgentID]string{1: "a", 2: "b", 3: "c"} {
		st.Agents[id] = &cluster.Agent{ID: id, Name: name}
	}
	st.Groups[4] = &cluster.Group{ID: 4, Name: "db", Volumes: map[wire.VolumeID]*cluster.Volume{7: {ID: 7, Name: "data"}}}
	b := &statusBuilder{st: st, out: &api.Status{Groups: []api.Group{{Name: "db", Volumes: []api.Volume{{Name: "data"}}}}}}
	b.heard = map[wire.AgentID]core.Heard{
		1: {Status: core.Status{Faults: []core.Fault{{Name: primary.SourceUnreadable, Group: 4, Volume: 7, Text: "x at 0+4096", For: time.Minute}}}},
		2: {Status: core.Status{Faults: []core.Fault{
			{Name: secondary.TargetFailed, Group: 4, Volume: 7, Text: "y", For: time.Second},
			{Name: backup.JournalUnusable, Text: "z", For: time.Hour},
		}}},
		3: {Ago: time.Minute, Status: core.Status{Faults: []core.Fault{{Name: backup.JournalLost, Text: "old", For: time.Hour}}}},
	}
	var alarms []string
	b.faults(func(a api.Alarm) {
		if a.Remedy == "" || strings.Contains(a.Remedy, "GROUP") {
			t.Errorf("%s: remedy %q", a.Name, a.Remedy)
		}
		alarms = append(alarms, a.Name+" "+a.Group+" "+a.Agent+" "+a.Text)
	})
	want := []string{"source-unreadable db a volume data: x at 0+4096", "journal-unusable  b z"}
	if strings.Join(alarms, "; ") != strings.Join(want, "; ") {
		t.Errorf("alarms %q, want %q", alarms, want)
	}
	if got := strings.Join(b.out.Groups[0].Volumes[0].Faults, " "); got != "source-unreadable target-failed" {
		t.Errorf("faults of the volume: %q", got)
	}
	if len(b.out.Faults) != 3 {
		t.Errorf("faults: %+v", b.out.Faults)
	}
	for _, name := range []string{
		primary.SourceUnreadable, primary.SourceFailed, primary.SourceUnavailable, backup.JournalLost, backup.JournalUnusable,
		secondary.TargetFailed, secondary.TargetUnavailable,
	} {
		if faultRemedies[name] == "" {
			t.Errorf("%s has no remedy", name)
		}
	}
}
