package secondary

import (
	"slices"
	"time"

	"flotilla/agent/core"
)

// The states of a target that fails. While one lasts Faults names it.
const (
	TargetUnavailable = "target-unavailable" // it can not be opened, or may not be used
	TargetFailed      = "target-failed"      // a write or a flush failed, and none has succeeded since
)

func (t *target) setErrorLocked(err error, now time.Duration) {
	if t.err == nil {
		t.errSince = now
	}
	t.err = err
}

// Faults returns what targets fail at now.
func (s *Secondary) Faults() []core.Fault {
	now := s.loop.Now()
	var out []core.Fault
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, t := range s.targets {
		t.mu.Lock()
		if t.err != nil {
			f := core.Fault{Name: TargetFailed, Group: t.assigned.group, Volume: id, Text: t.err.Error(), For: now - t.errSince}
			if t.dev == nil {
				f.Name = TargetUnavailable
			}
			out = append(out, f)
		}
		t.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b core.Fault) int { return int(int64(a.Volume) - int64(b.Volume)) })
	return out
}
