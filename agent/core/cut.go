package core

import (
	"slices"
	"time"

	"flotilla/wire"
)

// hold is a primary standing still for a cut. Its bound counts from the first pause, however many attempts follow: no
// captain can hold a primary longer than HoldMax.
type hold struct {
	on      bool
	since   time.Duration
	term    uint64
	attempt uint64
	// highest (term, attempt) that was answered or finished; lower ones are ignored.
	seenTerm, seenAttempt uint64
	confirm               *Confirm // the answer to the Resume that finished the attempt seen, nil before
}

// Hold is a primary's standing still for a cut, told when it has ended.
type Hold struct {
	Group  wire.GroupID
	Set    wire.Set      // that the captain had opened after it; 0 where the primary went on by itself, in its old set
	Length time.Duration // from the first pause; writers wait a little longer, until they are woken
	Stood  bool          // until the resumption that belongs to its last pause: what a cut wants of every primary
}

// newer reports whether (term, attempt) is above what this primary has seen.
func (h *hold) newer(term, attempt uint64) bool {
	return term > h.seenTerm || (term == h.seenTerm && attempt > h.seenAttempt)
}

func (s *source) pause(from wire.AgentID, m *Pause) {
	if from != s.n.control.lead() || s.inc == 0 || !s.hold.newer(m.Term, m.Attempt) {
		return
	}
	h := &s.hold
	if !h.on {
		h.since = s.n.now
	}
	if !s.n.mutant("cut-without-pause") {
		h.on = true
	}
	h.term, h.attempt = m.Term, m.Attempt
	h.seenTerm, h.seenAttempt, h.confirm = m.Term, m.Attempt, nil
	s.n.send(from, &Paused{Group: s.group, Inc: s.inc, Term: m.Term, Attempt: m.Attempt, Open: s.open})
}

func (s *source) resume(from wire.AgentID, m *Resume) {
	h := &s.hold
	same := m.Term == h.seenTerm && m.Attempt == h.seenAttempt
	if from != s.n.control.lead() || s.inc == 0 || (!same && !h.newer(m.Term, m.Attempt)) {
		return
	}
	g := s.n.state.Groups[s.group]
	if g == nil {
		return
	}
	gr := g.Grant(m.Set)
	if gr == nil || !slices.Contains(gr.Incs, s.inc) {
		return // the grant has not arrived here; the captain repeats itself
	}
	if same && h.confirm != nil {
		s.n.send(from, h.confirm)
		return
	}
	stood := (h.on && same) || s.n.mutant("cut-without-pause")
	h.seenTerm, h.seenAttempt = m.Term, m.Attempt
	if h.on {
		h.on = false
		s.n.eff.Holds = append(s.n.eff.Holds, Hold{Group: s.group, Set: m.Set, Length: s.n.now - h.since, Stood: same})
	}
	if s.open < m.Set {
		s.closeUpTo(m.Set)
	} else if s.open > m.Set {
		stood = false
	}
	h.confirm = &Confirm{Group: s.group, Inc: s.inc, Term: m.Term, Attempt: m.Attempt, Set: m.Set, Stood: stood}
	s.n.send(from, h.confirm)
	s.n.eff.Wake = true
}

// holdTick ends a hold that has lasted HoldMax: the primary goes on in its old set.
func (s *source) holdTick() {
	if s.hold.on && s.n.now-s.hold.since >= s.n.cfg.HoldMax {
		s.hold.on = false
		s.n.eff.Holds = append(s.n.eff.Holds, Hold{Group: s.group, Length: s.n.now - s.hold.since})
		s.n.event(s.group, "cut.overdue", "held", s.n.now-s.hold.since)
		s.n.eff.Wake = true
	}
}
