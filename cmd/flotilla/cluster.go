package main

import "github.com/spf13/cobra"

func clusterCommand() *cobra.Command {
	c := parent("cluster", "Found a cluster, or let agents into it", "Found a cluster, or let agents into it.")
	c.Example = "  flotilla cluster init\n  flotilla cluster token --ttl 15m\n  flotilla cluster join TOKEN"
	c.AddCommand(clusterInitCommand(), clusterTokenCommand(), clusterJoinCommand())
	return c
}
