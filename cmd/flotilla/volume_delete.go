package main

import (
	"context"
	"fmt"
	"net/http"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func volumeDeleteCommand() *cobra.Command {
	var conn connection
	c := &cobra.Command{
		Use: "delete GROUP/VOLUME", Short: "Take a volume out of its group",
		Long:    "Take a volume out of its group. Its source and its target keep what they hold.",
		Example: "  flotilla volume delete db/data",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			group, name, err := splitVolume(args[0])
			if err != nil {
				return err
			}
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				if err := client.Call(ctx, http.MethodDelete, api.VolumePath(group, name), nil, nil); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "volume %s deleted\n", args[0])
				return err
			})
		},
	}
	conn.flags(c)
	return c
}
