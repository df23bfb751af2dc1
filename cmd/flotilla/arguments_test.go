package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Every command says what it lacks, or has too much, and how to call it: with an example that it would take itself.
func TestArgumentsOfEveryCommand(t *testing.T) {
	leaves := 0
	var look func(c *cobra.Command)
	look = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			look(sub)
		}
		if c.HasSubCommands() {
			return
		}
		leaves++
		path := c.CommandPath()
		example, _, _ := strings.Cut(strings.TrimSpace(c.Example), "\n")
		rest, ok := strings.CutPrefix(example, path)
		if !ok {
			t.Errorf("%s: its first example is %q", path, example)
			return
		}
		rest, _, _ = strings.Cut(rest, " >")
		rest, _, _ = strings.Cut(rest, " |")
		if err := c.ParseFlags(strings.Fields(rest)); err != nil {
			t.Errorf("%s: its own example: %v", path, err)
			return
		}
		given := c.Flags().Args()
		if err := c.Args(c, given); err != nil {
			t.Errorf("%s refuses its own example: %v", path, err)
		}
		wrong := [][]string{append(slices.Clone(given), "more")}
		if len(given) > 0 {
			wrong = append(wrong, nil)
		}
		for _, args := range wrong {
			err := c.Args(c, args)
			if exitCode(err) != exitUsage || !strings.HasSuffix(err.Error(), "as in `"+example+"`") {
				t.Errorf("%s %v: exit code %d, %v", path, args, exitCode(err), err)
				continue
			}
			if name := strings.Fields(c.Use)[1:]; args == nil && !strings.Contains(err.Error(), name[0]+" is missing") {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	look(newRoot())
	if leaves < 25 {
		t.Errorf("only %d commands", leaves)
	}
}
