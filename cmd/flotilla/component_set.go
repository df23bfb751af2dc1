package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func componentSetCommand() *cobra.Command {
	var conn connection
	var domain, weight string
	c := &cobra.Command{
		Use: "set AGENT", Short: "Say where an agent is, or how much a component takes",
		Long: "Say in which failure domain an agent is, such as its site: the two copies of an update are kept in different ones where\n" +
			"that can be, one of them where the secondary is. Or fix the weight of a component: its share of the portions is its\n" +
			"weight in relation to the others', whose weights are 100 unless the captain has measured that they are slower.\n" +
			"Both count from the next set on. To have a component take nothing any more, drain it.",
		Example: "  flotilla component set host-b --domain bremen\n  flotilla component set host-b --weight 50\n  flotilla component set host-b --weight auto",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			var q api.AgentChange
			if cmd.Flags().Changed("domain") {
				q.Domain = &domain
			}
			if cmd.Flags().Changed("weight") {
				n, err := strconv.Atoi(weight)
				switch {
				case weight == "auto":
				case err != nil || n < 1 || n > 255:
					return &usageError{fmt.Errorf("--weight %s: want 1 to 255, or auto to have it measured", weight)}
				}
				q.Weight = &n
			}
			if q == (api.AgentChange{}) {
				return &usageError{errors.New("nothing to change: give --domain or --weight")}
			}
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				if err := client.Call(ctx, http.MethodPatch, "/v1/agents/"+url.PathEscape(args[0]), q, nil); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "agent %s changed\n", args[0])
				return err
			})
		},
	}
	conn.flags(c)
	c.Flags().StringVar(&domain, "domain", "", "failure domain; empty takes the label away")
	c.Flags().StringVar(&weight, "weight", "", "1 to 255, or auto to have it measured")
	return c
}
