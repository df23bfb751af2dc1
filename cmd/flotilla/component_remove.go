package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func componentRemoveCommand() *cobra.Command {
	var conn connection
	c := &cobra.Command{
		Use: "remove AGENT", Short: "Take an agent out of the cluster",
		Long: "Take an agent out of the cluster: its certificate counts no more. It must have no volumes, and be no component of\n" +
			"the view: drain it first, or, when it is dead, wait until it is declared lost.",
		Example: "  flotilla component remove host-c",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				if err := client.Call(ctx, http.MethodDelete, "/v1/agents/"+url.PathEscape(args[0]), nil, nil); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "agent %s removed\n", args[0])
				return err
			})
		},
	}
	conn.flags(c)
	return c
}
