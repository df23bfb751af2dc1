package main

import (
	"fmt"
	"time"

	"flotilla/agent"

	"github.com/spf13/cobra"
)

func clusterInitCommand() *cobra.Command {
	var config string
	var asJSON bool
	c := &cobra.Command{
		Use:   "init",
		Short: "Found a cluster whose first agent is this host",
		Long: "Found a cluster whose first agent is this host. Its state directory then has the cluster's CA key\n" +
			"(identity/ca.key): whoever has that can let agents in, and without it nobody can. Keep a copy in a safe place.",
		Example: "  flotilla cluster init --config /etc/flotilla/agent.yaml",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := agent.LoadConfig(config)
			if err != nil {
				return err
			}
			id, err := agent.Found(cfg, time.Now())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"cluster": id, "agent": cfg.Name, "state_dir": cfg.StateDir})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "cluster %v founded; its first agent is %s\n"+
				"next: `flotilla agent` here, then `flotilla cluster token` for each host that is to join\n", id, cfg.Name)
			return err
		},
	}
	configFlag(c, &config)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
