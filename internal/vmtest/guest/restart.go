package main

import (
	"context"
	"fmt"
	"time"
)

// restarts is how often the agent is stopped and started in the planned way.
const restarts = 5

// restart stops the agent properly and starts it again, under a database, and says how long its writes paused.
func restart(ctx context.Context, c *cluster) error {
	return withDatabase(c, func(r *rows) error {
		for i := range restarts {
			r.takeLongest()
			if err := c.primary.Stop(ctx); err != nil {
				return err
			}
			if err := c.fleet.Launch(c.primary); err != nil {
				return err
			}
			if err := r.more(ctx, 10); err != nil {
				return fmt.Errorf("after restart %d: %w", i+1, err)
			}
			say("restart %d: the longest pause was %v", i+1, r.takeLongest().Round(time.Millisecond))
		}
		return nil
	}, "--timeout", "30s")
}
