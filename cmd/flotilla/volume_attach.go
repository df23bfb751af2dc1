package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func volumeAttachCommand() *cobra.Command {
	var conn connection
	var asJSON bool
	var at string
	var timeout, dead time.Duration
	c := &cobra.Command{
		Use: "attach GROUP/VOLUME", Short: "Give a volume a block device on this host",
		Long: "Give a volume that this host's agent serves a block device: a source volume on its primary, a promoted one on its secondary.\n" +
			"The device is /dev/nbdN, and /dev/flotilla/GROUP/VOLUME leads to it. It stays when the agent is stopped, upgraded or killed: its\n" +
			"I/O waits for the next agent, for as long as --dead-timeout says, and then fails. After a restart of the host it is attached again.",
		Example: "  flotilla volume attach db/data\n  flotilla volume attach db/data --device /dev/nbd4 --dead-timeout 10m",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, _, err := splitVolume(args[0]); err != nil {
				return err
			}
			q := api.AttachRequest{Volume: args[0]}
			if at != "" {
				index, err := deviceIndex(at)
				if err != nil {
					return err
				}
				q.Index = &index
			}
			for _, d := range []struct {
				flag  string
				value time.Duration
				to    *int64
			}{{"timeout", timeout, &q.TimeoutSeconds}, {"dead-timeout", dead, &q.DeadTimeoutSeconds}} {
				if d.value < time.Second || d.value%time.Second != 0 {
					return &usageError{fmt.Errorf("--%s %v: give whole seconds, at least 1s", d.flag, d.value)}
				}
				*d.to = int64(d.value / time.Second)
			}
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				var d api.BlockDevice
				if err := client.Call(ctx, http.MethodPost, "/v1/agent/devices", q, &d); err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), d)
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "volume %s attached as %s, %s\n", d.Volume, d.Device, d.Link)
				if err == nil && len(d.Lacks) > 0 {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "this kernel does not use: %s\n", strings.Join(d.Lacks, ", "))
				}
				return err
			})
		},
	}
	conn.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&at, "device", "", "N or /dev/nbdN (default: one that is free)")
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "send a request again that has no answer for so long: what a killed agent had taken waits for this")
	c.Flags().DurationVar(&dead, "dead-timeout", 5*time.Minute, "have I/O fail when no agent was there for so long")
	return c
}

func volumeDetachCommand() *cobra.Command {
	var conn connection
	var force bool
	c := &cobra.Command{
		Use: "detach GROUP/VOLUME", Short: "Take the block device of a volume away",
		Long:    "Take the block device of a volume on this host away. The volume goes on as it is. While the device is mounted or used otherwise it is refused.",
		Example: "  flotilla volume detach db/data",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			group, name, err := splitVolume(args[0])
			if err != nil {
				return err
			}
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				if err := client.Call(ctx, http.MethodDelete, api.DevicePath(group, name, force), nil, nil); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "volume %s detached\n", args[0])
				return err
			})
		},
	}
	conn.flags(c)
	c.Flags().BoolVar(&force, "force", false, "also while it is in use: what is under way fails")
	return c
}

// deviceIndex reads N or /dev/nbdN.
func deviceIndex(text string) (int, error) {
	n, err := strconv.Atoi(strings.TrimPrefix(text, "/dev/nbd"))
	if err != nil || n < 0 {
		return 0, &usageError{errors.New("--device " + strconv.Quote(text) + ": write N or /dev/nbdN")}
	}
	return n, nil
}

// statusHere asks for the status and adds the block devices of this host.
func statusHere(ctx context.Context, client *api.Client) (*api.Status, error) {
	s, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	l, err := client.Local(ctx, "")
	if err != nil {
		return nil, err
	}
	for i := range l.Devices {
		d := &l.Devices[i]
		for g := range s.Groups {
			for v := range s.Groups[g].Volumes {
				if s.Groups[g].Name+"/"+s.Groups[g].Volumes[v].Name == d.Volume {
					s.Groups[g].Volumes[v].Device = d
				}
			}
		}
	}
	return s, nil
}

// deviceText says for people where a volume is attached.
func deviceText(d *api.BlockDevice) string {
	switch {
	case d == nil:
		return "-"
	case d.Device == "":
		return "waits: " + d.Error
	case !d.Served:
		return d.Device + " (waits)"
	}
	return d.Device
}
