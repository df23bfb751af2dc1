package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"flotilla/internal/demo"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func demoCommand() *cobra.Command {
	o := demo.Options{}
	var asJSON bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "See it work on this machine, without privileges: replicate, lose a component, recover",
		Long: "Start a whole cluster as processes on the loopback: two primaries, backup components, one secondary. Clients write to\n" +
			"two volumes over NBD; a component is killed, then both primaries; the secondary is promoted; and what it serves is\n" +
			"compared with what was written, update by update. It ends with 0 only if nothing differs. Nothing is left behind.",
		Example: "  flotilla demo\n  flotilla demo --components 5 --source /path/to/disk.img",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Program, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			story := os.Stdout
			if asJSON {
				story = os.Stderr
			}
			o.Out, o.Terminal = story, term.IsTerminal(int(story.Fd()))
			figures, err := demo.Run(cmd.Context(), o)
			if errors.Is(err, demo.ErrOptions) {
				return &usageError{err}
			}
			if asJSON && figures != nil {
				err = errors.Join(err, printJSON(cmd.OutOrStdout(), figures))
			}
			return err
		},
	}
	c.Flags().IntVar(&o.Components, "components", 3, "backup components; with 1, it is killed and started again")
	c.Flags().StringVar(&o.Source, "source", "", "file or device to replicate, which is only read (default: a file system made of files of this machine)")
	c.Flags().Var(sizeFlag{&o.Size}, "size", "size of a volume (default 64MiB)")
	seconds := c.Flags().Int("seconds", 10, "how long clients write at least, before the primaries are killed")
	c.Flags().BoolVar(&o.Keep, "keep", false, "keep the directory with configurations, logs and volumes")
	c.Flags().BoolVar(&asJSON, "json", false, "print the figures as JSON, and the story on standard error")
	c.PreRunE = func(*cobra.Command, []string) error {
		if o.Components < 1 {
			return &usageError{fmt.Errorf("--components %d: at least 1", o.Components)}
		}
		if *seconds < 1 {
			return &usageError{fmt.Errorf("--seconds %d: at least 1", *seconds)}
		}
		o.Run = time.Duration(*seconds) * time.Second
		return nil
	}
	return c
}
