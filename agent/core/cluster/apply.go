package cluster

import (
	"fmt"
	"maps"
	"slices"

	"flotilla/wire"
)

// Defaults and limits of a group.
const (
	DefaultPeriodMS = 1000
	MinPeriodMS     = 50
	MaxPeriodMS     = 3600_000
	DefaultSetBytes = 256 << 20
	MinSetBytes     = 1 << 20
	MinResyncRate   = 64 << 10 // bytes a second
	MinBandwidth    = 64 << 10 // bytes a second
	MinSpool        = 64 << 20
	DefaultSpool    = 1 << 30
	NoSpool         = -1
	MaxGrant        = 64 // sets that one grant may open
	MaxUnapplied    = 1 << 16
)

// Apply takes one command. The error is for whoever waits for the command's Result; a command that comes too late or
// twice returns nil and changes nothing.
func (s *State) Apply(index uint64, c *Command) (value uint64, err error) {
	switch {
	case c.AddAgent != nil:
		return s.addAgent(c.AddAgent)
	case c.RemoveAgent != nil:
		return 0, s.removeAgent(c.RemoveAgent)
	case c.AddToken != nil:
		maps.DeleteFunc(s.Tokens, func(_ string, t *Token) bool { return t.Spent })
		s.Tokens[c.AddToken.Hash] = &Token{Expires: c.AddToken.Expires}
	case c.CreateGroup != nil:
		return s.createGroup(c.CreateGroup)
	case c.SetGroup != nil:
		return 0, s.setGroup(index, c.SetGroup)
	case c.DeleteGroup != nil:
		return 0, s.deleteGroup(c.DeleteGroup)
	case c.CreateVolume != nil:
		return s.createVolume(c.CreateVolume)
	case c.DeleteVolume != nil:
		return 0, s.deleteVolume(c.DeleteVolume)
	case c.RecopyVolume != nil:
		return 0, s.recopyVolume(index, c.RecopyVolume)
	case c.ResizeVolume != nil:
		return 0, s.resizeVolume(c.ResizeVolume)
	case c.GrowVolume != nil:
		s.growVolume(c.GrowVolume)
	case c.RemovePrimary != nil:
		return 0, s.removePrimary(c.RemovePrimary)
	case c.AllowInconsistent != nil:
		return 0, s.allowInconsistent(c.AllowInconsistent)
	case c.StartCheck != nil:
		return s.startCheck(c.StartCheck)
	case c.StopCheck != nil:
		return 0, s.stopCheck(c.StopCheck)
	case c.Admit != nil:
		s.admit(index, c.Admit)
	case c.Lose != nil:
		s.lose(index, c.Lose)
	case c.Drain != nil:
		return 0, s.drain(index, c.Drain)
	case c.Leave != nil:
		s.leave(index, c.Leave)
	case c.SetAgent != nil:
		return 0, s.setAgent(index, c.SetAgent)
	case c.Weigh != nil:
		s.weigh(c.Weigh)
	case c.Settle != nil:
		if c.Settle.View == s.View && c.Settle.MembersAt == s.MembersAt {
			s.Settled = s.View
		}
	case c.Promote != nil:
		return 0, s.promote(c.Promote)
	default:
		s.applyToGroup(index, c)
	}
	return 0, nil
}

// applyToGroup takes the commands that the protocol itself makes.
func (s *State) applyToGroup(index uint64, c *Command) {
	switch {
	case c.Attach != nil:
		if g := s.Groups[c.Attach.Group]; g != nil {
			g.attach(index, c.Attach)
		}
	case c.End != nil:
		if g := s.Groups[c.End.Group]; g != nil {
			if inc := g.Inc(c.End.Inc); inc != nil {
				inc.Ended = true
			}
		}
	case c.Open != nil:
		if g := s.Groups[c.Open.Group]; g != nil {
			s.open(g, c.Open)
		}
	case c.Verdict != nil:
		if g := s.Groups[c.Verdict.Group]; g != nil {
			if _, decided := g.Verdict(c.Verdict.Set); !decided && g.Grant(c.Verdict.Set) != nil {
				g.Verdicts[c.Verdict.Set] = c.Verdict.Cut
			}
		}
	case c.Seal != nil:
		if g := s.Groups[c.Seal.Group]; g != nil && c.Seal.View == s.View {
			if inc := g.Inc(c.Seal.Inc); inc != nil && inc.Ended && !inc.Sealed && c.Seal.Seq >= inc.CommittedSeq {
				inc.Sealed, inc.Seal, inc.Last, inc.Marked = true, c.Seal.Seq, c.Seal.Last, c.Seal.Marked
				if c.Seal.Single {
					s.MembersAt, s.Settled = index, 0 // nobody can send it again
				}
			}
		}
	case c.Commit != nil:
		if g := s.Groups[c.Commit.Group]; g != nil && c.Commit.View == s.View {
			g.commit(c.Commit)
		}
	case c.ApplyTo != nil:
		if g := s.Groups[c.ApplyTo.Group]; g != nil && c.ApplyTo.View == s.View {
			if to := c.ApplyTo.UpTo; to > g.ApplyTo && to <= g.Committed {
				g.ApplyTo = to
			}
		}
	case c.Applied != nil:
		if g := s.Groups[c.Applied.Group]; g != nil && c.Applied.View == s.View {
			if c.Applied.Set == g.Applied+1 && c.Applied.Set <= g.ApplyTo {
				g.applied(c.Applied.Set)
				s.pruneLosses()
			}
		}
	case c.GiveUp != nil:
		if g := s.Groups[c.GiveUp.Group]; g != nil && c.GiveUp.View == s.View && c.GiveUp.Applied == g.Applied && (!c.GiveUp.Chain || g.mayAbandon()) {
			g.giveUp(c.GiveUp.Chain)
			s.pruneLosses()
		}
	case c.Final != nil:
		if g := s.Groups[c.Final.Group]; g != nil && c.Final.View == s.View {
			g.final(c.Final)
		}
	case c.Degrade != nil:
		if g := s.Groups[c.Degrade.Group]; g != nil {
			g.degrade(index, c.Degrade)
		}
	case c.EndCheck != nil:
		if g := s.Groups[c.EndCheck.Group]; g != nil {
			g.endCheck(c.EndCheck)
		}
	}
}

func (s *State) admit(index uint64, c *Admit) {
	a := s.Agents[c.Agent]
	if a == nil || !a.Backup || a.Drain || a.Behind || s.IsMember(a.ID) {
		return
	}
	a.Life, a.Lost = index, false
	if len(s.Members) == 0 {
		// What the last one left to nobody falls to this one, and stays there whoever comes after it: in one view a portion
		// has one owner.
		for i := range s.Losses {
			if l := &s.Losses[i]; l.Agent != 0 && len(l.Members) == 0 {
				l.Shares = Shares{Members: []wire.AgentID{a.ID}}
			}
		}
	}
	s.MembersAt, s.Settled = index, 0 // what had one copy for want of a second component gets one there
	s.Members = append(s.Members, a.ID)
	slices.Sort(s.Members)
}

func (s *State) lose(index uint64, c *Lose) {
	if c.View != s.View || !s.IsMember(c.Agent) {
		return
	}
	if s.Settled != s.View || len(s.Eligible()) < 2 {
		for _, g := range s.Groups { // it may have had the only copy of something
			g.doubt()
		}
	}
	s.View++
	s.MembersAt = index
	s.Members = slices.DeleteFunc(s.Members, func(m wire.AgentID) bool { return m == c.Agent })
	if a := s.Agents[c.Agent]; a != nil {
		a.Lost, a.Life = true, 0
	}
	s.Losses = append(s.Losses, Loss{View: s.View, Agent: c.Agent, Shares: s.Shares()})
	s.pruneLosses()
}

// drain asks a component to leave, or to stay after all. The sets that it shares are applied first.
func (s *State) drain(index uint64, c *Drain) error {
	a := s.Agents[c.Agent]
	switch {
	case a == nil:
		return fmt.Errorf("drain: there is no agent %d", c.Agent)
	case !a.Backup:
		return fmt.Errorf("drain agent %q: it has no backup role", a.Name)
	case a.Drain != c.Undo:
		return nil
	}
	if stay := slices.DeleteFunc(s.Eligible(), func(m wire.AgentID) bool { return m == a.ID }); !c.Undo {
		switch {
		case len(stay) == 0: // nor is there one to come, while this one is still to become a member
			return fmt.Errorf("drain agent %q: no other component would be left: join one first", a.Name)
		case len(stay) == 1 && s.IsMember(a.ID) && !c.Force:
			return fmt.Errorf("drain agent %q: one component would be left, and updates would have a single copy until they are applied: join another first, or use --force", a.Name)
		}
	}
	a.Drain = !c.Undo
	s.MembersAt, s.Settled = index, 0 // assignments without a second component follow who is eligible
	return nil
}

// leave takes a component that was asked to leave out of the members once no unapplied set is assigned to it. The view
// stays: nobody has to look for copies.
func (s *State) leave(index uint64, c *Leave) {
	a := s.Agents[c.Agent]
	if a == nil || !a.Drain || !s.IsMember(a.ID) || c.MembersAt != s.MembersAt || s.Uses(a.ID) != nil {
		return
	}
	s.Members = slices.DeleteFunc(s.Members, func(m wire.AgentID) bool { return m == a.ID })
	s.MembersAt, a.Life = index, 0
}

func (s *State) promote(c *Promote) error {
	g := s.Groups[c.Group]
	if g == nil {
		return fmt.Errorf("promote: there is no group %d", c.Group)
	}
	if g.Phase != Replicating {
		return nil
	}
	if len(g.Primaries()) == 0 {
		return fmt.Errorf("promote group %q: it has no volumes", g.Name)
	}
	if g.Doubted() && !c.Force {
		return fmt.Errorf("promote group %q: writes that were acknowledged may be missing, because components that held them together were lost: bring a lost primary back for its resync, or use --force", g.Name)
	}
	if g.Unpromised() && !c.Force {
		return g.degradedError()
	}
	if s.Settled == s.View {
		s.Settled++ // nobody is lost by it, so whatever was held twice still is: it may follow a death by a second
	}
	s.View++
	s.Losses = append(s.Losses, Loss{View: s.View, Shares: Shares{Members: slices.Clone(s.Members)}})
	g.Phase = Promoting
	g.PromoteLabel = c.Label
	for _, inc := range g.Incs {
		inc.Ended = true
	}
	g.dropBroken()
	g.voidGranted() // no captain can confirm a boundary of a fenced group any more
	return nil
}

// voidGranted says of every granted set of which nobody has said whether its end is a cut that it is none. The sets after
// them are granted to other incarnations, and a cut among those says nothing of these.
func (g *Group) voidGranted() {
	for n := g.Committed + 1; n <= g.Granted; n++ {
		if _, decided := g.Verdict(n); !decided {
			g.Verdicts[n] = false
		}
	}
}

// dropBroken seals before their first update the incarnations whose resync was not whole when a promote fenced them, where
// a sealed prefix counts: nothing of theirs was acknowledged, and without them the prefixes of all others still count.
func (g *Group) dropBroken() {
	if !g.PrefixCounts() {
		return
	}
	for i, inc := range g.Incs {
		if inc.Whole != 0 {
			continue
		}
		for _, older := range g.Incs[:i] {
			if older.Primary == inc.Primary && older.Whole != 0 {
				inc.Sealed, inc.Seal, inc.Marked, inc.Last = true, 0, true, 0
			}
		}
	}
}

func (g *Group) attach(index uint64, c *Attach) {
	if g.Phase != Replicating || !slices.Contains(g.Primaries(), c.Primary) {
		return
	}
	for _, inc := range g.Incs {
		if inc.Primary != c.Primary {
			continue
		}
		if inc.Nonce == c.Nonce {
			return
		}
	}
	g.Incs = slices.DeleteFunc(g.Incs, func(inc *Incarnation) bool { return inc.Primary == c.Primary && inc.First == 0 })
	for _, inc := range g.Incs {
		if inc.Primary == c.Primary {
			inc.Ended = true
		}
	}
	g.Incs = append(g.Incs, &Incarnation{ID: wire.Incarnation(index), Primary: c.Primary, Nonce: c.Nonce})
}

// open appends a grant. The live incarnations are granted to write; one that is new gets its first set.
func (s *State) open(g *Group, c *Open) {
	if c.View != s.View || g.Phase != Replicating || c.First != g.Granted+1 || c.Last < c.First ||
		c.Last-c.First >= MaxGrant || c.Last-g.Applied > MaxUnapplied || len(s.Members) == 0 {
		return
	}
	gr := Grant{First: c.First, Last: c.Last, View: s.View, Shares: s.Shares(), Targets: s.Targets(g)}
	for _, inc := range g.Incs {
		if inc.Ended {
			continue
		}
		if inc.First == 0 {
			inc.First = c.First
		}
		gr.Incs = append(gr.Incs, inc.ID)
	}
	if len(gr.Incs) == 0 {
		return
	}
	g.Granted = c.Last
	if n := len(g.Grants); n > 0 && g.Grants[n-1].sameBut(&gr) {
		g.Grants[n-1].Last = c.Last
		return
	}
	g.Grants = append(g.Grants, gr)
}

// sameBut reports whether two grants differ in nothing but their sets.
func (gr *Grant) sameBut(o *Grant) bool {
	return gr.View == o.View && slices.Equal(gr.Incs, o.Incs) && gr.SameAssignment(o)
}

// SameAssignment reports whether two grants divide the portions in the same way.
func (gr *Grant) SameAssignment(o *Grant) bool {
	return gr.Shares.Equal(&o.Shares) && slices.Equal(gr.Targets, o.Targets)
}

// doubt notes that something that was held may be gone.
func (g *Group) doubt() {
	primaries := g.Primaries()
	for _, inc := range g.Incs {
		if g.Phase != Promoted && inc.First != 0 && slices.Contains(primaries, inc.Primary) && (!inc.Sealed || inc.Last > g.Applied) {
			inc.Doubted = max(g.Granted, 1)
		}
	}
}

func (g *Group) commit(c *Commit) {
	if c.UpTo <= g.Committed || c.UpTo > g.Granted || g.Phase == Promoted || (g.FinalChosen && c.UpTo > g.Final) {
		return
	}
	g.Committed = c.UpTo
	for _, e := range c.Ends {
		if inc := g.Inc(e.Inc); inc != nil {
			inc.CommittedSeq = max(inc.CommittedSeq, e.Seq)
			if inc.Whole == 0 {
				inc.Whole = e.Whole
			}
		}
	}
	g.copied(c)
	label := c.Label
	if n := len(g.Points); n > 0 {
		label = max(label, g.Points[n-1].Label)
	} else {
		label = max(label, g.Point.Label)
	}
	g.Points = append(g.Points, RecoveryPoint{Set: c.UpTo, Label: label})
}

func (g *Group) applied(n wire.Set) {
	g.Applied = n
	for _, inc := range g.Incs {
		if !inc.Ended && n >= inc.Doubted {
			inc.Doubted = 0 // all that it wrote up to there was complete
		}
	}
	for len(g.Points) > 0 && g.Points[0].Set <= n {
		g.Point = g.Points[0]
		g.Points = g.Points[1:]
		g.Torn = false
	}
	g.prune()
	g.finish()
}

// prune drops what only unapplied sets need.
func (g *Group) prune() {
	for len(g.Grants) > 0 && g.Grants[0].Last <= g.Applied {
		g.Grants = g.Grants[1:]
	}
	for n := range g.Verdicts {
		if n <= g.Applied {
			delete(g.Verdicts, n)
		}
	}
	g.Incs = slices.DeleteFunc(g.Incs, func(inc *Incarnation) bool {
		if !inc.Sealed || inc.Last > g.Applied {
			return false
		}
		// Of each primary the newest stays, and so does the newest whole one: a promote may have to go back to its seal.
		newest, newestWhole := true, inc.Whole != 0 || inc.Doubted != 0
		for _, other := range g.Incs {
			if other.Primary == inc.Primary && other.ID > inc.ID {
				newest = newest && (other.First == 0 || other.First > g.Applied+1)
				newestWhole = newestWhole && (other.Whole == 0 || other.Whole > g.Applied)
			}
		}
		return !newest && !newestWhole
	})
}

// mayAbandon reports whether a chain may still be given up. Where the captain may have decided it of a degraded group, it may be
// none any more.
func (g *Group) mayAbandon() bool {
	return g.Committed == g.Applied && (g.OnDegraded == BlockDegraded || !g.KeepsHeld())
}

// giveUp drops all unapplied sets. Those of a chain take nothing with them that was acknowledged as held.
func (g *Group) giveUp(chain bool) {
	if g.Phase == Promoted {
		return
	}
	g.tearRemoved()
	if g.ApplyTo > g.Applied {
		g.Torn = true
	}
	if !chain || g.Mode != Sync {
		g.doubt()
	}
	for _, inc := range g.Incs {
		if !inc.Sealed {
			inc.Ended, inc.Sealed, inc.Seal, inc.Marked, inc.Last = true, true, inc.CommittedSeq, true, g.Applied
		}
		inc.Last = min(inc.Last, g.Applied)
		inc.Whole = 0 // nothing counts before a resync
	}
	g.GivenUp = g.Granted
	if chain {
		g.Abandoned = g.GivenUp
	}
	for _, v := range g.Volumes {
		if v.CopiedAt > g.Applied {
			v.CopiedAt = 0
		}
	}
	g.Points = nil
	g.Committed, g.ApplyTo, g.Applied = g.Granted, g.Granted, g.Granted
	g.prune()
	if g.Phase == Promoting {
		g.Final, g.FinalChosen = g.Applied, true
		g.finish()
	}
}

func (g *Group) final(c *Final) {
	if g.Phase != Promoting || g.FinalChosen || c.Set < g.Committed || c.Set > g.Granted {
		return
	}
	for _, inc := range g.Incs {
		if !inc.Sealed {
			return
		}
	}
	g.Final, g.FinalChosen, g.Outcome = c.Set, true, c.Lost
	g.finish()
}

// finish ends a promote whose targets stand at the point.
func (g *Group) finish() {
	if g.Phase != Promoting || !g.FinalChosen || g.Applied < g.Final || g.ApplyTo > g.Applied {
		return
	}
	g.Phase = Promoted
	g.stopGrowing()
	g.GivenUp = g.Granted
	g.Grants, g.Verdicts, g.Points = nil, map[wire.Set]bool{}, nil
}
