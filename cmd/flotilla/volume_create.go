package main

import (
	"context"
	"fmt"
	"net/http"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func volumeCreateCommand() *cobra.Command {
	var conn connection
	var q api.VolumeRequest
	c := &cobra.Command{
		Use: "create GROUP/VOLUME", Short: "Make a volume; its first copy begins at once",
		Long: "Make a volume out of a file or block device on a primary and one of at least that size on a secondary.\n" +
			"What the target holds is overwritten. One that is seen to hold something (a file system, a partition table, a swap space and the like)\n" +
			"is refused without --force; one that is mounted, used as swap space or part of something else is refused with it, too. With --seeded it is compared with the source, by digests under live writes, and only\n" +
			"what differs is copied: fill it by hand before, from a snapshot or a backup. Applications must use the source through the primary's NBD export from now on.\n" +
			"The primary remembers in a bitmap where the two may differ: in its state directory or, with --bitmap-at-end, in the last\n" +
			"bytes of the source (4 KiB to 136 KiB), which must be zero. The volume is so much smaller.",
		Example: "  flotilla volume create db/data --primary host-a --source /dev/vg/data --secondary host-b --target /dev/vg/copy\n" +
			"  flotilla volume create db/data --primary host-a --source /dev/vg/data --bitmap-at-end --secondary host-b --target /dev/vg/copy",
		Args: arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			group, name, err := splitVolume(args[0])
			if err != nil {
				return err
			}
			q.Name = name
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				warn := func(err error) { fmt.Fprintf(cmd.ErrOrStderr(), "flotilla: warning: %v\n", err) }
				if err := checkSource(ctx, client, &q, warn); err != nil {
					return err
				}
				held, err := checkTarget(ctx, client, &q, warn)
				if err != nil {
					return err
				}
				if err := client.Call(ctx, http.MethodPost, api.GroupPath(group)+"/volumes", q, nil); err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "volume %s created, %s\n%s", args[0], bytesText(q.Size), overwritten(q.Secondary, q.Target, held))
				return err
			})
		},
	}
	conn.flags(c)
	c.Flags().Var(sizeFlag{&q.Size}, "size", "size of the volume (default: that of the source, less the bitmap at its end)")
	c.Flags().BoolVar(&q.BitmapAtEnd, "bitmap-at-end", false, "keep the bitmap at the end of the source, so that it goes where the device goes")
	for _, f := range []struct {
		to         *string
		name, help string
	}{
		{&q.Primary, "primary", "agent that has the source"},
		{&q.Source, "source", "path of the source there"},
		{&q.Secondary, "secondary", "agent that has the target"},
		{&q.Target, "target", "path of the target there"},
	} {
		c.Flags().StringVar(f.to, f.name, "", f.help)
	}
	c.Flags().BoolVar(&q.Seeded, "seeded", false, "the target was filled by hand: compare it, and copy what differs")
	c.Flags().BoolVar(&q.Force, "force", false, "overwrite what the target holds")
	return required(c, "primary", "source", "secondary", "target")
}

// required makes a command refuse to run without some flags.
func required(c *cobra.Command, names ...string) *cobra.Command {
	args := c.Args
	c.Args = func(cmd *cobra.Command, given []string) error {
		if err := args(cmd, given); err != nil {
			return err
		}
		for _, name := range names {
			if !cmd.Flags().Changed(name) {
				return &usageError{fmt.Errorf("--%s is missing: see `%s --help`", name, cmd.CommandPath())}
			}
		}
		return nil
	}
	return c
}
