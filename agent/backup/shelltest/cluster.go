// Package shelltest runs real nodes, loops and shells of components and secondaries in one process, with a network of
// function calls, for the tests of the shells. Disks outlive their agents.
package shelltest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flotilla/agent/apply"
	"flotilla/agent/backup"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/journal"
	"flotilla/agent/loop"
	"flotilla/agent/secondary"
	"flotilla/agent/vfs/crashfs"
	"flotilla/blockdev"
	"flotilla/blockdev/faulty"
	"flotilla/wire"

	"go.etcd.io/raft/v3/raftpb"
)

// The one group and volume of a cluster.
const (
	Group  wire.GroupID  = 1
	Volume wire.VolumeID = 1
	Size                 = 8 << 20
	// Portion is the smallest that a group may have, so that a volume has several.
	Portion = 1 << 20
	Path    = "/target"
)

// Config says what to change of the defaults.
type Config struct {
	Seed uint64
	// Backups is how many agents hold updates. Agent 1 is primary and secondary; with 0 it is also the one component.
	Backups   int
	Backup    func(*backup.Options)
	Secondary func(*secondary.Options)
	Volume    func(*cluster.CreateVolume)
	// ResendAfter is core's; default 200 ms.
	ResendAfter time.Duration
}

// Cluster is a set of agents.
type Cluster struct {
	T   testing.TB
	cfg Config
	// Target is the device of the one volume; it outlives the secondary.
	Target *faulty.Device
	// OnCall, if set before the start, sees every request to a secondary and can refuse it.
	OnCall func(from wire.AgentID, req *apply.Request) error
	// OnSend, if set before the start, sees every frame of a component to its mirror and can refuse it.
	OnSend func(from, to wire.AgentID) error
	// Damage, if set before the start, changes frames under way.
	Damage func(r wire.Route, raw []byte)
	// Seal, if set before the start, makes an update's sum instead of Update.Seal.
	Seal func(u *wire.Update, g wire.GroupID, inc wire.Incarnation)

	mu      sync.Mutex
	agents  map[wire.AgentID]*Agent // those running, guarded by mu
	disks   map[wire.AgentID]*disks
	events  []core.Event  // guarded by mu
	changed chan struct{} // closed and replaced with every wake and event, guarded by mu
	model   []byte        // what the target is to become; guarded by mu
	out     atomic.Int64
	refused atomic.Int64
}

// disks are what of an agent survives it.
type disks struct {
	fs   *crashfs.FS
	mu   sync.Mutex
	raft core.Boot // guarded by mu
}

// Agent is one running agent.
type Agent struct {
	ID        wire.AgentID
	FS        *crashfs.FS
	Loop      *loop.Loop
	Backup    *backup.Backup
	Secondary *secondary.Secondary

	c             *Cluster
	control, data *inbox
	primary       *Primary
	stop          context.CancelFunc
	done          sync.WaitGroup
}

// New returns a cluster without running agents.
func New(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	t.Logf("seed %d", cfg.Seed)
	c := &Cluster{
		T: t, cfg: cfg, Target: faulty.New(blockdev.NewMemory(Size)), agents: map[wire.AgentID]*Agent{},
		disks: map[wire.AgentID]*disks{}, changed: make(chan struct{}), model: make([]byte, Size),
	}
	st := cluster.New("00112233445566778899aabbccddeeff")
	apply := func(cmd cluster.Command) {
		if _, err := st.Apply(1, &cmd); err != nil {
			t.Fatal(err)
		}
	}
	var voters []wire.AgentID
	for i := range cfg.Backups + 1 {
		apply(cluster.Command{AddAgent: &cluster.AddAgent{
			Name: fmt.Sprint("agent", i+1), Address: fmt.Sprint("host", i+1), Primary: i == 0, Secondary: i == 0, Backup: i > 0 || cfg.Backups == 0,
		}})
		voters = append(voters, wire.AgentID(i+1))
	}
	apply(cluster.Command{CreateGroup: &cluster.CreateGroup{Name: "db", PeriodMS: cluster.MinPeriodMS, PortionSize: Portion}})
	volume := cluster.CreateVolume{Group: Group, Name: "data", Size: Size, Primary: 1, Source: "/source", Secondary: 1, Target: Path}
	if cfg.Volume != nil {
		cfg.Volume(&volume)
	}
	apply(cluster.Command{CreateVolume: &volume})
	for _, id := range voters {
		c.disks[id] = &disks{fs: crashfs.New(cfg.Seed + uint64(id)), raft: core.Bootstrap(st, voters)}
	}
	return c
}

// StartAll starts every agent, waits until all components share the portions of the open set, and stops the agents at the
// end of the test.
func (c *Cluster) StartAll() {
	c.T.Helper()
	for id := range c.disks {
		c.Start(id)
	}
	c.T.Cleanup(func() {
		for id := range c.disks {
			c.Stop(id)
		}
		if n := c.out.Load(); n != 0 {
			c.T.Errorf("%d payloads were not released", n)
		}
	})
	c.Wait("all components to share the open set", func() (ok bool) {
		c.Agent(1).Loop.View(func(n *core.Node) {
			v, _ := n.View(Group)
			gr := n.State().Groups[Group].Grant(v.Open)
			ok = gr != nil && len(gr.Members) == max(1, c.cfg.Backups)
		})
		return ok
	})
}

// FS returns an agent's disk.
func (c *Cluster) FS(id wire.AgentID) *crashfs.FS { return c.disks[id].fs }

func (c *Cluster) running(id wire.AgentID) *Agent {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.agents[id]
}

// Agent returns a running agent.
func (c *Cluster) Agent(id wire.AgentID) *Agent {
	c.T.Helper()
	a := c.running(id)
	if a == nil {
		c.T.Fatalf("agent %d is not running", id)
	}
	return a
}

// Start starts one agent, with what its disks hold.
func (c *Cluster) Start(id wire.AgentID) *Agent {
	c.T.Helper()
	a, err := c.TryStart(id)
	if err != nil {
		c.T.Fatalf("start agent %d: %v", id, err)
	}
	return a
}

// TryStart starts one agent or says why it does not start.
func (c *Cluster) TryStart(id wire.AgentID) (*Agent, error) {
	d := c.disks[id]
	cfg := core.DefaultConfig(id, c.cfg.Seed<<8+uint64(id)+uint64(d.fs.Ops()))
	cfg.StatusEvery, cfg.RetryEvery, cfg.RaftTick = 20*time.Millisecond, 30*time.Millisecond, 20*time.Millisecond
	cfg.ResendAfter = cmp.Or(c.cfg.ResendAfter, 200*time.Millisecond)
	d.mu.Lock()
	n, err := core.New(cfg, d.raft, 0)
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	a := &Agent{ID: id, FS: d.fs, c: c}
	opt := backup.Options{
		FS: d.fs, Dir: "/backup", Net: port{c, id}, Events: c.event, MaxBody: 100 << 10, Poll: 10 * time.Millisecond,
		Journal: journal.Options{SegmentSize: 256 << 10, Limit: 64 << 20, MarkDelay: time.Millisecond},
	}
	if c.cfg.Backup != nil {
		c.cfg.Backup(&opt)
	}
	if a.Backup, err = backup.New(opt); err != nil {
		return nil, err
	}
	if err := a.Backup.Open(n); err != nil {
		return nil, err
	}
	sopt := secondary.Options{
		FS: d.fs, Dir: "/secondary", Events: c.event, Retry: 50 * time.Millisecond, Wait: 500 * time.Millisecond,
		Open: func(string) (blockdev.Device, error) { return keep{c.Target}, nil },
	}
	if c.cfg.Secondary != nil {
		c.cfg.Secondary(&sopt)
	}
	if a.Secondary, err = secondary.New(sopt); err != nil {
		return nil, err
	}
	if id == 1 {
		a.primary = newPrimary(c, a)
	}
	a.control, a.data = newInbox(), newInbox()
	b := a.Backup
	a.Loop = loop.New(n, loop.Sinks{
		Send:   func(list []core.Envelope) { c.messages(id, list) },
		Frames: b.Frames, Remirror: b.Remirror, Store: b.Store, Free: b.Free, Wipe: b.Wipe, Apply: b.Apply,
		Wake: func() { a.Secondary.Wake(); a.primary.wake(); c.signal() },
		Events: func(list []core.Event) {
			for _, e := range list {
				c.event(e)
			}
		},
		SaveRaft: d.save,
		SendRaft: func(list []*raftpb.Message) { c.raft(list) },
	})
	b.Start(a.Loop)
	if err := a.Secondary.Start(a.Loop); err != nil {
		return nil, err
	}
	var ctx context.Context
	ctx, a.stop = context.WithCancel(context.Background())
	c.mu.Lock()
	c.agents[id] = a
	c.mu.Unlock()
	a.done.Go(func() {
		if err := a.Loop.Run(ctx); err != nil {
			c.T.Errorf("agent %d: %v", id, err)
		}
	})
	a.primary.start()
	return a, nil
}

// Stop stops an agent if it runs.
func (c *Cluster) Stop(id wire.AgentID) {
	a := c.running(id)
	if a == nil {
		return
	}
	c.mu.Lock()
	delete(c.agents, id)
	c.mu.Unlock()
	a.primary.close()
	a.stop()
	a.done.Wait()
	// The component first: a frame that waits for room ends with it.
	berr := a.Backup.Close()
	a.data.close()
	a.control.close()
	if err := a.Secondary.Close(); err != nil {
		c.T.Errorf("close the secondary of agent %d: %v", id, err)
	}
	if berr != nil {
		c.T.Logf("close the component of agent %d: %v", id, berr)
	}
	for _, other := range c.others(id) {
		other.Do(func(n *core.Node) { n.Disconnected(n.Now(), id) })
	}
}

func (c *Cluster) others(id wire.AgentID) (out []*Agent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, a := range c.agents {
		if k != id {
			out = append(out, a)
		}
	}
	return out
}

// Do calls f with the node.
func (a *Agent) Do(f func(n *core.Node)) { a.Loop.Do(func(n *core.Node, now time.Duration) { f(n) }) }

// Primary returns the agent's primary role.
func (a *Agent) Primary() *Primary { return a.primary }

// save is a raft log that is always durable.
func (d *disks) save(r core.Ready) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := &d.raft
	if r.HardState != nil {
		b.HardState = r.HardState
	}
	if r.Snapshot != nil {
		b.Snapshot = r.Snapshot
		last := r.Snapshot.GetMetadata().GetIndex()
		for len(b.Entries) > 0 && b.Entries[0].GetIndex() <= last {
			b.Entries = b.Entries[1:]
		}
	}
	for _, e := range r.Entries {
		for len(b.Entries) > 0 && b.Entries[len(b.Entries)-1].GetIndex() >= e.GetIndex() {
			b.Entries = b.Entries[:len(b.Entries)-1]
		}
		b.Entries = append(b.Entries, e)
	}
	return nil
}

func (c *Cluster) event(e core.Event) {
	c.mu.Lock()
	c.events = append(c.events, e)
	c.mu.Unlock()
	c.signal()
}

func (c *Cluster) signal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
}

// Seen returns how many events of that name there were.
func (c *Cluster) Seen(name string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if e.Name == name {
			n++
		}
	}
	return n
}

// WaitSeen waits for an event.
func (c *Cluster) WaitSeen(name string) {
	c.T.Helper()
	c.Wait("event "+name, func() bool { return c.Seen(name) > 0 })
}

// Wait waits until the condition holds.
func (c *Cluster) Wait(what string, cond func() bool) {
	c.T.Helper()
	limit := time.After(20 * time.Second)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if cond() {
			return
		}
		select {
		case <-changed:
		case <-again.C: // not everything that is waited for wakes
		case <-limit:
			c.mu.Lock()
			events := c.events
			c.mu.Unlock()
			c.T.Fatalf("waited too long for %s; the last events: %v\n%s", what, events[max(0, len(events)-20):], c.waiting())
		}
	}
}

// waiting says how every agent sees its groups, and what the captain waits for.
func (c *Cluster) waiting() string {
	var b strings.Builder
	c.mu.Lock()
	agents := maps.Clone(c.agents)
	c.mu.Unlock()
	for _, id := range cluster.SortedKeys(agents) {
		agents[id].Loop.View(func(n *core.Node) {
			st := n.State()
			fmt.Fprintf(&b, "agent %d: captain %d, view %d, members %v", id, n.Captain(), st.View, st.Members)
			for _, g := range cluster.SortedKeys(st.Groups) {
				v, _ := n.View(g)
				gr := st.Groups[g]
				fmt.Fprintf(&b, "; group %d: committed %d, apply to %d, applied %d, granted %d, %+v; %s", g, gr.Committed, gr.ApplyTo, gr.Applied, gr.Granted, v, n.Waiting(g))
				for _, inc := range gr.Incs {
					fmt.Fprintf(&b, " %+v", *inc)
				}
			}
			fmt.Fprintln(&b)
		})
	}
	return b.String()
}

// State calls f with the state as an agent knows it.
func (c *Cluster) State(id wire.AgentID, f func(*cluster.State)) {
	c.T.Helper()
	c.Agent(id).Loop.View(func(n *core.Node) { f(n.State()) })
}

// Refused returns how many frames were no frames.
func (c *Cluster) Refused() int64 { return c.refused.Load() }

// keep is a device that outlives its users.
type keep struct{ *faulty.Device }

// Close lets go of the device.
func (keep) Close() error { return nil }
