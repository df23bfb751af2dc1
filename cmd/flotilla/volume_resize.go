package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func volumeResizeCommand() *cobra.Command {
	var conn connection
	var q api.ResizeRequest
	var wait bool
	c := &cobra.Command{
		Use: "resize GROUP/VOLUME", Short: "Enlarge a volume that is in use",
		Long: "Make a volume as large as its source has become, or as --size says. Enlarge the source and the target first, with lvextend\n" +
			"or truncate. What either holds behind the volume's end is made zero.\n" +
			"Clients see the new size when the target has the new range: without --wait the command returns before, and\n" +
			"`flotilla volume list` tells. A block device of `volume attach` grows while it is in use, and the file system on it can be\n" +
			"enlarged at once (resize2fs, xfs_growfs); other NBD clients must connect again. A volume never shrinks.",
		Example: "  flotilla volume resize db/data --wait\n  flotilla volume resize db/data --size 200GiB",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			group, name, err := splitVolume(args[0])
			if err != nil {
				return err
			}
			var made api.Resizing
			if err := conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				return client.Call(ctx, http.MethodPost, api.VolumePath(group, name)+"/resize", q, &made)
			}); err != nil {
				return err
			}
			if made.From == made.To {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "volume %s has %s (%d bytes) already\n", args[0], bytesText(made.To), made.To)
				return err
			}
			text := "volume %s grows from %s to %s (%d bytes)\n"
			if wait {
				if err := awaitSize(cmd.Context(), &conn, group, name, made.To); err != nil {
					return err
				}
				text = "volume %s has grown from %s to %s (%d bytes)\n"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), text, args[0], bytesText(made.From), bytesText(made.To), made.To)
			return err
		},
	}
	conn.flags(c)
	c.Flags().Var(sizeFlag{&q.Size}, "size", "size that the volume is to have (default: that of its source)")
	c.Flags().BoolVar(&wait, "wait", false, "return when clients see the new size")
	return c
}

// sizePoll is how often a command that waits looks.
const sizePoll = 200 * time.Millisecond

// awaitSize waits until a volume has a size.
func awaitSize(ctx context.Context, conn *connection, group, name string, size int64) error {
	for {
		var found *api.Volume
		complete := false
		err := conn.with(ctx, func(ctx context.Context, client *api.Client) error {
			s, err := client.Status(ctx)
			if err != nil {
				return err
			}
			complete = s.Complete
			for i := range s.Groups {
				for k := range s.Groups[i].Volumes {
					if v := &s.Groups[i].Volumes[k]; s.Groups[i].Name == group && v.Name == name {
						found = v
					}
				}
			}
			return nil
		})
		switch {
		case err != nil && ctx.Err() == nil && api.CodeOf(err) != api.Unavailable:
			return err
		case !complete: // the captain is not reached for now
		case err == nil && found == nil:
			return fmt.Errorf("volume %s/%s is gone", group, name)
		case err == nil && found.Size >= size:
			return nil
		case err == nil && found.GrowsTo == 0:
			return fmt.Errorf("volume %s/%s does not grow any more: its group was promoted, or its primary was taken out; it has %d bytes", group, name, found.Size)
		}
		select {
		case <-time.After(sizePoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
