package core

import (
	"slices"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

type markHeld struct {
	set wire.Set
	seq wire.Seq
}

// openFirst opens the first set of the incarnation when it is alone in it; with several primaries a cut does.
func (s *source) openFirst(g *cluster.Group) {
	inc := g.Inc(s.inc)
	if inc.First == 0 {
		return
	}
	if gr := g.Grant(inc.First); gr != nil && len(gr.Incs) == 1 {
		s.openSet(inc.First)
	}
}

func (s *source) openSet(set wire.Set) {
	if s.open == 0 {
		s.n.event(s.group, "incarnation.open", "incarnation", s.inc, "set", set)
	}
	s.open, s.openedAt, s.first, s.setBytes, s.setFolded = set, s.n.now, s.next, 0, 0
	s.lines, s.lastLine = map[wire.Portion]*Tally{}, nil
	s.pairs = map[wire.Portion]cluster.Pair{}
	s.openFolding()
	s.n.eff.Wake = true
}

// closeSet ends the open set with its manifest and opens the next.
func (s *source) closeSet(next wire.Set) {
	m := Manifest{First: s.first, Last: s.next, Broken: s.broken || (s.again && s.resync > 0)}
	if !m.Broken {
		s.again = false // once nothing was left to copy, what is copied later breaks nothing: it is what failed writes left
	}
	for p, t := range s.lines {
		m.Lines = append(m.Lines, Line{Portion: p, Tally: *t})
	}
	slices.SortFunc(m.Lines, func(a, b Line) int {
		if a.Portion.Volume != b.Portion.Volume {
			return int(int64(a.Portion.Volume) - int64(b.Portion.Volume))
		}
		return int(int64(a.Portion.Index) - int64(b.Portion.Index))
	})
	m.Copied = cluster.SortedKeys(s.copied)
	data := m.Encode()
	p := wire.MarkPortion(s.n.cfg.ID)
	s.lastLine = &Tally{} // the mark is not a line of its own manifest
	s.lastKey = p
	it := &item{set: s.open, u: wire.Update{
		Volume: p.Volume, Portion: p.Index, Kind: wire.KindMark, Length: uint32(len(data)), Data: data,
	}}
	s.number(it)
	s.marks = append(s.marks, markHeld{set: s.open, seq: it.u.Seq})
	s.openSet(next)
}

// closeUpTo closes every set below m, with an empty manifest where nothing was written, and opens m.
func (s *source) closeUpTo(m wire.Set) {
	if s.open == 0 {
		if inc := s.n.state.Groups[s.group].Inc(s.inc); inc.First != 0 {
			s.openSet(min(inc.First, m))
		}
	}
	for s.open < m {
		s.closeSet(s.open + 1)
	}
}

// closeLocal closes the open set if its boundary is this primary's own business and the next set is granted.
func (s *source) closeLocal() {
	g := s.n.state.Groups[s.group]
	if g == nil || s.open == 0 || s.hold.on {
		return
	}
	this, next := g.Grant(s.open), g.Grant(s.open+1)
	if this == nil || next == nil || len(this.Incs) != 1 || len(next.Incs) != 1 || next.Incs[0] != s.inc {
		return
	}
	s.closeSet(s.open + 1)
}
