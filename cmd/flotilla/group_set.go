package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func groupSetCommand() *cobra.Command {
	var conn connection
	var flags groupFlags
	var remove string
	var force, inconsistent bool
	var schedule scheduleFlags
	c := &cobra.Command{
		Use: "set GROUP", Short: "Change a group's settings, take a dead primary out of it, or let a resync go on that has no room",
		Long: "Change a group's settings, or take a dead primary's volumes out of the group (--remove-primary).\n\n" +
			"While one primary of several is away, the group's recovery point stands still. Once its volumes are out, the others go\n" +
			"on without them. The targets of the volumes taken out stay at the group's last recovery point; the secondary closes\n" +
			"them. Should the primary come back, these volumes are neither served nor replicated: delete them, and create them anew.\n\n" +
			"A resync leaves the targets at the last recovery point until it is whole, so the components' journals must have room for all\n" +
			"of it. Where they have not, it waits. --allow-inconsistent has it applied in place, once: the volumes concerned are at no\n" +
			"recovery point until it is whole. A resync that has begun, or a primary that is away, is let go on like this, too.\n\n" +
			"When an async group writes faster than its link carries, writes are delayed a little, then what waits to be sent goes to a\n" +
			"spool on the primary's disk (--spool, of each primary), and when that is full writes are delayed again, up to 1 s each, and at\n" +
			"last the group is suspended: what was not sent is copied later.\n\n" +
			"A sync group acknowledges what two components hold. When they can not, it blocks; or, with --on-degraded async, once a write\n" +
			"has waited for --degrade-after, it acknowledges writes as async does. Then a promote may lack what was acknowledged since, and\n" +
			"wants --force. It is synchronous again once writes have been held in half that time for all of it, and everything is held.",
		Example: "  flotilla group set db --period 5s\n  flotilla group set db --resync-rate 50MiB --bandwidth 10MiB\n  flotilla group set db --spool 4GiB\n  flotilla group set db --check-every 168h --check-repair\n  flotilla group set db --on-degraded async --degrade-after 10s\n  flotilla group set db --allow-inconsistent\n  flotilla group set db --remove-primary host-b",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			q := flags.request()
			var err error
			if q.CheckSchedule, err = schedule.request(cmd); err != nil {
				return err
			}
			switch {
			case inconsistent && (remove != "" || force || q != api.GroupRequest{}):
				return &usageError{errors.New("--allow-inconsistent is given alone: change the settings in another call")}
			case inconsistent:
			case remove != "" && q != api.GroupRequest{}:
				return &usageError{errors.New("--remove-primary is given alone: change the settings in another call")}
			case remove == "" && force:
				return &usageError{errors.New("--force goes with --remove-primary")}
			case remove == "" && q == api.GroupRequest{}:
				return &usageError{errors.New("nothing to change: give --mode, --period, --set-bytes, --resync-rate, --bandwidth, --spool, --on-degraded, --degrade-after, --check-every, --remove-primary or --allow-inconsistent")}
			}
			q.RemovePrimary, q.Force, q.AllowInconsistent = remove, force, inconsistent
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				if err := client.Call(ctx, http.MethodPatch, api.GroupPath(args[0]), q, nil); err != nil {
					return err
				}
				if remove != "" {
					return printRemoved(ctx, cmd, client, args[0], remove)
				}
				text := fmt.Sprintf("group %s changed\n", args[0])
				if inconsistent {
					text = fmt.Sprintf("the resyncs of group %s are applied in place: there is no recovery point of their volumes until they are whole\n", args[0])
				}
				_, err := fmt.Fprint(cmd.OutOrStdout(), text)
				return err
			})
		},
	}
	conn.flags(c)
	flags.add(c)
	schedule.add(c)
	c.Flags().StringVar(&remove, "remove-primary", "", "take the volumes of this agent out of the group: it is gone for good")
	c.Flags().BoolVar(&inconsistent, "allow-inconsistent", false, "apply the resyncs that wait for room, or are under way, in place: no recovery point of their volumes until they are whole")
	c.Flags().BoolVar(&force, "force", false, "with --remove-primary: also while it is heard, and in a sync group, where acknowledged writes are dropped by it")
	return c
}

// printRemoved says where the targets of the volumes that were taken out stand.
func printRemoved(ctx context.Context, cmd *cobra.Command, client *api.Client, group, primary string) error {
	text := fmt.Sprintf("primary %s is out of group %s\n", primary, group)
	if s, err := client.Status(ctx); err == nil && s.Group(group) != nil {
		for _, v := range s.Group(group).Volumes {
			if v.Primary == primary && v.Removed != nil {
				text += fmt.Sprintf("%s/%s: %s, on %s:%s\n", group, v.Name, removedText(v.Removed), v.Secondary, v.Target)
			}
		}
	}
	text += "they are no longer consistent with the rest of the group, whose recovery points go on without them\n"
	_, err := fmt.Fprint(cmd.OutOrStdout(), text)
	return err
}
