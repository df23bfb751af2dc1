package main

import (
	"time"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func groupCommand() *cobra.Command {
	c := parent("group", "Make, change and list consistency groups", "A group's volumes are cut together: their targets always stand at one moment.")
	c.Example = "  flotilla group create db --mode sync --period 500ms\n  flotilla group list"
	c.AddCommand(groupCreateCommand(), groupSetCommand(), groupDeleteCommand(), groupListCommand())
	return c
}

// groupFlags are the settings of a group that its makers and changers give.
type groupFlags struct {
	mode     string
	period   time.Duration
	setBytes int64
	resync   rateFlag
	rate     rateFlag
	spool    rateFlag

	onDegraded   string
	degradeAfter time.Duration
}

func (f *groupFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.mode, "mode", "", "async: acknowledged when on the source; sync: when two components hold it, too (default async)")
	c.Flags().DurationVar(&f.period, "period", 0, "how long a set takes updates, 50ms to 1h (default 1s)")
	c.Flags().Var(sizeFlag{&f.setBytes}, "set-bytes", "size at which a set closes early (default 256MiB)")
	c.Flags().Var(&f.resync, "resync-rate", "ceiling of a primary's copies, bytes a second such as 50MiB, or none (default none)")
	c.Flags().Var(&f.rate, "bandwidth", "what each primary may send, in bytes a second, such as 10MiB; none for no limit (default none)")
	c.Flags().Var(spoolFlag{&f.spool}, "spool", "what each primary may keep on disk of writes that wait to be sent, from 64MiB; none to delay and suspend instead (default 1GiB)")
	c.Flags().StringVar(&f.onDegraded, "on-degraded", "", "what a sync group does when its writes can not be held: block, or async: go on, and promise less meanwhile (default block)")
	c.Flags().DurationVar(&f.degradeAfter, "degrade-after", 0, "with --on-degraded async: how long a write waits before, 500ms to 1h (default 5s)")
}

func (f *groupFlags) request() api.GroupRequest {
	return api.GroupRequest{
		Mode: f.mode, PeriodMS: f.period.Milliseconds(), SetBytes: f.setBytes, ResyncRate: f.resync.bytes, Bandwidth: f.rate.bytes, Spool: f.spool.bytes,
		OnDegraded: f.onDegraded, DegradeAfterMS: f.degradeAfter.Milliseconds(),
	}
}
