package backup

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"flotilla/agent/apply"
	"flotilla/agent/core"
	"flotilla/agent/journal"
	"flotilla/agent/vfs"
	"flotilla/wire"
)

// Net is what a component needs of the transport. Its methods may be called from several goroutines.
type Net interface {
	// SendFrame queues a frame and does not wait. The body is not copied: release is called once, when it is written or
	// dropped, possibly before SendFrame returns. An error says that it was dropped at once.
	SendFrame(to wire.AgentID, r wire.Route, body []byte, release func()) error
	// CallApply has a secondary perform the request and returns its answer. The request is not used any more once it has
	// returned, whatever it returned.
	CallApply(ctx context.Context, to wire.AgentID, req *apply.Request) error
}

// Options configures a component. FS, Dir, Journal.Limit and Net have no default.
type Options struct {
	FS  vfs.FS
	Dir string // this package's own directory; made if missing
	// Cluster is the cluster's ID in hexadecimal digits. Default: what the node's state says, which says nothing on an
	// agent that has joined and has not heard of the cluster yet.
	Cluster string
	// Journal configures the journal. Its Dir is set here, and its Logger unless given.
	Journal journal.Options
	Net     Net

	Events func(core.Event) // what a user should see; must not block. Default: none
	Logger *slog.Logger     // default: none

	// MaxBody is the length of the longest body that primaries send, in bytes. A journal whose segments are too small for
	// it is refused. Default wire.MaxBodyLength.
	MaxBody int
	// IntakeBytes bounds received frames that wait for the disk, MirrorBytes those that only wait for their mirror.
	// Defaults 64 MiB and 32 MiB.
	IntakeBytes, MirrorBytes int64

	ApplyWorkers int           // sets applied at the same time; default 4
	ApplyWindow  int           // bytes that are gathered, sorted and sent together; default 8 MiB
	ApplyCalls   int           // requests in flight for one set; default 4
	CallTimeout  time.Duration // for one request; default 60 s
	MirrorWorker int           // frames prepared for new mirrors at the same time; default 2

	// Poll is how often the node is told of the journal's room, and stale work is looked for. Default 100 ms.
	Poll time.Duration
	// Random numbers attempts to apply. Default math/rand/v2.
	Random func() uint64
}

func (o Options) withDefaults() (Options, error) {
	if o.FS == nil || o.Dir == "" || o.Net == nil {
		return o, fmt.Errorf("backup options: a file system, a directory and a network are needed")
	}
	orDefault(&o.MaxBody, wire.MaxBodyLength)
	orDefault(&o.IntakeBytes, 64<<20)
	orDefault(&o.MirrorBytes, 32<<20)
	orDefault(&o.ApplyWorkers, 4)
	orDefault(&o.ApplyWindow, 8<<20)
	orDefault(&o.ApplyCalls, 4)
	orDefault(&o.CallTimeout, 60*time.Second)
	orDefault(&o.MirrorWorker, 2)
	orDefault(&o.Poll, 100*time.Millisecond)
	if o.Events == nil {
		o.Events = func(core.Event) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Journal.Logger == nil {
		o.Journal.Logger = o.Logger
	}
	if o.Random == nil {
		o.Random = rand.Uint64
	}
	if o.MaxBody < 0 || o.IntakeBytes < 0 || o.MirrorBytes < 0 || o.ApplyWorkers < 0 || o.ApplyWindow < 0 ||
		o.ApplyCalls < 0 || o.CallTimeout < 0 || o.MirrorWorker < 0 || o.Poll < 0 {
		return o, fmt.Errorf("backup options: a limit is negative")
	}
	return o, nil
}

func orDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}
