package primary_test

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/loop"
	"flotilla/agent/primary"
	"flotilla/agent/vfs"
	"flotilla/agent/vfs/crashfs"
	"flotilla/blockdev"
	"flotilla/nbd"
	"flotilla/wire"

	"go.etcd.io/raft/v3/raftpb"
)

// world is a cluster of one agent that has all roles: real core, real loop, real Primary; the journal, the link and the
// targets are in memory. It outlives restarts of the agent.
type world struct {
	t       testing.TB
	fs      vfs.FS
	limits  primary.Limits
	codec   wire.Codec
	server  *nbd.Server // nil: requests are made without a connection
	cached  bool        // sources are taken for cached files
	sources map[string]blockdev.Device
	targets map[wire.VolumeID]*blockdev.Memory

	mu        sync.Mutex
	hard      core.Ready // last hard state, snapshot and all entries
	frames    []*wire.Body
	events    []string
	told      []core.Event
	run       uint64
	linkDown  bool          // frames are dropped
	noRoom    chan struct{} // while it is there and open, the link takes no frames
	noRaft    chan struct{} // until it is closed, nothing is made durable in Raft; nil: it is
	noStore   bool          // the journal does not answer
	noApply   bool          // the targets do not answer
	unstored  []core.Store
	unapplied []core.Apply
	opened    map[string]error // what opening a source fails with

	lag     time.Duration                             // from the comparison of a set to its application
	verdict func(core.CheckVerdict) core.CheckVerdict // changes the targets' answers; 0 for none. Nil: as they are

	host *host
}

// host is one run of the agent.
type host struct {
	w      *world
	loop   *loop.Loop
	p      *primary.Primary
	stop   context.CancelFunc
	done   sync.WaitGroup
	stores chan core.Store
	apply  chan core.Apply
	dec    *wire.Decoder
}

type volumeSpec struct {
	name string
	size int64
}

const (
	groupID     = wire.GroupID(1)
	portionSize = 1 << 20
)

// newWorld makes a cluster with one group and starts its agent.
func newWorld(t testing.TB, mode cluster.Mode, limits primary.Limits, specs ...volumeSpec) *world {
	t.Helper()
	w := &world{
		t: t, fs: crashfs.New(1), limits: limits, codec: wire.CodecS2,
		sources: map[string]blockdev.Device{}, targets: map[wire.VolumeID]*blockdev.Memory{}, opened: map[string]error{},
	}
	st := cluster.New("test")
	cmds := []cluster.Command{
		{AddAgent: &cluster.AddAgent{Name: "one", Address: "one:1", Primary: true, Backup: true, Secondary: true}},
		{CreateGroup: &cluster.CreateGroup{Name: "g", Mode: mode, PeriodMS: 50, PortionSize: portionSize, Spool: cluster.NoSpool}},
	}
	for i := range cmds {
		if _, err := st.Apply(1, &cmds[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range specs {
		w.addVolume(i, s)
		if _, err := st.Apply(1, w.createVolume(s)); err != nil {
			t.Fatal(err)
		}
	}
	boot := core.Bootstrap(st, []wire.AgentID{1})
	w.hard = core.Ready{HardState: boot.HardState, Snapshot: boot.Snapshot}
	w.start()
	return w
}

func (w *world) addVolume(i int, s volumeSpec) {
	if w.sources["/src/"+s.name] == nil {
		w.sources["/src/"+s.name] = blockdev.NewMemory(s.size)
	}
	w.targets[wire.VolumeID(i+1)] = blockdev.NewMemory(s.size)
}

func (w *world) createVolume(s volumeSpec) *cluster.Command {
	return &cluster.Command{CreateVolume: &cluster.CreateVolume{
		Group: groupID, Name: s.name, Size: s.size, Primary: 1, Secondary: 1, Source: "/src/" + s.name, Target: "/dst/" + s.name,
	}}
}

// start runs the agent anew.
func (w *world) start() {
	w.t.Helper()
	dec, err := wire.NewDecoder()
	if err != nil {
		w.t.Fatal(err)
	}
	h := &host{w: w, stores: make(chan core.Store, 1<<13), apply: make(chan core.Apply, 1<<10), dec: dec}
	var exporter primary.Exporter
	if w.server != nil {
		exporter = w.server
	}
	h.p, err = primary.New(primary.Options{
		Dir: "/state/primary", FS: w.fs, Sender: h, Exporter: exporter, Codec: w.codec, Limits: w.limits,
		OpenSource: func(path string) (blockdev.Device, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if err := w.opened[path]; err != nil {
				return nil, err
			}
			return shared{w.sources[path]}, nil
		},
		Cached:  func(string) bool { return w.cached },
		OnEvent: func(e core.Event) { w.noteEvent(e) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.run++
	boot := core.Boot{HardState: w.hard.HardState, Snapshot: w.hard.Snapshot, Entries: w.hard.Entries}
	frames := slices.Clone(w.frames)
	cfg := core.DefaultConfig(1, w.run*1_000_003)
	w.mu.Unlock()
	cfg.CompactEvery = 1 << 30
	node, err := core.New(cfg, boot, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, b := range frames {
		node.Restore(b, b)
	}
	node.Restored()
	h.loop = loop.New(node, loop.Sinks{
		Store:    func(s []core.Store) { send(h.stores, s) },
		Apply:    func(a []core.Apply) { send(h.apply, a) },
		Release:  h.p.Release,
		Wake:     h.p.Wake,
		Events:   func(es []core.Event) { w.noteEvent(es...) },
		SaveRaft: w.saveRaft,
		SendRaft: func([]*raftpb.Message) {},
	})
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	h.p.Start(h.loop)
	h.done.Go(func() {
		if err := h.loop.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	h.done.Go(func() { h.runJournal(ctx) })
	h.done.Go(func() { h.runTargets(ctx) })
	w.host = h
}

// send hands effects to a queue that is long enough for a test.
func send[T any](c chan T, items []T) {
	for _, it := range items {
		select {
		case c <- it:
		default:
			panic("a queue of the test is full")
		}
	}
}

// shared is a source that outlives its closing.
type shared struct{ blockdev.Device }

func (shared) Close() error { return nil }

func (s shared) Extents(off, length int64) iter.Seq2[blockdev.Extent, error] {
	return blockdev.Extents(s.Device, off, length)
}

func (w *world) noteEvent(es ...core.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range es {
		w.events = append(w.events, e.Name)
		w.told = append(w.told, e)
	}
}

func (w *world) saw(event string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.events, event)
}

func (w *world) saveRaft(rd core.Ready) error {
	w.mu.Lock()
	stands := w.noRaft
	w.mu.Unlock()
	if stands != nil {
		<-stands
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if rd.HardState != nil {
		w.hard.HardState = rd.HardState
	}
	for _, e := range rd.Entries {
		keep := len(w.hard.Entries) // looked for from the end, where it is: there are tens of thousands
		for keep > 0 && w.hard.Entries[keep-1].GetIndex() >= e.GetIndex() {
			keep--
		}
		w.hard.Entries = w.hard.Entries[:keep]
		w.hard.Entries = append(w.hard.Entries, e)
	}
	return nil
}

// shut ends the agent, in order.
func (w *world) shut() {
	w.t.Helper()
	if err := w.host.p.Close(); err != nil {
		w.t.Errorf("close: %v", err)
	}
	w.host.end()
}

// die ends the agent without regard to what Close says: its files and sources are gone already.
func (w *world) die() {
	_ = w.host.p.Close()
	w.host.end()
}

func (h *host) end() {
	h.stop()
	h.done.Wait()
}

// eventually waits, in virtual time, for a condition.
func (w *world) eventually(what string, cond func() bool) {
	w.t.Helper()
	for range 12000 {
		if cond() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	v, _ := w.view()
	w.t.Fatalf("after 120 s not yet: %s\nview %+v\nstatus %+v\nevents %v", what, v, w.host.p.Status(), w.events)
}

// view returns the group as the primary and the state see it.
func (w *world) view() (core.GroupView, cluster.Group) {
	var v core.GroupView
	var g cluster.Group
	w.host.loop.View(func(n *core.Node) {
		v, _ = n.View(groupID)
		g = *n.State().Groups[groupID]
		g.Volumes = map[wire.VolumeID]*cluster.Volume{}
		for id, vol := range n.State().Groups[groupID].Volumes {
			g.Volumes[id] = new(*vol)
		}
		g.Incs = slices.Clone(g.Incs)
		for i, inc := range g.Incs {
			g.Incs[i] = new(*inc)
		}
	})
	return v, g
}

func (w *world) group() primary.GroupStatus {
	for _, g := range w.host.p.Status().Groups {
		if g.ID == groupID {
			return g
		}
	}
	return primary.GroupStatus{}
}

// attached waits until the group takes updates.
func (w *world) attached() {
	w.t.Helper()
	w.eventually("the group is attached", func() bool {
		v, _ := w.view()
		return v.Open != 0 && w.group().Incarnation == v.Inc
	})
}

// settled waits until everything that was written is on the targets, and compares.
func (w *world) settled() {
	w.t.Helper()
	w.eventually("the copy is whole", func() bool {
		v, g := w.view()
		st := w.group()
		if v.Inc == 0 || v.Open == 0 || st.Incarnation != v.Inc || len(st.Volumes) != len(g.Volumes) {
			return false
		}
		for _, vol := range st.Volumes {
			if vol.ToCopy != 0 || g.Volumes[vol.ID].CopiedAt == 0 {
				return false
			}
		}
		return v.Whole && v.HeldUpTo == v.Seq
	})
	open, _ := w.view()
	w.eventually("the last set is applied", func() bool {
		_, g := w.view()
		return g.Applied >= open.Open
	})
	w.compare()
}

func (w *world) compare() {
	w.t.Helper()
	_, g := w.view()
	for id, v := range g.Volumes {
		want, have := content(w.t, w.sources[v.Source])[:v.Size], content(w.t, w.targets[id])[:v.Size]
		if bytes.Equal(want, have) {
			continue
		}
		for at := range want {
			if want[at] != have[at] {
				w.t.Fatalf("volume %s differs first at byte %d (extent %d): source %d, target %d", v.Name, at, at>>12, want[at], have[at])
			}
		}
	}
}

func content(t testing.TB, d blockdev.Device) []byte {
	t.Helper()
	p := make([]byte, d.Size())
	if _, err := d.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// inBubble runs a test in virtual time.
func inBubble(t *testing.T, f func(t *testing.T)) { t.Helper(); synctest.Test(t, f) }
