package main

import (
	"fmt"
	"io"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func componentListCommand() *cobra.Command {
	return listing{
		short: "List the backup components: their shares, load, lag and what they hold", example: "  flotilla component list --json",
		document: func(s *api.Status) any { return s.Components },
		print:    func(w io.Writer, s *api.Status) error { return printComponents(w, s.Components) },
	}.command()
}

func printComponents(w io.Writer, components []api.Component) error {
	rows := [][]string{{"COMPONENT", "STATE", "HEARD", "DOMAIN", "WEIGHT", "SHARE", "TAKES AS OWNER", "AS MIRROR", "OWNS", "MIRRORS", "LAG", "JOURNAL"}}
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
		weight := fmt.Sprint(c.Weight)
		if c.WeightFixed {
			weight += " fixed"
		}
		rows = append(rows, []string{
			c.Agent, state, secondsText(c.HeardSeconds), orDash(c.Domain), weight, fmt.Sprintf("%.0f%%", c.SharePercent),
			bytesText(int64(c.OwnedRate)) + "/s", bytesText(int64(c.MirroredRate)) + "/s",
			holdsText(c.OwnedUpdates, c.OwnedBytes), holdsText(c.MirroredUpdates, c.MirroredBytes),
			fmt.Sprintf("%d not held, %d sets", c.UnheldUpdates, c.UnappliedSets),
			bytesText(c.JournalUsed) + " of " + bytesText(c.JournalLimit),
		})
	}
	return table(w, rows)
}

// holdsText says how many updates are held, and the bytes in them.
func holdsText(updates, bytes int64) string {
	return fmt.Sprintf("%d, %s", updates, bytesText(bytes))
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
