package main

import (
	"fmt"
	"time"

	"flotilla/agent"

	"github.com/spf13/cobra"
)

func clusterJoinCommand() *cobra.Command {
	var config string
	var asJSON bool
	c := &cobra.Command{
		Use:   "join TOKEN",
		Short: "Make this host an agent of a cluster",
		Long: "Make this host an agent of the cluster that a token names. The agent's own port must be reachable for the others\n" +
			"at its advertised address. Start it with `flotilla agent` afterwards.",
		Example: "  flotilla cluster join flotilla-join-v1.AbC… --config /etc/flotilla/agent.yaml",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := agent.LoadConfig(config)
			if err != nil {
				return err
			}
			who, err := agent.Join(cmd.Context(), cfg, args[0], time.Now())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"cluster": who.Cluster, "agent": who.Name, "id": who.Agent})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s joined cluster %v as agent %d\nnext: `flotilla agent` here\n", who.Name, who.Cluster, who.Agent)
			return err
		},
	}
	configFlag(c, &config)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
