package main

import (
	"fmt"
	"io"
	"time"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func groupListCommand() *cobra.Command {
	return listing{
		short: "List the groups", example: "  flotilla group list --json",
		document: func(s *api.Status) any { return s.Groups },
		print:    func(w io.Writer, s *api.Status) error { return printGroups(w, s.Groups) },
	}.command()
}

// modeText is a group's mode, with where it departs from it.
func modeText(g *api.Group) string {
	if g.Degraded != nil && g.Promote == nil {
		return g.Mode + ", " + map[string]string{"asked": "degrading", "degraded": "degraded", "ending": "ending"}[g.Degraded.Phase]
	}
	return g.Mode
}

func printGroups(w io.Writer, groups []api.Group) error {
	rows := [][]string{{"GROUP", "MODE", "PERIOD", "PHASE", "OPEN", "GRANTED", "COMMITTED", "APPLYING", "APPLIED", "RPO", "QUEUED"}}
	for i := range groups {
		g := &groups[i]
		var queued int64
		for _, p := range g.Primaries {
			queued += p.Queued
		}
		rows = append(rows, []string{
			g.Name, modeText(g), (time.Duration(g.PeriodMS) * time.Millisecond).String(), g.Phase,
			fmt.Sprint(g.Open), fmt.Sprint(g.Granted), fmt.Sprint(g.Committed), fmt.Sprint(g.Applying), fmt.Sprint(g.Applied),
			secondsText(g.RPOSeconds), bytesText(queued),
		})
	}
	return table(w, rows)
}
