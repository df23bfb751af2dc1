package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manCommand writes the manual pages out of the commands' own help, so that neither can say what the other does not. It is
// for packages and the install script.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages of all commands into a directory",
		Example: "  flotilla man /usr/local/share/man/man1",
		Hidden:  true,
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("make directory for manual pages: %w", err)
			}
			root := newRoot()
			forManual(root)
			// Their date is today's, or that of SOURCE_DATE_EPOCH.
			header := &doc.GenManHeader{Section: "1", Source: "Flotilla " + release, Manual: "Flotilla"}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("write manual pages into %s: %w", args[0], err)
			}
			return nil
		},
	}
}

// forManual has the help of a command and all below it read as Markdown: what is indented keeps its lines.
func forManual(c *cobra.Command) {
	c.DisableAutoGenTag = true
	c.Long = markdown(c.Long)
	for _, sub := range c.Commands() {
		forManual(sub)
	}
}

func markdown(help string) string {
	var out []string
	indented := false
	for line := range strings.Lines(help) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "  ") {
			if !indented {
				out = append(out, "")
			}
			indented = true
			out = append(out, "    "+strings.TrimPrefix(line, "  "))
			continue
		}
		indented = false
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}
