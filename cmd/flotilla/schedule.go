package main

import (
	"errors"
	"fmt"
	"time"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

// scheduleFlags say when a group is checked by itself.
type scheduleFlags struct {
	every  time.Duration
	repair bool
	rate   int64
}

func (f *scheduleFlags) add(c *cobra.Command) {
	c.Flags().DurationVar(&f.every, "check-every", 0, "check the group by itself, such as 168h; 0 for never")
	c.Flags().BoolVar(&f.repair, "check-repair", false, "with --check-every: copy what differs")
	c.Flags().Var(sizeFlag{&f.rate}, "check-rate", "with --check-every: bytes that each primary reads a second (default 64MiB)")
}

// request returns nil when nothing is said of a schedule.
func (f *scheduleFlags) request(cmd *cobra.Command) (*api.CheckSchedule, error) {
	if !cmd.Flags().Changed("check-every") {
		if f.repair || f.rate != 0 {
			return nil, &usageError{errors.New("--check-repair and --check-rate go with --check-every")}
		}
		return nil, nil
	}
	if f.every < 0 || f.every%time.Second != 0 {
		return nil, &usageError{fmt.Errorf("--check-every %v: want whole seconds", f.every)}
	}
	return &api.CheckSchedule{EverySeconds: int64(f.every / time.Second), Repair: f.repair, Rate: f.rate}, nil
}
