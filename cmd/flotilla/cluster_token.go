package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func clusterTokenCommand() *cobra.Command {
	var conn connection
	var ttl time.Duration
	var asJSON bool
	c := &cobra.Command{
		Use:   "token",
		Short: "Print a token that lets one agent join",
		Long: "Print a token that lets one agent join, once. It is a secret until it is used or expires.\n" +
			"The agent that has the CA key makes it and must be reachable for the joiner.",
		Example: "  flotilla cluster token --ttl 15m",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				var token api.Token
				err := client.Call(ctx, http.MethodPost, "/v1/tokens", api.TokenRequest{TTLSeconds: int64(ttl / time.Second)}, &token)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), token)
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), token.Token)
				return err
			})
		},
	}
	conn.flags(c)
	c.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long the token is good")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
