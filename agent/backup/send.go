package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"flotilla/agent/apply"
	"flotilla/wire"
)

// sending is the requests of one attempt to apply.
type sending struct {
	b     *Backup
	head  apply.Request
	slots chan struct{} // one for each request in flight
	calls sync.WaitGroup

	mu      sync.Mutex
	err     error                    // the first one; guarded by mu
	written map[wire.VolumeID]uint32 // requests answered; guarded by mu
}

// start begins to send requests; wait must follow before their data changes.
func (s *sending) start(ctx context.Context, reqs []*apply.Request, targets map[wire.VolumeID]wire.AgentID) {
	s.calls.Go(func() {
		for _, r := range reqs {
			select {
			case s.slots <- struct{}{}:
			case <-ctx.Done():
				s.failed(context.Cause(ctx))
				return
			}
			if s.failure() != nil {
				<-s.slots
				return
			}
			s.calls.Go(func() {
				defer func() { <-s.slots }()
				s.call(ctx, targets[r.Volume], r)
			})
		}
	})
}

func (s *sending) call(ctx context.Context, to wire.AgentID, r *apply.Request) {
	ctx, cancel := context.WithTimeout(ctx, s.b.opt.CallTimeout)
	defer cancel()
	err := s.b.opt.Net.CallApply(ctx, to, r)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w (%w)", err, cause)
		}
		s.failed(fmt.Errorf("write set %d to volume %d on agent %d: %w", r.Set, r.Volume, to, err))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written[r.Volume]++
}

func (s *sending) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func (s *sending) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// wait returns when nothing is in flight, with the first error of all requests so far.
func (s *sending) wait() error {
	s.calls.Wait()
	return s.failure()
}

// flushes makes the requests that make everything durable. Nothing is in flight.
func (s *sending) flushes(targets map[wire.VolumeID]wire.AgentID) []*apply.Request {
	var out []*apply.Request
	for v, n := range s.written {
		if targets[v] == 0 {
			continue
		}
		r := s.head
		r.Volume, r.Flush, r.Writes = v, true, n
		out = append(out, &r)
	}
	slices.SortFunc(out, func(a, b *apply.Request) int { return cmp.Compare(a.Volume, b.Volume) })
	return out
}
