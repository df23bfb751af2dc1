// Package sim runs whole clusters of real protocol cores in one loop: nodes, links, disks and clocks under one seed that
// decides everything and replays exactly.
//
// A [World] is a heap of events in virtual time. Hosts perform their node's effects the way the shells do, on disks that
// lose what was not flushed and over links that delay, lose and repeat. An oracle follows every write from the moment it
// is numbered, and compares with it whatever a promote could choose, of each group by itself (oracle.go).
//
//	world.go   time, events, the course of a run; stats.go what it did, shrink.go a smaller one that fails alike
//	plan.go    which faults happen when; faults.go does it, diskfaults.go to disks, joins.go to who belongs to the cluster
//	recover.go a majority gone for good, and the generation that begins without it
//	links.go   what goes from host to host; clock.go what time they think it is
//	host.go    one agent's process; perform.go does what its node wants done, primary.go is its write path
//	disk.go    what survives a crash: control log, journal, devices, bits, and tear.go of bits that are being written
//	checks.go  checks of targets, compare.go how a secondary compares, damage.go flipped bits, other targets, and who is right
//	client.go  writers with dependent writes across volumes and primaries
//	oracle.go  what the sources had at every seq, numbered.go by incarnations; check.go holds against it what could be
//	           recovered, which roll.go finds in what folded.go has made of the journals
//
// Beside the random runs there are scenarios, which say themselves what happens, step by step (testdata):
//
//	scenario.go  a cluster without chance, its writes, faults and conditions
//	narrate.go   what happens, in words; show.go is how things stand
package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// Options fix a run beyond its seed.
type Options struct {
	Seed    uint64
	Mutants map[string]bool // breaks of the core
	Trace   func(string)    // nil for none
	// Messages traces every message too.
	Messages bool
	// Length is how long writers write and faults happen, in virtual time; 0 lets the seed choose.
	Length time.Duration
	Reduce Reduction
	// Rare has every run see checks, damage, other targets and an outage, of which few have any otherwise.
	Rare bool
}

// World is one run.
type World struct {
	opt   Options
	rng   *rand.Rand
	now   time.Duration
	queue events
	order uint64

	hosts []*host
	ids   []wire.AgentID
	cuts  map[link]time.Duration // until when
	group wire.GroupID           // the first one, of which scenarios tell

	// Of the faults, see kind.
	lossy       float64 // chance that a message is lost
	dupes       float64
	survivors   *rand.Rand // chance of survivorAway, nil for never
	lasting     *rand.Rand // draws the link of lastingCut, nil for none
	applyStalls *rand.Rand // chance of applyStalls, nil for never
	interrupts  *rand.Rand // ends resyncs early, nil for never; an extent of one takes resyncTakes at most then
	resyncTakes time.Duration
	growCuts    *rand.Rand                     // cuts the power of a primary whose volume grows
	quiet       map[wire.GroupID]time.Duration // until when clients without a chain do not write
	joins       int
	recopies    bool       // a volume's copy was begun anew
	checks      bool       // a check was asked for
	lateChecks  *rand.Rand // has requests of checks come late
	damages     uint64     // bits flipped on targets
	generation  uint64     // of the cluster
	// journalLimit is how much each journal takes, in bytes as sets count them; 0 for no limit.
	journalLimit int64

	slack int // blocks of each device behind its volume, which may grow into them

	maxDelay   time.Duration
	power      bool // crashes lose what was not flushed; clients write through
	faults     bool // faults are still being injected
	writing    bool
	doubleLoss bool // more than one component was down, or sets were given up: what needs a second copy is excused

	copyTakes time.Duration                            // the longest that the copy of an extent takes
	tick      time.Duration                            // how often a node is told the time
	outside   func(v wire.VolumeID, first, blocks int) // is told of writes without a number; nil for nobody
	ends      time.Duration                            // no run lasts longer
	hot       int                                      // extents of a volume whose bits stay set
	overload  bool                                     // queues that do not move suspend their groups

	// Of scenarios.
	steady bool                    // every delay is the middle of its range, and chance decides nothing
	watch  func(h *host, what any) // is told what happens, see saw; nil for nobody
	sent   int                     // messages between hosts
	lose   int                     // the number of the one that is lost, 0 for none

	clients []*client
	sentAs  map[wire.Incarnation][]wire.Kind // by seq, 0 for what was not sent
	oracle  *oracle
	stats   Stats
	failure error
}

// chance is true with probability p.
func (w *World) chance(p float64) bool { return !w.steady && w.rng.Float64() < p }

// between draws a duration from [lo, hi).
func (w *World) between(lo, hi time.Duration) time.Duration {
	if w.steady {
		return (lo + hi) / 2
	}
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)))
}

func (w *World) fail(format string, args ...any) {
	if w.failure == nil {
		w.failure = fmt.Errorf("at %v: %s", w.now, fmt.Sprintf(format, args...))
	}
}

func (w *World) trace(format string, args ...any) {
	if w.opt.Trace != nil {
		w.opt.Trace(fmt.Sprintf("%12v ", w.now) + fmt.Sprintf(format, args...))
	}
}

// The limits that the nodes run with: the daemon's, a little quicker so that runs are short.
func nodeConfig(id wire.AgentID, seed uint64, mutants map[string]bool) core.Config {
	c := core.DefaultConfig(id, seed)
	c.LossAfter = 1500 * time.Millisecond
	c.LastLossAfter = 8 * time.Second
	c.ResendAfter = 800 * time.Millisecond
	c.GiveUpAfter = 6 * time.Second
	c.CompactEvery = 150
	c.WeighEvery = 400 * time.Millisecond
	c.MirrorWindow = 4
	c.Mutants = mutants
	return c
}

// Shapes of what is simulated. A block stands for 64 KiB and holds one number.
const (
	blockSize    = 64 << 10
	portionSize  = 1 << 20
	extentSize   = 256 << 10
	tickEvery    = 10 * time.Millisecond
	maxVirtual   = 10 * time.Minute
	settleWithin = 90 * time.Second // after the last fault

	slowBandwidth = 20 << 10 // bytes a second: about what the clients write
)

// Run runs one seed to its end.
func Run(opt Options) (stats Stats, err error) {
	w := newWorld(opt)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("at %v: panic: %v\n%s", w.now, p, stack())
		}
		stats = w.stats
		stats.Virtual = w.now
	}()
	if growths(opt.Seed) > 0 {
		w.slack = growSlack
	}
	w.build(w.draw())
	w.drawInterrupts()
	for _, h := range w.hosts {
		h.start()
	}
	w.makeClients(w.oracle.last)
	w.course()
	return w.stats, w.failure
}

// newWorld returns a world without hosts.
func newWorld(opt Options) *World {
	return &World{
		opt: opt, cuts: map[link]time.Duration{}, quiet: map[wire.GroupID]time.Duration{}, sentAs: map[wire.Incarnation][]wire.Kind{}, rng: rand.New(rand.NewPCG(opt.Seed, 0x666c6f74696c6c61)),
		lateChecks: rand.New(rand.NewPCG(opt.Seed, 0x6c61746573)), growCuts: rand.New(rand.NewPCG(opt.Seed, 0x67726f776375)),
		copyTakes: 6 * time.Millisecond, tick: tickEvery, hot: 2, ends: maxVirtual,
	}
}

// shape is what a cluster looks like.
type shape struct {
	components int
	primaries  int
	both       bool // the first component is a primary too
	mode       cluster.Mode
	period     int64   // milliseconds
	bandwidth  int64   // bytes a second of the first group, 0 for no limit; below what a real one may have, as updates are smaller here
	sizes      []int64 // of the volumes, in bytes; the primaries have them in turn
	more       []groupShape
	contract   cluster.Contract
	domains    []string // that the agents are in, in the order of their names; none are labelled beyond them
}

// groupShape is what a group beyond the first looks like.
type groupShape struct {
	mode     cluster.Mode
	period   int64   // milliseconds
	sizes    []int64 // of the volumes, in bytes
	contract cluster.Contract
	first    int // the primary that has the first of them; the others have them in turn, as far as there are
	spread   int // so many
}

// draw chooses a cluster and its links.
func (w *World) draw() shape {
	r := w.rng
	s := shape{components: 1 + r.IntN(5), primaries: 1 + r.IntN(3), mode: cluster.Async}
	volumes := max(s.primaries, 1+r.IntN(4))
	w.maxDelay = []time.Duration{500 * time.Microsecond, 5 * time.Millisecond, 15 * time.Millisecond}[r.IntN(3)]
	w.power = r.IntN(2) == 0
	if r.IntN(3) == 0 {
		s.mode = cluster.Sync
	}
	s.both = r.IntN(6) == 0 // messages to itself pass the same checks
	s.period = []int64{50, 120, 400}[r.IntN(3)]
	if w.opt.Seed%3 == 0 {
		s.bandwidth = slowBandwidth // queues grow, and ends of incarnations find them so
	}
	for range volumes {
		s.sizes = append(s.sizes, int64(blockSize)*int64(20+r.IntN(44)))
	}
	if r.IntN(4) == 0 {
		w.journalLimit = int64(s.primaries*(6+r.IntN(10))) * smallSet
	}
	if r.IntN(2) == 0 {
		for range s.components + s.primaries + 1 {
			s.domains = append(s.domains, domains[r.IntN(len(domains))])
		}
	}
	atMost := func(n *int, most int) {
		if most > 0 {
			*n = min(*n, most)
		}
	}
	red := w.opt.Reduce
	atMost(&s.components, red.Components)
	atMost(&s.primaries, red.Primaries)
	atMost(&volumes, red.Volumes)
	s.primaries = min(s.primaries, volumes)
	s.sizes = s.sizes[:volumes]
	s.more = w.drawGroups(s.primaries)
	w.drawContracts(&s)
	groups := 1 + len(s.more)
	atMost(&groups, red.Groups)
	s.more = s.more[:groups-1]
	w.journalLimit *= int64(groups)
	return s
}

// drawGroups chooses the groups beyond the first, from a stream of their own: the first is what it is without them.
func (w *World) drawGroups(primaries int) (more []groupShape) {
	r := rand.New(rand.NewPCG(w.opt.Seed, 0x67726f757073))
	for range []int{0, 0, 0, 1, 1, 2}[r.IntN(6)] {
		g := groupShape{mode: cluster.Async, period: []int64{50, 120, 400}[r.IntN(3)], first: r.IntN(3), spread: 1 + r.IntN(3)}
		if r.IntN(3) == 0 {
			g.mode = cluster.Sync
		}
		for range 1 + r.IntN(3) {
			g.sizes = append(g.sizes, int64(blockSize)*int64(20+r.IntN(44)))
		}
		more = append(more, g)
	}
	return more
}

// drawContracts lets some of the sync groups go on when their writes can not be held, from a stream of their own.
func (w *World) drawContracts(s *shape) {
	r := rand.New(rand.NewPCG(w.opt.Seed, 0x6465677261646564))
	draw := func(m cluster.Mode) (c cluster.Contract) {
		if on, after := r.IntN(3) > 0, int64(500+r.IntN(1000)); on && m == cluster.Sync {
			c = cluster.Contract{OnDegraded: cluster.AsyncDegraded, DegradeAfterMS: after}
		}
		return c
	}
	s.contract = draw(s.mode)
	for i := range s.more {
		s.more[i].contract = draw(s.more[i].mode)
	}
}

// domains are the failure domains that agents may be in.
var domains = []string{"", "here", "there"}

// build makes the cluster's hosts, which are to be started.
func (w *World) build(s shape) {
	w.stats.Components, w.stats.Primaries, w.stats.Volumes, w.stats.Groups = s.components, s.primaries, len(s.sizes), 1+len(s.more)
	if len(s.more) > 0 {
		w.stats.GroupRuns = 1
	}
	if s.mode == cluster.Sync {
		w.stats.SyncRuns = 1
	}

	st := cluster.New("sim")
	must := func(v uint64, err error) uint64 {
		if err != nil {
			panic(err)
		}
		return v
	}
	add := func(name string, p, b, sec bool) wire.AgentID {
		domain := ""
		if n := len(st.Agents); n < len(s.domains) {
			domain = s.domains[n]
		}
		return wire.AgentID(must(st.Apply(1, &cluster.Command{AddAgent: &cluster.AddAgent{
			Name: name, Address: name, Primary: p, Backup: b, Secondary: sec, Domain: domain,
		}})))
	}
	var ps, cs []wire.AgentID
	for i := range s.components {
		both := i == 0 && s.both
		id := add(fmt.Sprintf("c%d", i+1), both, true, false)
		cs = append(cs, id)
		if both {
			ps = append(ps, id)
		}
	}
	for i := len(ps); i < s.primaries; i++ {
		ps = append(ps, add(fmt.Sprintf("p%d", i+1), true, false, false))
	}
	sec := add("s1", false, false, true)
	w.group = 1
	v := 0
	for i, g := range append([]groupShape{{mode: s.mode, period: s.period, sizes: s.sizes, spread: len(ps), contract: s.contract}}, s.more...) {
		name := "g"
		if i > 0 {
			name = fmt.Sprintf("g%d", i+1)
		}
		must(st.Apply(1, &cluster.Command{CreateGroup: &cluster.CreateGroup{
			Name: name, Mode: g.mode, PeriodMS: g.period, PortionSize: portionSize, SetBytes: cluster.MinSetBytes, Contract: g.contract,
		}}))
		for k, size := range g.sizes {
			must(st.Apply(1, &cluster.Command{CreateVolume: &cluster.CreateVolume{
				Group: wire.GroupID(i + 1), Name: fmt.Sprintf("v%d", v+1), Size: size,
				Primary: ps[(g.first+k%g.spread)%len(ps)], Source: fmt.Sprintf("/v%d", v), Secondary: sec, Target: fmt.Sprintf("/t%d", v),
			}}))
			v++
		}
	}
	st.Groups[1].Bandwidth = s.bandwidth
	if w.journalLimit != 0 {
		for _, g := range st.Groups {
			g.SetBytes = smallSet
		}
		w.stats.SmallJournals = 1
	}
	for i, id := range cs {
		must(st.Apply(uint64(i)+2, &cluster.Command{Admit: &cluster.Admit{Agent: id}}))
	}
	voters := append(append([]wire.AgentID{}, cs...), sec)
	voters = append(voters, ps...)
	size := 3
	if len(cs) >= 5 {
		size = 5
	}
	seen := map[wire.AgentID]bool{}
	var uniq []wire.AgentID
	for _, v := range voters {
		if !seen[v] {
			seen[v] = true
			uniq = append(uniq, v)
		}
	}
	voters = uniq[:min(size, len(uniq))]
	if len(voters) == 2 {
		voters = voters[:1]
	}
	w.ids = cluster.SortedKeys(st.Agents)
	w.oracle = newOracle(w, st)
	for _, id := range w.ids {
		w.hosts = append(w.hosts, newHost(w, id, st, core.Bootstrap(st, voters)))
	}
	w.trace("%d components, %d primaries, %d volumes, %s, period %d ms, power cuts %v; more groups: %+v",
		s.components, len(ps), len(s.sizes), s.mode, st.Groups[1].PeriodMS, w.power, s.more)
}

func (w *World) host(id wire.AgentID) *host {
	for _, h := range w.hosts {
		if h.id == id {
			return h
		}
	}
	return nil
}

// course is the run: writes with faults, perhaps a promote in the middle of it, then peace, in which everything must
// come to rest.
func (w *World) course() {
	w.writing, w.faults = true, true
	length := w.opt.Length
	if length == 0 {
		length = w.between(2*time.Second, 7*time.Second)
		if w.chance(0.15) {
			length = w.between(7*time.Second, 20*time.Second) // time for a second loss
		}
	}
	if w.interrupts != nil && w.opt.Length == 0 {
		length += interruptsMore
	}
	planned := plan(w.opt.Seed, length, w.opt.Rare)
	w.stats.Planned = length
	if w.opt.Length == 0 && slices.ContainsFunc(planned, func(f fault) bool { return f.kind == siteOutage || f.kind == targetOutage }) {
		length = max(length, outageLength)
	}
	if most := w.opt.Reduce.Length; most > 0 {
		length = min(length, most)
	}
	w.stats.Length = length
	w.scheduleFaults(planned, length)
	w.scheduleCheck()
	w.runUntil(length)
	if w.failure != nil {
		return
	}
	w.peace()
	peace := w.now
	w.operate()
	w.stopChecks()
	if w.lastingCut() {
		w.runUntil(w.now + w.between(3*time.Second, 6*time.Second))
	}
	w.runUntil(w.now + w.between(500*time.Millisecond, 2*time.Second))
	w.writing = false
	deadline := w.now + settleWithin
	for w.failure == nil {
		w.runUntil(w.now + 500*time.Millisecond)
		if w.failure != nil || w.oracle.settled() {
			break
		}
		if w.now > deadline {
			w.fail("not settled %v after the last fault: %s", settleWithin, w.oracle.unsettled())
		}
	}
	w.stats.MaxSettle = w.now - peace
	if w.failure == nil {
		w.oracle.checkPoints()
		w.oracle.checkEnd()
	}
}

// step runs the next event, unless it comes after t.
func (w *World) step(t time.Duration) bool {
	if w.failure != nil || len(w.queue) == 0 || w.queue[0].at > t {
		return false
	}
	e := w.queue.pop()
	w.now = max(w.now, e.at)
	w.stats.Events++
	w.stats.digest(&e)
	e.run()
	if w.now > w.ends {
		w.fail("the run does not end")
	}
	return true
}

func (w *World) runUntil(t time.Duration) {
	for w.step(t) {
	}
	if w.failure == nil {
		w.now = max(w.now, t)
	}
}

// newest is the most advanced replicated state of any host, dead ones included.
func (w *World) newest() *cluster.State {
	var best *cluster.State
	for _, h := range w.hosts {
		if h.node != nil {
			if st := h.node.State(); best == nil || st.Index > best.Index {
				best = st
			}
		}
	}
	if best == nil || w.oracle.last.Index > best.Index {
		return w.oracle.last
	}
	return best
}
