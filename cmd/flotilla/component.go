package main

import "github.com/spf13/cobra"

func componentCommand() *cobra.Command {
	c := parent("component", "List, set and drain backup components, and remove agents", "Backup components hold the updates, mirror each other and apply whole sets to the targets.")
	c.Example = "  flotilla component list"
	c.AddCommand(componentListCommand(), componentSetCommand(), componentDrainCommand(), componentRemoveCommand())
	return c
}
