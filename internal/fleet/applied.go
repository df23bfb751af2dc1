package fleet

import (
	"context"
	"time"

	"flotilla/agent/api"
)

// staleTime is how old what the captain says of a primary may be: it reports every 100 ms.
const staleTime = 400 * time.Millisecond

// Applied waits until everything that was written to a group's volumes is on their targets, as this host hears it. Nobody may
// write meanwhile.
func (h *Host) Applied(ctx context.Context, group string) error {
	end := time.Now()
	var upTo uint64 // the set that was open after the last write
	return Until(ctx, 2*StepTime, "what was written to group "+group+" is applied", func(ctx context.Context) (bool, error) {
		s, err := h.Status(ctx)
		if s == nil || err != nil {
			return false, err
		}
		g := s.Group(group)
		if g == nil || time.Since(end) < staleTime {
			return false, nil
		}
		if upTo == 0 {
			if upTo = openSet(g); upTo == 0 {
				return false, nil
			}
		}
		return g.Applied >= upTo, nil
	})
}

// openSet returns the newest set that a primary of a group has open; 0 while not all of them are known to have one.
func openSet(g *api.Group) (newest uint64) {
	for _, p := range g.Primaries {
		if !p.Known || p.Open == 0 {
			return 0
		}
		newest = max(newest, p.Open)
	}
	return newest
}
