package primary

import (
	"cmp"
	"slices"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// Status is what the API shows of an agent's primary role. Sizes are bytes.
type Status struct {
	Groups     []GroupStatus // ascending by ID
	Frames     int64         // sent since the start
	FrameBytes int64         // of these frames before compression
	WireBytes  int64         // and after it
	Inlined    int64         // requests done without a worker since the start
	Spool      int64         // bytes that spools of all groups take on disk
}

// GroupStatus is a group with volumes of this agent.
type GroupStatus struct {
	ID            wire.GroupID
	Name          string
	Mode          cluster.Mode
	Incarnation   wire.Incarnation // 0 while it is not attached
	Open          wire.Set
	Seq, HeldUpTo wire.Seq
	Queued        int64
	Load          int64         // of it, memory, nearly
	Spooled       int64         // of it, data in the spool
	Spool         int64         // bytes that files of the spool take
	Step          string        // "pace", "spill", or empty while nothing needs to be done about the queue
	Delay         time.Duration // of a write that comes now
	Suspended     bool
	Reason        string // why it is suspended
	Waiting       int    // requests that wait to be held
	Whole         bool
	Volumes       []VolumeStatus // ascending by ID
}

// VolumeStatus is a source volume.
type VolumeStatus struct {
	ID     wire.VolumeID
	Name   string // "group/volume"
	Path   string
	Open   bool
	Size   int64
	Marked int64   // what a crash now would have copied
	ToCopy int64   // left of the running copy
	Total  int64   // of a first copy the volume, of a resync what it began with
	First  bool    // it is a first copy
	Rate   float64 // of the copy, bytes a second
	Read   int64   // bytes that copies have read of the source since it was opened
	Zeroed int64   // and that they found to be holes
	Error  string  // why it is not open, or the last error of its source
	// Unreadable is how many extents could not be read for the copy, which waits for them; UnreadableAt are the first ones.
	Unreadable   int
	UnreadableAt []Range
}

// Status returns the current figures.
func (p *Primary) Status() Status {
	st := Status{Frames: p.sentFrames.Load(), FrameBytes: p.sentRaw.Load(), WireBytes: p.sentBytes.Load(), Inlined: p.inlined.Load(), Spool: p.spools.used.Load()}
	for _, g := range p.allGroups() {
		st.Groups = append(st.Groups, g.status())
	}
	p.mu.Lock()
	for id, f := range p.failed {
		for i := range st.Groups {
			if st.Groups[i].ID == f.group {
				st.Groups[i].Volumes = append(st.Groups[i].Volumes, VolumeStatus{ID: id, Name: f.name, Path: f.path, Error: f.err.Error()})
			}
		}
	}
	p.mu.Unlock()
	slices.SortFunc(st.Groups, func(a, b GroupStatus) int { return cmp.Compare(a.ID, b.ID) })
	for i := range st.Groups {
		slices.SortFunc(st.Groups[i].Volumes, func(a, b VolumeStatus) int { return cmp.Compare(a.ID, b.ID) })
	}
	return st
}

func (g *group) status() GroupStatus {
	now := g.p.loop.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	v := &g.view
	st := GroupStatus{
		ID: g.id, Name: g.name, Mode: cluster.Mode(g.mode.Load()), Incarnation: v.Inc, Open: v.Open, Seq: v.Seq, HeldUpTo: v.HeldUpTo,
		Queued: v.Queued, Load: load(*v), Step: g.over.step.String(), Spooled: v.Spilled, Suspended: g.over.suspended, Reason: g.over.reason,
		Waiting: len(g.waits), Whole: v.Whole,
	}
	room := g.spool.room()
	st.Spool = room.used
	if st.Mode == cluster.Async || v.Early {
		st.Delay = g.delay()
	}
	for _, vol := range g.volumes {
		toCopy, marked := vol.marks.toCopy()
		vs := VolumeStatus{
			ID: vol.id, Name: vol.name, Path: vol.path, Open: true, Size: vol.size(), Marked: min(marked, vol.size()),
			ToCopy: min(toCopy, vol.size()), Total: vol.run.total, First: vol.run.first, Rate: vol.run.rate.at(now),
			Read: vol.copyRead, Zeroed: vol.copyZeroed,
		}
		if vol.lastError != nil {
			vs.Error = vol.lastError.Error()
		}
		vs.Unreadable, vs.UnreadableAt = vol.marks.aside(maxListed)
		st.Volumes = append(st.Volumes, vs)
	}
	return st
}
