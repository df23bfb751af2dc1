package main

import (
	"context"
	"fmt"
	"io"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func componentListCommand() *cobra.Command {
	var conn connection
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "List the backup components and their shares",
		Example: "  flotilla component list --json",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				s, err := client.Status(ctx)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), s.Components)
				}
				return printComponents(cmd.OutOrStdout(), s.Components)
			})
		},
	}
	conn.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printComponents(w io.Writer, components []api.Component) error {
	rows := [][]string{{"COMPONENT", "STATE", "HEARD", "OWNED", "MIRRORED", "SHARE", "JOURNAL"}}
	for i := range components {
		c := &components[i]
		state := "joining"
		switch {
		case c.Member && c.Drain:
			state = "draining"
		case c.Drain:
			state = "drained"
		case c.Member && c.Rebuilding:
			state = "rebuilding"
		case c.Member:
			state = "member"
		case c.Lost:
			state = "lost"
		}
		rows = append(rows, []string{
			c.Agent, state, secondsText(c.HeardSeconds), fmt.Sprint(c.OwnedUpdates), fmt.Sprint(c.MirroredUpdates),
			fmt.Sprintf("%.0f%%", c.SharePercent), bytesText(c.JournalUsed) + " of " + bytesText(c.JournalLimit),
		})
	}
	return table(w, rows)
}
