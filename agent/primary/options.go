package primary

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/vfs"
	"flotilla/blockdev"
	"flotilla/nbd"
	"flotilla/wire"
)

// Sender takes frames to components; package peers has one.
type Sender interface {
	// SendFrame queues a frame. The body is not copied: release is called exactly once, from any goroutine and perhaps
	// before SendFrame returns, when it is written or dropped. An error says that it was dropped at once.
	SendFrame(to wire.AgentID, r wire.Route, body []byte, release func()) error
}

// RoomWaiter is what a Sender also implements if it can say when a frame would not be refused. A frame is then taken out
// of the node only when there is room for it: one that waits elsewhere grows old, and the node sends it again.
type RoomWaiter interface {
	// WaitRoom returns nil when the component is reached and has room. An error says that the context has ended, or
	// that the Sender has.
	WaitRoom(ctx context.Context, to wire.AgentID) error
}

// Exporter offers devices to clients; *nbd.Server is one.
type Exporter interface {
	AddExport(name string, e nbd.Export) error
	RemoveExport(ctx context.Context, name string) error
}

// Resizer is what an Exporter also implements if it wants to know that the size of an export has risen.
type Resizer interface {
	ResizeExport(name string)
}

// Options are what a Primary needs. Dir and Sender must be set.
type Options struct {
	// Dir is the directory of the files of bits. It is made if it is missing.
	Dir string
	// SpoolDir is where spools lie: Dir/spool where it is empty. It is made when it is needed.
	SpoolDir string
	// Sender takes frames to components.
	Sender Sender
	// Exporter is told of volumes, under the name "group/volume". Nil: they are only found by Export.
	Exporter Exporter
	// FS holds Dir and SpoolDir; nil means the machine's own.
	FS vfs.FS
	// OpenSource opens a volume's device; nil means blockdev.Open, exclusively.
	OpenSource func(path string) (blockdev.Device, error)
	// Cached says whether small requests of a source seldom wait for a disk; nil means regular files do not.
	Cached func(path string) bool
	// Codec compresses frames.
	Codec wire.Codec
	// Logger gets the events; nil drops them.
	Logger *slog.Logger
	// OnEvent gets the events, too. It must not block nor call the Primary. May be nil.
	OnEvent func(core.Event)
	// Limits bound memory and waits; zero fields stand for the defaults.
	Limits Limits
}

// Limits are the bounds that a Primary keeps (P7). Sizes are bytes.
type Limits struct {
	Extent      int64         // what one bit stands for, a power of two; default 1 MiB, doubled for devices of more than 1 Mi extents
	KeepExtents int           // bits that stay set for the working set; default 1024
	CleanEvery  time.Duration // between two rounds of clearing bits; default 1 s
	// NoActivityLog sets all bits on disk while a volume is open: a write makes no bit durable, and a crash has everything
	// copied.
	NoActivityLog bool

	Frame int64 // of a frame, before compression; default 1 MiB
	// Gather is the least time between two rounds of frames to a component that do not fill Frame, while nobody waits to hear
	// that something is held: an update is held so much later at most, and frames are larger; default 5 ms.
	Gather time.Duration
	Window int64 // encoded, given to the Sender for one component and not yet released; default 16 MiB

	PaceMark   int64 // of updates not yet held, from which on writers are delayed; default 64 MiB
	QueueLimit int64 // above it for StallAfter without progress, the group is suspended; twice of it, at once; default 256 MiB
	SpillMark  int64 // from which on payloads go to the spool, where the group has one; default a quarter of the way from PaceMark to QueueLimit
	SpoolTotal int64 // of the spools of all groups; default 8 GiB; less than 0 for none
	// SpoolSegment is the size of a spool's files; 0 means a part of its limit.
	SpoolSegment int64
	PaceMax      time.Duration // the longest delay of one write; default 1 s
	StallAfter   time.Duration // default 10 s
	SuspendFor   time.Duration // how long a suspended group stays so at least; default 5 s

	CheckRate int64         // of checks that name none, bytes a second of each group; default 64 MiB
	CopyRate  int64         // of copies, a second and group, where the group's resync rate is not set; 0 means no ceiling
	CopyLeast int64         // of copies, a second and group, however busy the application is; default 1 MiB
	OpenAgain time.Duration // before a source that could not be opened is tried again, doubled up to 64 times; default 1 s
}

// maxExtents bounds the memory that a volume's activity log takes to some 32 MiB.
const maxExtents = 1 << 20

func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" || o.Sender == nil {
		return o, fmt.Errorf("set up primary: a directory (%q) and a sender must be given", o.Dir)
	}
	if o.SpoolDir == "" {
		o.SpoolDir = path.Join(o.Dir, "spool")
	}
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	if o.OpenSource == nil {
		o.OpenSource = func(path string) (blockdev.Device, error) {
			return blockdev.Open(path, blockdev.Options{Exclusive: true})
		}
	}
	if o.Cached == nil {
		o.Cached = isCached
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if _, err := wire.NewEncoder(o.Codec); err != nil {
		return o, fmt.Errorf("set up primary: %w", err)
	}
	var err error
	if o.Limits, err = o.Limits.withDefaults(); err != nil {
		return o, fmt.Errorf("set up primary: %w", err)
	}
	return o, nil
}

func (l Limits) withDefaults() (Limits, error) {
	for _, d := range []struct {
		v *int64
		d int64
	}{{&l.Extent, 1 << 20}, {&l.Frame, 1 << 20}, {&l.Window, 16 << 20}, {&l.PaceMark, 64 << 20}, {&l.QueueLimit, 256 << 20}, {&l.SpoolTotal, 8 << 30}, {&l.CheckRate, 64 << 20}, {&l.CopyLeast, 1 << 20}} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{
		{&l.Gather, 5 * time.Millisecond}, {&l.CleanEvery, time.Second}, {&l.PaceMax, time.Second}, {&l.StallAfter, 10 * time.Second},
		{&l.SuspendFor, 5 * time.Second}, {&l.OpenAgain, time.Second},
	} {
		if *d.v == 0 {
			*d.v = d.d
		}
		if *d.v < 0 {
			return l, fmt.Errorf("a duration of %v in the limits is negative", *d.v)
		}
	}
	if l.SpillMark == 0 {
		l.SpillMark = l.PaceMark + (l.QueueLimit-l.PaceMark)/4
	}
	if l.KeepExtents == 0 {
		l.KeepExtents = 1024
	}
	switch {
	case l.Extent < 4096 || l.Extent&(l.Extent-1) != 0:
		return l, fmt.Errorf("an extent of %d bytes is not a power of two from 4096", l.Extent)
	case l.Frame < 1 || l.Frame > wire.MaxFramePayload-wire.MaxUpdateLength:
		return l, fmt.Errorf("a frame of %d bytes is outside of 1 … %d", l.Frame, wire.MaxFramePayload-wire.MaxUpdateLength)
	case l.Window < l.Frame:
		return l, fmt.Errorf("a window of %d bytes does not hold a frame of %d", l.Window, l.Frame)
	case l.PaceMark < 1 || l.QueueLimit <= l.PaceMark:
		return l, fmt.Errorf("a queue limit of %d bytes is not above the mark of %d from which writers are delayed", l.QueueLimit, l.PaceMark)
	case l.SpillMark < l.PaceMark || l.SpillMark >= l.QueueLimit || l.SpoolSegment < 0:
		return l, fmt.Errorf("the mark of %d bytes from which on is spilled is outside of %d … %d, or a segment of %d bytes is negative", l.SpillMark, l.PaceMark, l.QueueLimit, l.SpoolSegment)
	case l.KeepExtents < 0 || l.CopyRate < 0 || l.CopyLeast < 0 || l.CheckRate < 0:
		return l, fmt.Errorf("%d extents to keep, copy rates of %d and %d and a check rate of %d must not be negative", l.KeepExtents, l.CopyRate, l.CopyLeast, l.CheckRate)
	}
	return l, nil
}

// extentFor returns the extent size of a volume of so many bytes.
func (l *Limits) extentFor(size int64) int64 {
	extent := l.Extent
	for (size+extent-1)/extent > maxExtents {
		extent *= 2
	}
	return extent
}
