package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newRoot() *cobra.Command {
	c := parent("flotilla", "Replicate block devices through any number of backup components",
		"Flotilla replicates the block devices of primary hosts to secondary hosts through backup components that share the work.\n\n"+exitHelp)
	c.Example = "  flotilla cluster init --config /etc/flotilla/agent.yaml\n  flotilla agent --config /etc/flotilla/agent.yaml\n  flotilla status"
	c.SilenceErrors, c.SilenceUsage = true, true
	c.CompletionOptions.DisableDefaultCmd = true
	c.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w: see `%s --help`", err, cmd.CommandPath())}
	})
	c.AddCommand(
		agentCommand(), clusterCommand(), groupCommand(), volumeCommand(), componentCommand(),
		statusCommand(), promoteCommand(), checkCommand(), eventsCommand(), demoCommand(), versionCommand(), completionCommand(), manCommand(),
	)
	return c
}

// parent returns a command that only has others below it.
func parent(use, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			hint := fmt.Sprintf("see `%s --help`", cmd.CommandPath())
			cmd.SuggestionsMinimumDistance = 2
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = "did you mean " + strings.Join(near, " or ") + "?"
			}
			return &usageError{fmt.Errorf("unknown command %q for %q: %s", args[0], cmd.CommandPath(), hint)}
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
}
