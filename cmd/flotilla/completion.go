package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a script that has a shell complete the commands of this program",
		Long:  "Print a script that has a shell complete the commands of this program. Packages and the install script put it in place.",
		Example: "  flotilla completion bash >/etc/bash_completion.d/flotilla\n" +
			"  flotilla completion zsh >/usr/local/share/zsh/site-functions/_flotilla\n" +
			"  flotilla completion fish >/etc/fish/completions/flotilla.fish",
		ValidArgs: []string{"bash", "zsh", "fish"},
		Args:      arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			}
			return fmt.Errorf("shell %q: choose bash, zsh or fish", args[0])
		},
	}
}
