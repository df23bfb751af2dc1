package primary

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// group is the volumes of one consistency group that this agent is the primary of.
type group struct {
	p       *Primary
	cluster string // its ID
	id      wire.GroupID
	name    string
	portion uint64 // bytes
	changed signal // something that the node says of the group may have changed

	load     atomic.Int64 // memory of the queue, as last seen
	spilling atomic.Bool  // writers are delayed from SpillMark on only
	least    atomic.Int64 // time by which they are delayed at least, for want of room in the spool
	mode     atomic.Uint32
	shared   atomic.Bool // several primaries
	early    atomic.Bool // sync: the group is degraded, and to be treated as an async one
	served   atomic.Bool // sync: the ends of this agent's earlier incarnations are recorded, or it was degraded since

	requests atomic.Int64 // that clients have made
	blocked  atomic.Int64 // those that wait before they are numbered
	told     bool         // what the node was told of clients that wait; only the watcher uses it

	spool    *spool
	spillNow chan struct{}    // capacity 1: wakes the spiller
	copyNow  chan struct{}    // capacity 1: wakes the copier
	checkNow chan struct{}    // capacity 1: wakes the checker
	buffers  chan *copyBuffer // of the copier; nil ones are yet to be allocated
	stop     context.CancelFunc
	done     sync.WaitGroup

	mu sync.Mutex

	// The fields below are guarded by mu.

	volumes map[wire.VolumeID]*volume
	added   bool // the node knows that the group can be served here
	view    core.GroupView
	over    overload
	trouble trouble
	waits   []heldWait
	closing bool
	toldAt  time.Duration // when the node was told how the copies stand
	check   *checkJob     // nil while there is none
	tempo   copyPace
}

func newGroup(p *Primary, w groupWanted) *group {
	return &group{
		spool: &spool{
			fs: p.fs, dir: p.spoolDir, name: strconv.FormatUint(uint64(w.id), 10) + ".spool", total: &p.spools, size: p.limits.SpoolSegment,
			limit: w.spool,
		},
		spillNow: make(chan struct{}, 1),
		p:        p, cluster: w.cluster, id: w.id, name: w.name, portion: w.portion,
		copyNow: make(chan struct{}, 1), checkNow: make(chan struct{}, 1), buffers: newCopyBuffers(p.limits.PaceMark / 2), volumes: map[wire.VolumeID]*volume{},
		tempo: newCopyPace(&p.limits),
	}
}

// signal wakes everybody who waits for it. Its zero value is ready for use.
type signal struct {
	mu sync.Mutex
	ch chan struct{} // nil while nobody waits
}

// wait returns a channel that the next broadcast closes.
func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

// awaited reports whether somebody waits.
func (s *signal) awaited() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ch != nil
}

func (s *signal) broadcast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// admit lets a write in: when a sync group may serve, when an async group has room. It returns the mode that the write
// is under, whatever is set meanwhile.
func (g *group) admit(ctx context.Context) (cluster.Mode, error) {
	if err := g.awaitServed(ctx); err != nil {
		return 0, err
	}
	mode := cluster.Mode(g.mode.Load())
	if mode != cluster.Sync || g.early.Load() {
		return mode, g.pace(ctx)
	}
	return mode, nil
}

// awaitServed waits until a sync group may serve. After a restart the source may hold writes that were never held and
// that a promote would not find; they must not be shown before it is recorded where the old incarnation ended, or that the
// group is degraded.
func (g *group) awaitServed(ctx context.Context) error {
	if !g.served.Load() {
		g.blocked.Add(1)
		defer g.blocked.Add(-1)
		g.p.kick()
	}
	for !g.served.Load() {
		changed := g.changed.wait()
		if g.served.Load() {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errClosing
		}
	}
	if ctx.Err() != nil {
		return errClosing
	}
	return nil
}

// hidesUnheld reports whether reads must not show what is not held.
func (g *group) hidesUnheld() bool {
	return g.shared.Load() && cluster.Mode(g.mode.Load()) == cluster.Sync
}

// kickCopier has the copier look whether there is something to copy.
func (g *group) kickCopier() { kick(g.copyNow) }

// appliedFor returns up to which set bits of a volume may be cleared: only sets of the incarnation that its marks are of.
func (g *group) appliedFor(v *volume) (wire.Set, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.view.Applied, v.inc != 0 && v.inc == g.view.Inc
}

// heldFor returns the incarnation of a resync of the volume that is not whole yet, and up to which set what it has copied
// is held.
func (g *group) heldFor(v *volume) (wire.Incarnation, wire.Set, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return v.inc, g.view.HeldSet, v.inc != 0 && v.inc == g.view.Inc && !v.run.first && !g.view.Whole
}

// observation is what the watcher has seen of a group in one look at the node.
type observation struct {
	view   core.GroupView
	known  bool // the node has the group as a source
	shared bool
	copies map[wire.VolumeID]uint64 // of this agent's volumes, where not 0
	rate   int64                    // of copies, bytes a second, 0 where none is set
	spool  int64                    // bytes that the group's spool may take
	first  []wire.VolumeID          // whose first copy is not whole
	kept   map[wire.VolumeID]keptBy // what of earlier resyncs counts, of this agent's volumes
	sealed bool                     // the ends of all earlier incarnations of this primary are recorded

	seeds    []wire.VolumeID // seeded volumes of this primary whose first copy is not whole
	check    checkOrder
	answered bool // secondaries have answered checks
}

// observe looks at the node; it runs in the loop.
func (g *group) observe(n *core.Node) observation {
	var o observation
	o.view, o.known = n.View(g.id)
	grp := n.State().Groups[g.id]
	if grp == nil {
		return o
	}
	o.view.Mode = grp.Mode
	for id, v := range grp.Volumes {
		if v.Seeded && v.CopiedAt == 0 && v.Primary == n.ID() {
			o.seeds = append(o.seeds, id)
		}
	}
	o.check, o.answered = checkOrderOf(grp, n.ID()), n.Unchecked(g.id)
	o.shared = len(grp.Primaries()) > 1
	o.copies = copies(n, grp)
	o.rate, o.spool = grp.ResyncRate, grp.SpoolBytes()
	for id, v := range grp.Volumes {
		if v.CopiedAt == 0 {
			o.first = append(o.first, id)
		}
	}
	if g.beginsCopy(o.view) {
		o.kept = map[wire.VolumeID]keptBy{}
		for id, v := range grp.Volumes {
			if v.Primary == n.ID() {
				by := keptIn(n.State(), grp, n.ID(), v)
				by.undecided = nil // the state changes
				o.kept[id] = by
			}
		}
	}
	o.sealed = o.view.Inc != 0
	for _, inc := range grp.Incs {
		if inc.Primary == n.ID() && inc.ID != o.view.Inc && !inc.Sealed {
			o.sealed = false
		}
	}
	return o
}

// take follows an observation: ends and begins copies, answers what is held, wakes who waits. Only the watcher calls it.
func (g *group) take(o observation, now time.Duration, heard bool) {
	g.shared.Store(o.shared)
	g.mode.Store(uint32(o.view.Mode))
	g.early.Store(o.view.Early)
	if o.view.Mode == cluster.Async || o.sealed || o.view.Early {
		g.served.Store(true)
	}
	g.load.Store(load(o.view))
	var answers []core.Checked
	if o.answered {
		g.p.loop.Do(func(n *core.Node, _ time.Duration) { answers = n.TakeChecked(g.id) })
	}

	g.mu.Lock()
	before := g.view
	g.view = o.view
	g.followCopiesLocked(o.copies)
	begun := g.followIncLocked(before, &o)
	g.tempo.most = cmp.Or(o.rate, g.p.limits.CopyRate)
	g.tempo.held(now, o.view.HeldUpTo)
	tell := len(begun) > 0 || g.tellAgainLocked(now)
	g.spool.setLimit(min(o.spool, g.p.spools.limit))
	reason, events := g.judgeLocked(now)
	over, tellOver := g.overloadLocked(now)
	spill := g.over.step == stepSpill || g.over.step == stepEnd || g.spool.busy()
	held := g.takeHeldLocked(nil)
	report := g.followCheckLocked(o.check, answers, now)
	compared, ended := g.followSeedsLocked(o.seeds, answers, now)
	report.events = append(report.events, compared...)
	tell = tell || ended
	checking := g.check != nil || len(o.seeds) > 0
	for _, v := range g.volumes {
		if o.view.Applied > before.Applied || o.view.HeldSet > before.HeldSet {
			kick(v.applied)
		}
		if v.growth.to.Load() != 0 {
			kick(v.growth.now)
		}
	}
	g.mu.Unlock()

	g.changed.broadcast()
	for i := range held {
		held[i].complete(nil)
	}
	for _, e := range events {
		g.p.event(g.id, e.name, e.attrs...)
	}
	if tellOver {
		g.p.loop.Do(func(n *core.Node, _ time.Duration) { n.SetOverload(g.id, over) })
	}
	if spill {
		kick(g.spillNow)
	}
	for _, e := range begun {
		g.p.event(g.id, "copy.begun", e...)
	}
	if tell {
		g.tellCopies()
	}
	if o.view.Inc == 0 {
		g.tellNeed()
	}
	g.tellWaiting(&o.view)
	g.kickCopier()
	g.tellCheck(&report)
	if checking {
		kick(g.checkNow)
	}
	if reason != "" {
		g.suspend(reason)
	}
	g.maybeUnsuspend(now, heard)
}

// followIncLocked ends what belongs to an incarnation that is gone, and begins the copy of one whose first set is open.
// It returns what is to be told of the copies that began.
//
// A write may have been numbered in the new incarnation, or marked dirty, before this; or end a moment after it, with a
// set of the old one. Either is safe: its bit was set before it was numbered, so the copy takes its extent in, and waits
// for the range that the write still holds.
func (g *group) followIncLocked(before core.GroupView, o *observation) (begun [][]any) {
	for _, v := range g.volumes {
		if v.inc != 0 && v.inc != g.view.Inc {
			v.marks.detach()
			v.inc, v.whole, v.wasWhole, v.wholeSeq, v.said = 0, false, false, 0, false
			v.run = copyRun{}
		}
		if v.inc == 0 && g.view.Inc != 0 && g.view.Open != 0 {
			v.inc = g.view.Inc
			first, by := slices.Contains(o.first, v.id), o.kept[v.id]
			todo, kept := v.marks.resume(v.inc, g.view.Open, &by, !first) // what a first copy has done is not set any more
			todo = min(todo, v.size())
			v.whole, v.wholeSeq = todo == 0, 0
			v.wasWhole = v.whole
			v.run, v.unread = newCopyRun(g.p.loop.Now(), v.size(), todo, min(kept, v.size()-todo), first), unread{}
			g.tempo.renew()
			begun = append(begun, v.run.begun(v.name, v.inc))
		}
	}
	return begun
}

// beginsCopy reports whether followIncLocked is to begin a copy for a view.
func (g *group) beginsCopy(view core.GroupView) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if view.Inc == 0 || view.Open == 0 {
		return false
	}
	for _, v := range g.volumes {
		if v.inc != view.Inc {
			return true
		}
	}
	return false
}

// tellCopies tells the node how the copies stand, for its next manifests. A new incarnation counts as broken until it
// is told otherwise, so being late only makes a chain longer. A write that fails later breaks nothing: its client was told
// that it failed, and whatever of it is on the source is numbered when it is copied, as another write would be. If it broke
// its set, a promote could not find what was acknowledged in that set (P3).
func (g *group) tellCopies() {
	g.p.loop.Do(func(n *core.Node, now time.Duration) {
		view, ok := n.View(g.id)
		grp := n.State().Groups[g.id]
		if !ok || grp == nil || view.Inc == 0 {
			return
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		broken, left, total := false, int64(0), int64(0)
		var copied []wire.VolumeID
		var copies []core.CopyStatus
		for _, v := range g.volumes {
			wanted := grp.Volumes[v.id]
			if wanted == nil {
				continue
			}
			if v.inc != view.Inc {
				return // what is known here is of another incarnation
			}
			toCopy, _ := v.marks.toCopy()
			left += min(toCopy, v.size())
			total += v.run.total
			if st := v.run.status(now, min(toCopy, v.size())); st.Left > 0 {
				st.Volume = v.id
				copies = append(copies, st)
			}
			if wanted.CopiedAt == 0 && v.whole && toCopy == 0 {
				v.said = true
			}
			if v.said {
				copied = append(copied, v.id)
			}
			broken = broken || (toCopy > 0 && !v.wasWhole && (wanted.CopiedAt != 0 || v.said))
		}
		slices.Sort(copied)
		slices.SortFunc(copies, func(a, b core.CopyStatus) int { return cmp.Compare(a.Volume, b.Volume) })
		n.SetResync(g.id, broken, copied, left, total)
		n.SetCopies(g.id, copies)
		g.toldAt = now
	})
}
