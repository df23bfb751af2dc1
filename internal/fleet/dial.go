package fleet

import (
	"context"
	"fmt"
	"time"

	"flotilla/nbd/nbdclient"
)

// Dial connects to an export of the host, as soon as it is there.
func (h *Host) Dial(ctx context.Context, export string) (*nbdclient.Client, error) {
	tick := time.NewTicker(AskEvery)
	defer tick.Stop()
	for {
		d, err := nbdclient.Dial(ctx, "unix", h.NBD, export)
		if err == nil {
			return d, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for volume %s: %w (last: %w)", export, context.Cause(ctx), err)
		}
	}
}
