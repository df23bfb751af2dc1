package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func componentDrainCommand() *cobra.Command {
	var conn connection
	var q api.DrainRequest
	var wait time.Duration
	c := &cobra.Command{
		Use: "drain AGENT", Short: "Have a backup component leave, without a moment of fewer copies",
		Long: "Have a backup component leave: no new set is assigned to it, and it goes once those that it shares are applied.\n" +
			"Then its agent may be stopped and removed. The command shows the progress and waits; it goes on without it.",
		Example: "  flotilla component drain host-b\n  flotilla component drain host-b --undo",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				return client.Call(ctx, http.MethodPost, "/v1/agents/"+url.PathEscape(args[0])+"/drain", q, nil)
			})
			if err != nil {
				return err
			}
			if q.Undo {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "agent %s stays a component\n", args[0])
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			return followDrain(ctx, cmd, &conn, args[0])
		},
	}
	conn.flags(c)
	c.Flags().BoolVar(&q.Undo, "undo", false, "have it stay, or come back")
	c.Flags().BoolVar(&q.Force, "force", false, "also when one component is left, and with it single copies")
	c.Flags().DurationVar(&wait, "wait", 10*time.Minute, "how long to wait for the end")
	return c
}

// followDrain prints progress until the component has left. The captain may change on the way.
func followDrain(ctx context.Context, cmd *cobra.Command, conn *connection, name string) error {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	last := ""
	for {
		var found *api.Component
		err := conn.with(ctx, func(ctx context.Context, client *api.Client) error {
			s, err := client.Status(ctx)
			if err == nil {
				found = s.Component(name)
			}
			return err
		})
		switch {
		case err != nil && ctx.Err() == nil && exitCode(err) != exitUnreachable:
			return err
		case err == nil && found == nil:
			return fmt.Errorf("agent %q was removed meanwhile", name)
		case err == nil && !found.Drain:
			return fmt.Errorf("agent %q stays a component: somebody took the drain back", name)
		case err == nil && !found.Member:
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "agent %s is drained: it may be stopped, and removed with `flotilla component remove %s`\n", name, name)
			return err
		case err == nil:
			step := fmt.Sprintf("draining: owns %d updates, mirrors %d", found.OwnedUpdates, found.MirroredUpdates)
			if found.DrainsFor != "" {
				step += "; waits for " + found.DrainsFor
			}
			if step != last {
				last = step
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), step); err != nil {
					return err
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return &api.Error{Code: api.Unavailable, Text: fmt.Sprintf(
				"the drain of %q goes on without this command (%s): `flotilla component list` shows it", name, last)}
		}
	}
}
