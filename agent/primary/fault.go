package primary

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"flotilla/agent/core"
)

// The states of a source, or a spool, that fails. While one lasts Faults names it.
const (
	SourceUnreadable  = "source-unreadable"  // parts of it can not be read, so that the copy is not whole
	SourceFailed      = "source-failed"      // reads, writes or flushes failed in the last minute
	SourceUnavailable = "source-unavailable" // it can not be opened: its volume is not served
	SpoolFailed       = "spool-failed"       // the disk of a group's spool failed not long ago, so it is not used
)

// failingFor is how long after its last error a source still counts as failing.
const failingFor = time.Minute

// failing is when a source had errors. It is guarded by group.mu.
type failing struct {
	any         bool
	since, last time.Duration
}

func (f *failing) note(now time.Duration) {
	if !f.any || now-f.last > failingFor {
		f.any, f.since = true, now
	}
	f.last = now
}

// Faults returns what sources and spools fail at now.
func (p *Primary) Faults() []core.Fault {
	now := p.loop.Now()
	var out []core.Fault
	for _, g := range p.allGroups() {
		for _, v := range g.allVolumes() {
			if f, ok := v.fault(now); ok {
				out = append(out, f)
			}
		}
		g.mu.Lock()
		if t := &g.trouble; t.rests(now) {
			out = append(out, core.Fault{Name: SpoolFailed, Group: g.id, Text: "the spool of group " + g.name + ": " + t.text, For: now - t.since})
		}
		g.mu.Unlock()
	}
	p.mu.Lock()
	for id, f := range p.failed {
		out = append(out, core.Fault{Name: SourceUnavailable, Group: f.group, Volume: id, Text: f.err.Error(), For: now - f.since})
	}
	p.mu.Unlock()
	slices.SortFunc(out, func(a, b core.Fault) int { return int(int64(a.Volume) - int64(b.Volume)) })
	return out
}

func (v *volume) fault(now time.Duration) (core.Fault, bool) {
	n, ranges := v.marks.aside(maxListed)
	v.g.mu.Lock()
	defer v.g.mu.Unlock()
	f := core.Fault{Group: v.g.id, Volume: v.id, For: now - v.failing.since}
	switch {
	case v.unread.pause > 0:
		f.Name, f.For = SourceUnreadable, now-v.unread.since
		f.Text = fmt.Sprintf("%s can not be read at %s", v.path, listed(n, ranges))
		if n == 0 {
			f.Text = fmt.Sprintf("%s is read again where it could not be", v.path)
		}
	case v.failing.any && now-v.failing.last < failingFor:
		f.Name = SourceFailed
		f.Text = v.lastError.Error()
	}
	return f, f.Name != ""
}

// listed names ranges as OFFSET+LENGTH, and says how many more there are.
func listed(n int, ranges []Range) string {
	words := make([]string, len(ranges))
	for i, r := range ranges {
		words[i] = r.String()
	}
	text := strings.Join(words, ", ")
	if n > len(ranges) {
		text += fmt.Sprintf(" and %d more places", n-len(ranges))
	}
	return text
}
