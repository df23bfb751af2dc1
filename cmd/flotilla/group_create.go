package main

import (
	"context"
	"fmt"
	"net/http"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func groupCreateCommand() *cobra.Command {
	var conn connection
	var flags groupFlags
	var portion int64
	c := &cobra.Command{
		Use: "create GROUP", Short: "Make a group",
		Example: "  flotilla group create db --mode async --period 1s\n  flotilla group create db --mode sync --on-degraded async --degrade-after 5s",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				q := flags.request()
				q.Name, q.PortionSize = args[0], uint64(portion)
				if err := client.Call(ctx, http.MethodPost, "/v1/groups", q, nil); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "group %s created\n", args[0])
				return err
			})
		},
	}
	conn.flags(c)
	flags.add(c)
	c.Flags().Var(sizeFlag{&portion}, "portion-size", "range that one component is responsible for, a power of two (default 64MiB)")
	return c
}
