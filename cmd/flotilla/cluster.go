package main

import "github.com/spf13/cobra"

func clusterCommand() *cobra.Command {
	c := parent("cluster", "Found a cluster, let agents into it, or recover it", "Found a cluster, let agents into it, or recover it when a majority is gone for good.")
	c.Example = "  flotilla cluster init\n  flotilla cluster token --ttl 15m\n  flotilla cluster join TOKEN"
	c.AddCommand(clusterInitCommand(), clusterTokenCommand(), clusterJoinCommand(), clusterRecoverCommand())
	return c
}
