package main

import (
	"strings"
	"testing"
	"time"

	"flotilla/agent/api"
)

// TestReportText: a target that is no copy of anything must not look like one.
func TestReportText(t *testing.T) {
	group := func(change func(*api.Group)) *api.Group {
		g := &api.Group{
			Name:    "db",
			Volumes: []api.Volume{{Name: "data", Secondary: "c", Copied: true}, {Name: "log", Secondary: "c", Copied: true}},
			Promote: &api.Promote{Point: &api.Point{Set: 7, Label: time.Unix(0, 0)}, LostKnown: true, LostSeconds: 1.25, LostUpdates: 3},
		}
		change(g)
		return g
	}
	for name, test := range map[string]struct {
		g    *api.Group
		want []string
		not  []string
	}{
		"whole": {
			group(func(*api.Group) {}),
			[]string{"promoted at set 7", "lost: 1.2 s", "3 writes", "data on c: nbd://x", "log on c: not served"},
			[]string{"NOT A RECOVERY POINT", "NO WHOLE COPY"},
		},
		"torn":     {group(func(g *api.Group) { g.Torn = true }), []string{"NOT A RECOVERY POINT", "repair"}, []string{"NO WHOLE COPY"}},
		"uncopied": {group(func(g *api.Group) { g.Volumes[1].Copied = false }), []string{"NO WHOLE COPY: the target of volume log"}, []string{"volume data"}},
		"doubted":  {group(func(g *api.Group) { g.Promote.Doubted = true }), []string{"ACKNOWLEDGED WRITES MAY BE MISSING"}, []string{"NOT A RECOVERY POINT"}},
		"unheard":  {group(func(g *api.Group) { g.Promote.LostKnown = false }), []string{"lost: not known"}, nil},
	} {
		text := reportText(test.g, []exported{{"data", "c", []string{"nbd://x"}}, {"log", "c", nil}})
		for _, want := range test.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in:\n%s", name, want, text)
			}
		}
		for _, not := range test.not {
			if strings.Contains(text, not) {
				t.Errorf("%s: %q in:\n%s", name, not, text)
			}
		}
	}
}
