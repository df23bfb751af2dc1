package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flotilla/agent/api"
)

// Waits that have no reason to last this long have failed. They bear a machine that does much else.
const (
	StartTime = 30 * time.Second // for an agent to answer
	StepTime  = 90 * time.Second // for a command, and most else
	AskEvery  = 50 * time.Millisecond

	askTime     = 20 * time.Second
	commandTime = 20 * time.Second // for what sets up and breaks networks
)

// ErrTooLong ends a wait.
var ErrTooLong = errors.New("it took too long")

// Until asks again and again until it is answered with true, or an error.
func Until(ctx context.Context, limit time.Duration, what string, ask func(ctx context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w (%v)", ErrTooLong, limit))
	defer cancel()
	tick := time.NewTicker(AskEvery)
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

// IgnoreUnreached keeps only errors that waiting does not mend.
func IgnoreUnreached(err error) error {
	if code := api.CodeOf(err); err == nil || code == api.Unavailable || code == api.Unknown || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// Status asks a host for the cluster as its captain sees it; nil when there is none now.
func (h *Host) Status(ctx context.Context) (*api.Status, error) {
	s, err := h.API.Status(ctx)
	if err != nil || !s.Complete {
		return nil, IgnoreUnreached(err)
	}
	return s, nil
}
