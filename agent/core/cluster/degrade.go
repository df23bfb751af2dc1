package cluster

import (
	"fmt"
	"slices"
	"time"

	"flotilla/wire"
)

// A sync group whose writes can not be held blocks them, or, where its contract says so, goes on as an async one for a
// while. It is *degraded* then, and P3 is suspended. That is recorded before it takes effect, so that a promote knows it:
//
//	nil → asked → degraded → ending → nil
//
// What was acknowledged before is in the recovered image all the same. A primary's own held prefix always has it. Several
// primaries acknowledge things that others' writes depend on, so with an early acknowledgement anywhere prefixes say
// nothing any more, only cuts do: therefore asking ends all incarnations, and their seals, up to set UpTo, are the point
// up to which prefixes count. Until every primary is known to number nothing more in the ended ones (it has applied that
// they are ended, or they are sealed) nobody acknowledges early: what a seal counts depends on nothing that is not held.
// In a group of one primary there is nobody to wait for, and its incarnation goes on.
//
// While it is ending, writes wait again. The state is nil once all that any primary had acknowledged is in sets that are
// committed or is held: each primary has a live incarnation that is whole, and what was numbered in it before is held.

// OnDegraded is what a sync group does when its writes can not be held.
type OnDegraded uint8

// The contracts. The zero value blocks.
const (
	BlockDegraded OnDegraded = 0
	AsyncDegraded OnDegraded = 1
)

// String returns "block" or "async".
func (o OnDegraded) String() string {
	if o == AsyncDegraded {
		return "async"
	}
	return "block"
}

// ParseOnDegraded reads "block" or "async".
func ParseOnDegraded(s string) (OnDegraded, bool) {
	switch s {
	case "block":
		return BlockDegraded, true
	case "async":
		return AsyncDegraded, true
	}
	return 0, false
}

// Limits of the time after which a group degrades.
const (
	DefaultDegradeAfterMS = 5000
	MinDegradeAfterMS     = 500
	MaxDegradeAfterMS     = 3600_000
)

// Contract is what a sync group does when its writes can not be held.
type Contract struct {
	OnDegraded     OnDegraded `cbor:",omitempty"`
	DegradeAfterMS int64      `cbor:",omitempty"` // 0 for the default
}

// DegradePhase is where a degraded group stands.
type DegradePhase uint8

// The phases; 0 is a group that is not degraded.
const (
	DegradeAsked  DegradePhase = 1 // incarnations are ended, and every primary is to know it; writes wait
	Degraded      DegradePhase = 2 // writes are acknowledged as async does
	DegradeEnding DegradePhase = 3 // writes wait again, and what was acknowledged is on its way to be held
)

// String names the phase.
func (p DegradePhase) String() string {
	switch p {
	case DegradeAsked:
		return "asked"
	case Degraded:
		return "degraded"
	case DegradeEnding:
		return "ending"
	}
	return "none"
}

// Degradation is a group's departure from P3. It is never changed, but replaced by the next.
type Degradation struct {
	Phase DegradePhase
	At    uint64   // Raft index of the command that began the phase: it names it
	Since int64    // label of the first phase
	UpTo  wire.Set // with several primaries a sealed prefix counts in the sets up to this one
}

// Degrade changes a group's degradation. At is that of the phase which the captain saw, 0 for none; Incs are the live
// incarnations that cover what was acknowledged, to end it.
type Degrade struct {
	Group wire.GroupID
	To    DegradePhase
	At    uint64 `cbor:",omitempty"`
	Label int64  `cbor:",omitempty"`
	Incs  []wire.Incarnation
}

// DegradeAfter is how long the oldest write of a sync group waits before the group degrades, and for how long writes must
// have been held in time before it is synchronous again.
func (c *Contract) DegradeAfter() time.Duration {
	ms := c.DegradeAfterMS
	if ms == 0 {
		ms = DefaultDegradeAfterMS
	}
	return time.Duration(ms) * time.Millisecond
}

func (c *Contract) validate(m Mode) error {
	switch {
	case c.OnDegraded > AsyncDegraded:
		return fmt.Errorf("on-degraded %d is neither block nor async", c.OnDegraded)
	case c.OnDegraded == AsyncDegraded && m != Sync:
		return fmt.Errorf("on-degraded async is for sync groups, and its mode is %s: make it sync, or leave on-degraded at block", m)
	case c.DegradeAfterMS != 0 && (c.DegradeAfterMS < MinDegradeAfterMS || c.DegradeAfterMS > MaxDegradeAfterMS):
		return fmt.Errorf("to degrade after %d ms is outside %d ms … 1 h", c.DegradeAfterMS, MinDegradeAfterMS)
	}
	return nil
}

// DegradedPhase returns where the group's degradation stands, 0 when there is none.
func (g *Group) DegradedPhase() DegradePhase {
	if g.Degraded == nil {
		return 0
	}
	return g.Degraded.Phase
}

// Unpromised reports whether P3 is suspended: a sync group may have acknowledged what a promote would not find.
func (g *Group) Unpromised() bool { return g.DegradedPhase() >= Degraded }

// PrefixAt reports whether a sealed prefix counts at the end of set n: in groups of one primary, and in sync groups but
// for the sets after they degraded.
func (g *Group) PrefixAt(n wire.Set) bool {
	return len(g.Primaries()) <= 1 || (g.Mode == Sync && (g.Degraded == nil || n <= g.Degraded.UpTo))
}

// KeepsHeld reports whether sets that are not committed may hold what a sync group has acknowledged under P3: whatever it
// has room for, they are not given up for want of it.
func (g *Group) KeepsHeld() bool {
	if g.Mode != Sync || (g.Unpromised() && g.Committed >= g.Degraded.UpTo) {
		return false
	}
	return slices.ContainsFunc(g.Incs, func(inc *Incarnation) bool {
		return inc.Whole != 0 && (!inc.Sealed || inc.Last > g.Committed)
	})
}

func (g *Group) degrade(index uint64, c *Degrade) {
	var at uint64
	if g.Degraded != nil {
		at = g.Degraded.At
	}
	if g.Phase != Replicating || c.At != at {
		return
	}
	primaries, now := g.Primaries(), g.DegradedPhase()
	wanted := g.Mode == Sync && g.OnDegraded == AsyncDegraded && len(primaries) > 0
	switch {
	case c.To == DegradeAsked && now == 0 && wanted:
		g.Degraded = &Degradation{Phase: DegradeAsked, At: index, Since: c.Label, UpTo: g.Granted}
		if len(primaries) == 1 {
			g.Degraded.Phase = Degraded
			return
		}
		for _, inc := range g.Incs {
			inc.Ended = true
		}
	case c.To == Degraded && (now == DegradeAsked || now == DegradeEnding) && wanted:
		g.toDegraded(index, Degraded)
	case c.To == DegradeEnding && now == Degraded:
		g.toDegraded(index, DegradeEnding)
	case c.To == 0 && now == DegradeEnding && g.covered(c.Incs):
		g.Degraded = nil
	}
}

func (g *Group) toDegraded(index uint64, p DegradePhase) {
	next := *g.Degraded
	next.Phase, next.At = p, index
	g.Degraded = &next
}

// covered reports whether every primary writes as one of these incarnations, which is whole.
func (g *Group) covered(incs []wire.Incarnation) bool {
	for _, p := range g.Primaries() {
		if inc := g.Live(p); inc == nil || inc.Whole == 0 || !slices.Contains(incs, inc.ID) {
			return false
		}
	}
	return true
}

// setContract takes another contract. Who does not want to go on any more ends what is under way.
func (g *Group) setContract(index uint64, c Contract) {
	g.Contract = c
	switch {
	case c.OnDegraded == AsyncDegraded:
	case g.DegradedPhase() == DegradeAsked:
		g.Degraded = nil // nothing was acknowledged early
	case g.DegradedPhase() == Degraded:
		g.toDegraded(index, DegradeEnding)
	}
}

// degradedError says why a promote of a degraded group wants force.
func (g *Group) degradedError() error {
	return fmt.Errorf("promote group %q: it is sync and has been degraded since %s: writes that were acknowledged since then may be missing: "+
		"wait until it is synchronous again if its primary lives, or use --force", g.Name, time.Unix(0, g.Degraded.Since).UTC().Format(time.RFC3339))
}
