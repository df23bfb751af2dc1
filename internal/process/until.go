package process

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Of Until: how often it asks, and how long an answer may take.
const (
	askEvery = 50 * time.Millisecond
	askTime  = 20 * time.Second
)

// ErrTooLong is wrapped by the end of a wait.
var ErrTooLong = errors.New("it took too long")

// Until asks again and again until it is answered with true, or an error, or the limit is over.
func Until(ctx context.Context, limit time.Duration, what string, ask func(ctx context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w (%v)", ErrTooLong, limit))
	defer cancel()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		once, done := context.WithTimeout(ctx, askTime)
		ok, err := ask(once)
		done()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("wait until %s: %w", what, context.Cause(ctx))
		case err != nil:
			return fmt.Errorf("wait until %s: %w", what, err)
		case ok:
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
