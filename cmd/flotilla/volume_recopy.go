package main

import (
	"context"
	"fmt"
	"net/http"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func volumeRecopyCommand() *cobra.Command {
	var conn connection
	var force bool
	c := &cobra.Command{
		Use: "recopy GROUP/VOLUME", Short: "Copy a whole volume to a target that was replaced",
		Long: "Say that the target of a volume has become another device, such as a new disk under the same path, which holds nothing of\n" +
			"the volume. Everything is copied anew. Until that is whole the volume has no recovery point; other volumes of the group\n" +
			"keep theirs. Applications go on meanwhile. What the target holds is overwritten: one that is seen to hold something, a new disk's\n" +
			"file system or what the volume has left there itself, is refused without --force.",
		Example: "  flotilla volume recopy db/data\n  flotilla volume recopy db/data --force",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			group, name, err := splitVolume(args[0])
			if err != nil {
				return err
			}
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				note, err := checkRecopied(ctx, client, group, name, force)
				if err != nil {
					return err
				}
				if err := client.Call(ctx, http.MethodPost, api.VolumePath(group, name)+"/recopy", nil, nil); err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "volume %s is copied anew; it has no recovery point until that is whole\n%s", args[0], note)
				return err
			})
		},
	}
	conn.flags(c)
	c.Flags().BoolVar(&force, "force", false, "overwrite what the target holds")
	return c
}
