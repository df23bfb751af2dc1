package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func statusCommand() *cobra.Command {
	var conn connection
	var asJSON, watch bool
	var every time.Duration
	c := &cobra.Command{
		Use:   "status",
		Short: "Show agents, components, groups, volumes and what is wrong",
		Long: "Show the whole cluster as the captain sees it. When no captain can be reached, what this host's agent knows is\n" +
			"shown with an alarm. With --json and --watch one document is printed a line.",
		Example: "  flotilla status --watch\n  flotilla status --json | jq '.groups[].rpo_seconds'",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return &usageError{fmt.Errorf("--every %v: at least 100ms", every)}
			}
			if !watch {
				return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
					s, err := statusHere(ctx, client)
					if err != nil {
						return err
					}
					if asJSON {
						return printJSON(cmd.OutOrStdout(), s)
					}
					return printStatus(cmd.OutOrStdout(), s)
				})
			}
			return watchStatus(cmd.Context(), cmd.OutOrStdout(), &conn, every, asJSON)
		},
	}
	conn.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&watch, "watch", false, "show it again and again until interrupted")
	c.Flags().DurationVar(&every, "every", time.Second, "how often, with --watch")
	return c
}

// watchStatus prints the status until it is interrupted. An agent that does not answer for a while is waited for.
func watchStatus(ctx context.Context, w io.Writer, conn *connection, every time.Duration, asJSON bool) error {
	screen := w == os.Stdout && term.IsTerminal(int(os.Stdout.Fd())) && !asJSON
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		var page bytes.Buffer
		err := conn.with(ctx, func(ctx context.Context, client *api.Client) error {
			s, err := statusHere(ctx, client)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSONLine(&page, s)
			}
			return printStatus(&page, s)
		})
		switch {
		case ctx.Err() != nil:
			return nil // interrupted: that is how it ends
		case err != nil && exitCode(err) != exitUnreachable:
			return err
		case err != nil:
			fmt.Fprintln(os.Stderr, "flotilla:", err)
		}
		if screen {
			_, err = fmt.Fprint(w, "\x1b[H\x1b[J")
		}
		if _, werr := w.Write(page.Bytes()); werr != nil || (screen && err != nil) {
			return fmt.Errorf("write status: %w", werr)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// printStatus writes a status for people.
func printStatus(w io.Writer, s *api.Status) error {
	captain := s.Captain
	if captain == "" {
		captain = "none"
	}
	settled := ""
	if s.Generation > 0 {
		settled = fmt.Sprintf(" of generation %d", s.Generation)
	}
	if !s.Settled {
		settled += " not settled"
	}
	if _, err := fmt.Fprintf(w, "cluster %s  captain %s  view %d%s  %s\n", s.Cluster, captain, s.View, settled, s.At.Format(time.RFC3339)); err != nil {
		return err
	}
	if !s.Complete {
		if _, err := fmt.Fprintf(w, "(as %s knows it: the captain has not answered, so figures are missing)\n", s.Answered); err != nil {
			return err
		}
	}
	for _, a := range s.Alarms {
		about := a.Agent
		if a.Group != "" {
			about = "group " + a.Group
		}
		if about != "" {
			about += ": "
		}
		if _, err := fmt.Fprintf(w, "! %s: %s%s\n    %s\n", a.Name, about, a.Text, a.Remedy); err != nil {
			return err
		}
	}
	rows := [][]string{{"AGENT", "ID", "ROLES", "VOTES", "ADDRESS", "HEARD"}}
	two := slices.ContainsFunc(s.Agents, func(a api.Agent) bool { return a.ComponentAddress != "" })
	if two {
		rows[0] = append(rows[0], "FOR COMPONENTS")
	}
	for _, a := range s.Agents {
		row := []string{a.Name, fmt.Sprint(a.ID), joinComma(a.Roles), yesNo(a.Voter), a.Address, secondsText(a.HeardSeconds)}
		if two {
			row = append(row, cmp.Or(a.ComponentAddress, "-"))
		}
		rows = append(rows, row)
	}
	for _, part := range []struct {
		there bool
		print func() error
	}{
		{true, func() error { return table(w, rows) }},
		{len(s.Components) > 0, func() error { return printComponents(w, s.Components) }},
		{len(s.Groups) > 0, func() error { return printGroups(w, s.Groups) }},
		{slices.ContainsFunc(s.Groups, overloaded), func() error { return printOverload(w, s.Groups) }},
		{len(s.Groups) > 0, func() error { return printVolumes(w, s.Groups) }},
		{slices.ContainsFunc(s.Groups, func(g api.Group) bool { return g.Check != nil }), func() error { return printChecks(w, s.Groups) }},
	} {
		if !part.there {
			continue
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		if err := part.print(); err != nil {
			return err
		}
	}
	return nil
}
