package sim

import (
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"

	"go.etcd.io/raft/v3/raftpb"
)

func stack() string { return string(debug.Stack()) }

// host is one agent: disks that survive, and a node while its process lives.
type host struct {
	w            *World
	id           wire.AgentID
	backup       bool
	place        int // among the hosts that are components, from 0
	run          int // counts processes
	slowUntil    time.Duration
	stalledUntil time.Duration // what it sends leaves then
	fullUntil    time.Duration // the journal refuses until then
	awayUntil    time.Duration // nobody reaches the host until then
	diskUntil    time.Duration // the disks are slow until then
	diskFactor   int
	journalSlow  bool          // then only the journal's disk is
	brokenUntil  time.Duration // the source and target devices fail until then
	doomed       bool          // it does not come back
	removed      bool          // its agent was removed from the cluster
	clock        clock

	// Disks.
	log      controlLog
	promised uint64 // a generation of the cluster
	behind   bool   // one has begun without this agent
	journal  journal
	sources  map[wire.VolumeID]*device
	bits     map[wire.VolumeID]*bitsFile
	targets  map[wire.VolumeID]*device
	// How often the pages of a target were lost in a failed flush.
	openings map[wire.VolumeID]int
	marks    map[wire.VolumeID]*targetMarks
	saves    int                       // writes of bits that are under way
	cleaned  map[wire.GroupID]wire.Set // up to which bits were looked at to be cleared

	// The process; zero while it is dead.
	node    *core.Node
	saving  bool // a Raft Ready is on its way to the disk
	sending bool
	primary map[wire.VolumeID]*volume
	groups  []*sourceGroup // of its volumes
	handles int            // payload handles given and not released
	guard   func() bool    // see alive
	guardOf int            // the process that it is of
}

func newHost(w *World, id wire.AgentID, st *cluster.State, boot core.Boot) *host {
	h := &host{
		w: w, id: id, backup: st.Agents[id].Backup,
		sources: map[wire.VolumeID]*device{}, bits: map[wire.VolumeID]*bitsFile{}, targets: map[wire.VolumeID]*device{},
		openings: map[wire.VolumeID]int{}, marks: map[wire.VolumeID]*targetMarks{}, cleaned: map[wire.GroupID]wire.Set{},
	}
	h.log.boot = boot
	h.journal.h = h
	for _, o := range w.hosts {
		if o.backup {
			h.place++
		}
	}
	for _, vid := range volumesOf(st) {
		_, v := st.Volume(vid)
		blocks := int(v.Size / blockSize)
		if v.Primary == id {
			h.sources[vid] = newDevice(blocks + w.slack)
			n := int((v.Size + extentSize - 1) / extentSize)
			b := &bitsFile{size: v.Size, durable: make([]bool, n), kept: make([]bool, n)}
			for i := range b.durable {
				b.durable[i] = true // never copied
			}
			h.bits[vid] = b
			// What the application had written before there was any replication.
			for i := range blocks {
				if w.chance(0.5) {
					h.sources[vid].write(i, w.oracle.value())
				}
			}
			h.sources[vid].junk(blocks, 1)
			h.sources[vid].flush()
		}
		if v.Secondary == id {
			h.targets[vid] = newDevice(blocks + w.slack)
			h.targets[vid].junk(blocks, 2)
			h.targets[vid].flush()
		}
	}
	return h
}

// volumesOf returns the numbers of all volumes, ascending.
func volumesOf(st *cluster.State) (ids []wire.VolumeID) {
	for _, g := range st.Groups {
		ids = slices.AppendSeq(ids, maps.Keys(g.Volumes))
	}
	slices.Sort(ids)
	return ids
}

// start starts the agent's process from its disks.
func (h *host) start() {
	w := h.w
	h.run++
	w.trace("host %d starts (run %d)", h.id, h.run)
	n, err := core.New(nodeConfig(h.id, w.rng.Uint64(), w.opt.Mutants), h.log.boot, h.time())
	if err != nil {
		w.fail("host %d does not start: %v", h.id, err)
		return
	}
	h.node = n
	h.saving, h.sending, h.handles = false, false, 0
	if h.backup {
		if h.journal.life != n.Life() {
			h.journal.wipe(n.Life())
			w.unreadable()
		}
		if w.opt.Mutants["shorter-truth"] {
			h.journal.keep(func(r *record) bool { return !r.rotten })
		}
		if !h.journal.lost && h.journal.rotten > 0 {
			h.loseJournal("a frame is damaged")
		}
		if h.journal.lost {
			n.SetJournalLost(true) // also if an earlier process found it
		} else {
			for _, r := range h.journal.records() {
				n.Restore(r.id, r.body)
			}
		}
		n.Restored()
	}
	h.primary, h.groups = map[wire.VolumeID]*volume{}, nil
	for _, vid := range cluster.SortedKeys(h.sources) {
		bits := h.bits[vid].durable
		v := &volume{id: vid, dev: h.sources[vid], locked: map[int]bool{}, copy: h.bits[vid].copy}
		v.ext = core.NewExtents(h.bits[vid].size, extentSize, func(i int) bool { return bits[i] || w.opt.Mutants["restart-copies-all"] })
		v.restoreKept(h.bits[vid])
		h.primary[vid] = v
		h.join(v)
	}
	if len(h.primary) > 0 {
		w.oracle.restarted(h)
		for _, s := range h.groups {
			n.AddSource(h.time(), s.id)
			s.tellNeed()
		}
	}
	for vid := range h.targets {
		h.mark(vid).begun = 0
		h.openTarget(vid)
	}
	h.do(func(*core.Node) {})
	run := h.run
	var tick func()
	tick = func() {
		if h.node != nil && h.run == run {
			h.do(func(n *core.Node) { n.Tick(h.time()) })
			d := w.tick
			if w.now < h.slowUntil {
				d = h.slowUntil - w.now
			}
			w.after(d+w.between(0, time.Millisecond), "tick", tick)
		}
	}
	w.after(w.between(0, tickEvery), "tick", tick)
}

// kill ends the process; power says that unflushed writes go with it.
func (h *host) kill(power bool) {
	w := h.w
	w.trace("host %d is killed (power cut: %v)", h.id, power)
	w.oracle.died(h)
	h.tearBits(power)
	h.node = nil
	h.journal.crash(w.rng, power)
	if power {
		for _, vid := range cluster.SortedKeys(h.sources) {
			h.sources[vid].powerCut(w.rng)
		}
		for _, vid := range cluster.SortedKeys(h.targets) {
			h.targets[vid].powerCut(w.rng)
		}
	}
	for _, o := range w.hosts {
		if o.node != nil {
			w.after(w.between(0, 20*time.Millisecond), "disconnected", func() {
				if o.node != nil {
					o.do(func(n *core.Node) { n.Disconnected(o.time(), h.id) })
				}
			})
		}
	}
}

// alive returns a guard for events of this process.
func (h *host) alive() func() bool {
	if h.guardOf != h.run || h.guard == nil {
		run := h.run
		h.guard, h.guardOf = func() bool { return h.node != nil && h.run == run }, run
	}
	return h.guard
}

// do calls the node and performs what it wants done.
func (h *host) do(f func(n *core.Node)) {
	f(h.node)
	h.perform(h.node.Take())
	h.raft()
	h.follow()
}

// raft saves and then acts, in that order, with time in between.
func (h *host) raft() {
	if h.saving {
		return
	}
	rd, ok := h.node.RaftReady()
	if !ok {
		return
	}
	h.saving = true
	alive := h.alive()
	h.w.after(h.disk(0, 3*time.Millisecond), "raft saved", func() {
		if !alive() {
			return // the write was cut off: nothing of it was sent
		}
		h.log.save(rd)
		for _, m := range rd.Messages {
			h.sendRaft(m)
		}
		h.saving = false
		h.do(func(n *core.Node) {
			if err := n.RaftAdvance(h.time()); err != nil {
				h.w.fail("host %d: %v", h.id, err)
			}
		})
	})
}

func (h *host) sendRaft(m *raftpb.Message) {
	to := wire.AgentID(m.GetTo())
	if h.w.host(to) == nil {
		return
	}
	h.w.deliver(h.id, to, "raft", func(o *host) {
		o.do(func(n *core.Node) { n.RaftStep(o.time(), m) })
	})
	if m.GetSnapshot().GetMetadata().GetIndex() > 0 {
		alive := h.alive()
		h.w.after(30*time.Millisecond, "snapshot sent", func() {
			if alive() {
				h.do(func(n *core.Node) { n.RaftSnapshotSent(to, true) })
			}
		})
	}
}
