package main

import (
	"context"
	"fmt"
	"net/http"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func groupDeleteCommand() *cobra.Command {
	var conn connection
	c := &cobra.Command{
		Use: "delete GROUP", Short: "Delete a group that has no volumes",
		Example: "  flotilla group delete db",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				if err := client.Call(ctx, http.MethodDelete, api.GroupPath(args[0]), nil, nil); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "group %s deleted\n", args[0])
				return err
			})
		},
	}
	conn.flags(c)
	return c
}
