package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func groupListCommand() *cobra.Command {
	var conn connection
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "List the groups",
		Example: "  flotilla group list --json",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				s, err := client.Status(ctx)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), s.Groups)
				}
				return printGroups(cmd.OutOrStdout(), s.Groups)
			})
		},
	}
	conn.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
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
			g.Name, g.Mode, (time.Duration(g.PeriodMS) * time.Millisecond).String(), g.Phase,
			fmt.Sprint(g.Open), fmt.Sprint(g.Granted), fmt.Sprint(g.Committed), fmt.Sprint(g.Applying), fmt.Sprint(g.Applied),
			secondsText(g.RPOSeconds), bytesText(queued),
		})
	}
	return table(w, rows)
}
