package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func groupSetCommand() *cobra.Command {
	var conn connection
	var flags groupFlags
	c := &cobra.Command{
		Use: "set GROUP", Short: "Change a group's settings",
		Example: "  flotilla group set db --period 5s",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := flags.request()
			if q == (api.GroupRequest{}) {
				return &usageError{errors.New("nothing to change: give --mode, --period or --set-bytes")}
			}
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				if err := client.Call(ctx, http.MethodPatch, api.GroupPath(args[0]), q, nil); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "group %s changed\n", args[0])
				return err
			})
		},
	}
	conn.flags(c)
	flags.add(c)
	return c
}
