package cluster

import (
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"testing"

	"flotilla/wire"

	"pgregory.net/rapid"
)

// many are the portions that properties are tried on.
func many() []wire.Portion {
	ps := make([]wire.Portion, 300)
	for i := range ps {
		ps[i] = wire.Portion{Volume: wire.VolumeID(i % 5), Index: uint32(i)}
	}
	return ps
}

func (s *Shares) pair(p wire.Portion, targets []string) (owner, mirror place) {
	owner = s.owner(p)
	return owner, s.mirror(p, owner, targets)
}

func drawShares(t *rapid.T) Shares {
	n := rapid.IntRange(1, 12).Draw(t, "components")
	s := Shares{Members: make([]wire.AgentID, n)}
	for i := range n {
		s.Members[i] = wire.AgentID(3*i + 1)
	}
	if rapid.Bool().Draw(t, "weighted") {
		s.Weights = rapid.SliceOfN(rapid.Uint8Range(1, MaxWeight), n, n).Draw(t, "weights")
	}
	if rapid.Bool().Draw(t, "labelled") {
		s.Domains = rapid.SliceOfN(rapid.SampledFrom([]string{"", "a", "b", "c"}), n, n).Draw(t, "domains")
	}
	return s
}

// insert adds a member.
func (s *Shares) insert(a wire.AgentID, weight uint8, domain string) Shares {
	at, _ := slices.BinarySearch(s.Members, a)
	out := Shares{Members: slices.Insert(slices.Clone(s.Members), at, a)}
	if s.Weights != nil {
		out.Weights = slices.Insert(slices.Clone(s.Weights), at, weight)
	}
	if s.Domains != nil {
		out.Domains = slices.Insert(slices.Clone(s.Domains), at, domain)
	}
	return out
}

// TestJoinMovesOnlyToTheJoiner: nothing moves between those that were there. What the joiner does not own keeps its
// mirror, or has the joiner for one.
func TestJoinMovesOnlyToTheJoiner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		was := drawShares(t)
		joiner := wire.AgentID(3*rapid.IntRange(0, len(was.Members)).Draw(t, "joiner") + 2)
		is := was.insert(joiner, rapid.Uint8Range(1, MaxWeight).Draw(t, "weight"), rapid.SampledFrom([]string{"", "a", "d"}).Draw(t, "domain"))
		targets := rapid.SampledFrom([][]string{nil, {"a"}, {"a", "b"}, {"d"}}).Draw(t, "targets")
		for _, p := range many() {
			o, m := was.pair(p, targets)
			no, nm := is.pair(p, targets)
			switch {
			case no.agent != o.agent && no.agent != joiner:
				t.Fatalf("portion %v moved from %d to %d when %d joined", p, o.agent, no.agent, joiner)
			case no.agent == o.agent && nm.agent != m.agent && nm.agent != joiner:
				t.Fatalf("the mirror of %v moved from %d to %d when %d joined", p, m.agent, nm.agent, joiner)
			}
		}
	})
}

// TestWeightMovesOnlyToOrFromItsComponent: more weight takes portions from others, less gives some away; none moves
// between the others.
func TestWeightMovesOnlyToOrFromItsComponent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		was := drawShares(t)
		if was.Weights == nil {
			was.Weights = make([]uint8, len(was.Members))
			for i := range was.Weights {
				was.Weights[i] = NominalWeight
			}
		}
		is := was
		is.Weights = slices.Clone(was.Weights)
		i := rapid.IntRange(0, len(was.Members)-1).Draw(t, "changed")
		changed := was.Members[i]
		is.Weights[i] = rapid.Uint8Range(1, MaxWeight).Draw(t, "weight")
		for _, p := range many() {
			o, no := was.owner(p).agent, is.owner(p).agent
			switch {
			case o == no:
			case is.Weights[i] > was.Weights[i] && no != changed, is.Weights[i] < was.Weights[i] && o != changed:
				t.Fatalf("portion %v moved from %d to %d when the weight of %d went from %d to %d", p, o, no, changed, was.Weights[i], is.Weights[i])
			}
		}
	})
}

// TestCopiesInDifferentDomains: the copies are in different domains where labels allow, and one is in a target domain
// where a component is.
func TestCopiesInDifferentDomains(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawShares(t)
		targets := rapid.SampledFrom([][]string{nil, {"a"}, {"a", "b"}, {"d"}}).Draw(t, "targets")
		others := func(but wire.AgentID, ok func(domain string) bool) bool {
			for i, m := range s.Members {
				if m != but && ok(s.domain(i)) {
					return true
				}
			}
			return false
		}
		there := func(d string) bool { return slices.Contains(targets, d) }
		for _, p := range many() {
			o, m := s.pair(p, targets)
			switch {
			case m.agent == 0 && len(s.Members) > 1, m.agent == o.agent:
				t.Fatalf("portion %v: %v mirrors what %v owns", p, m, o)
			case o.domain != "" && o.domain == m.domain && others(o.agent, func(d string) bool { return d != o.domain }):
				t.Fatalf("portion %v: both copies in %q, of %v", p, o.domain, s)
			case !there(o.domain) && !there(m.domain) && others(o.agent, there):
				t.Fatalf("portion %v with %v and %v: no copy in %v, of %v", p, o, m, targets, s)
			}
		}
	})
}

// TestSharesFollowWeights: everybody owns in proportion to the weight, and a joiner takes 1/n, within what chance leaves
// of 64,000 portions.
func TestSharesFollowWeights(t *testing.T) {
	for _, s := range []Shares{
		{Members: []wire.AgentID{1, 2, 3}},
		{Members: []wire.AgentID{1, 2, 3, 4, 5}, Weights: []uint8{100, 100, 50, 10, 250}},
		{Members: []wire.AgentID{1, 2}, Weights: []uint8{1, 255}},
		func() (s Shares) {
			for i := range 64 {
				s.Members = append(s.Members, wire.AgentID(i+1))
			}
			return s
		}(),
	} {
		owned := map[wire.AgentID]int{}
		const volumes, each = 1000, 64
		for v := range volumes {
			for i := range each {
				owned[s.owner(wire.Portion{Volume: wire.VolumeID(v), Index: uint32(i)}).agent]++
			}
		}
		for _, m := range s.Members {
			want := s.Percent(m) / 100 * volumes * each
			if off := math.Abs(float64(owned[m]) - want); off > 4*math.Sqrt(want)+1 {
				t.Errorf("%v: component %d owns %d portions, want %.0f", s.Weights, m, owned[m], want)
			}
		}
	}
}

// TestEqualWeightsAreNoWeights: the assignment of a cluster whose weights are equal is that of one that has none.
func TestEqualWeightsAreNoWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := drawShares(t)
		a.Weights = nil
		b := a
		b.Weights = slices.Repeat([]uint8{rapid.Uint8Range(1, MaxWeight).Draw(t, "weight")}, len(a.Members))
		for _, p := range many() {
			ao, am := a.pair(p, nil)
			bo, bm := b.pair(p, nil)
			if ao != bo || am != bm {
				t.Fatalf("portion %v: %v and %v without weights, %v and %v with", p, ao, am, bo, bm)
			}
		}
	})
}

// TestCost: the integer logarithm falls with the hash, and is the logarithm. The figures are the same on every machine.
func TestCost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Uint64().Draw(t, "a"), rapid.Uint64().Draw(t, "b")
		if a < b && cost(a) < cost(b) {
			t.Fatalf("cost(%d) = %d is below cost(%d) = %d", a, cost(a), b, cost(b))
		}
		want := 64 - math.Log2(float64(a|1))
		if have := float64(cost(a)) / (1 << logUnit); math.Abs(have-want) > 1e-6 {
			t.Fatalf("cost(%d) = %v, want %v", a, have, want)
		}
	})
	for h, want := range map[uint64]uint64{0: 64 << logUnit, 1 << 63: 1 << logUnit, math.MaxUint64: 1, 0x9e3779b97f4a7c15: 2981746694} {
		if have := cost(h); have != want {
			t.Errorf("cost(%#x) = %d, want %d", h, have, want)
		}
	}
}

// TestStateWithoutWeights: what an agent recorded before there were weights and labels reads the same, and assigns the
// same.
func TestStateWithoutWeights(t *testing.T) {
	old, err := os.ReadFile("testdata/state-1.cbor")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Decode(old)
	if err != nil {
		t.Fatal(err)
	}
	want := []Pair{{3, 1}, {3, 1}, {1, 3}, {3, 1}, {1, 3}, {1, 3}, {3, 1}, {3, 1}}
	for i, w := range want {
		if have := s.Pair(s.Groups[1], 3, wire.Portion{Volume: 1, Index: uint32(i)}); have != w {
			t.Errorf("portion %d is with %v, was with %v", i, have, w)
		}
	}
	if string(s.Encode()) != string(old) {
		t.Error("it is written otherwise")
	}
}

// TestGrantedSetsKeepTheirAssignment: nothing that an operator or the captain says of weights and domains moves a portion
// of a set that is granted and has two components; the next grant follows it.
func TestGrantedSetsKeepTheirAssignment(t *testing.T) {
	s := fleet(t)
	index := uint64(100)
	do := func(c Command) {
		t.Helper()
		index++
		if _, err := s.Apply(index, &c); err != nil {
			t.Fatal(err)
		}
	}
	pairs := func(set wire.Set) map[wire.Portion]Pair {
		out := map[wire.Portion]Pair{}
		for _, p := range many() {
			out[p] = s.Pair(s.Groups[1], set, p)
		}
		return out
	}
	do(Command{Attach: &Attach{Group: 1, Primary: 4, Nonce: 7}})
	do(Command{Open: &Open{Group: 1, First: 1, Last: 4, View: 1}})
	do(Command{Open: &Open{Group: 1, First: 5, Last: 8, View: 1}})
	g := s.Groups[1]
	if len(g.Grants) != 1 || g.Grants[0].Last != 8 {
		t.Fatalf("the same leave twice makes %d grants up to %d", len(g.Grants), g.Grants[0].Last)
	}
	before := pairs(3)
	do(Command{SetAgent: &SetAgent{Agent: 1, Weight: new(uint8(200))}})
	do(Command{Weigh: &Weigh{Agent: 2, Weight: 50, MembersAt: s.MembersAt}})
	do(Command{Weigh: &Weigh{Agent: 3, Weight: 10, MembersAt: s.MembersAt - 1}}) // late
	do(Command{Weigh: &Weigh{Agent: 1, Weight: 10, MembersAt: s.MembersAt}})     // fixed
	for i, d := range []string{"a", "c", "b", "a", "a", "b"} {
		do(Command{SetAgent: &SetAgent{Agent: wire.AgentID(i + 1), Domain: &d}})
	}
	if !maps.Equal(before, pairs(3)) {
		t.Fatal("a set that was granted before moved")
	}
	do(Command{Open: &Open{Group: 1, First: 9, Last: 9, View: 1}})
	gr := g.Grant(9)
	if fmt.Sprint(gr.Weights, gr.Domains, gr.Targets) != "[200 50 100] [a c b] [b]" {
		t.Fatalf("granted with weights %v, domains %v, targets %v", gr.Weights, gr.Domains, gr.Targets)
	}
	for p, pair := range pairs(9) {
		if pair.Owner != 3 && pair.Mirror != 3 {
			t.Fatalf("portion %v has no copy in the targets' domain: %v", p, pair)
		}
	}
	nine := pairs(9)
	do(Command{SetAgent: &SetAgent{Agent: 6, Domain: new("a")}})
	if !maps.Equal(nine, pairs(9)) {
		t.Fatal("a granted set followed the label of a secondary")
	}
	do(Command{SetAgent: &SetAgent{Agent: 6, Domain: new("b")}})
	// A loss folds with the weights and labels of its own time.
	do(Command{Lose: &Lose{Agent: 3, View: 1}})
	after := pairs(9)
	do(Command{SetAgent: &SetAgent{Agent: 1, Weight: new(uint8(0))}})
	do(Command{SetAgent: &SetAgent{Agent: 2, Domain: new("d")}})
	if !maps.Equal(after, pairs(9)) {
		t.Fatal("a set moved after its loss")
	}
	if s.Agents[1].WeightFixed || s.Agents[1].Weight != 0 {
		t.Fatal("weight 0 does not give it back to the captain")
	}
}

// TestSecondCopyFollowsLabels: what has one copy for want of components gets its second one in the targets' domain; who
// must act on it sees that by MembersAt.
func TestSecondCopyFollowsLabels(t *testing.T) {
	s := fleet(t)
	for i, d := range []string{"a", "b", "a", "a", "a", "b"} {
		s.Apply(uint64(40+i), &Command{SetAgent: &SetAgent{Agent: wire.AgentID(i + 1), Domain: &d}})
	}
	s.lose(50, &Lose{Agent: 2, View: 1})
	s.lose(51, &Lose{Agent: 3, View: 2})
	s.Apply(52, &Command{Attach: &Attach{Group: 1, Primary: 4, Nonce: 7}})
	s.Apply(53, &Command{Open: &Open{Group: 1, First: 1, Last: 4, View: 3}})
	s.Apply(54, &Command{Admit: &Admit{Agent: 3}})
	s.Apply(55, &Command{Admit: &Admit{Agent: 2}})
	for _, p := range many() {
		if pair := s.Pair(s.Groups[1], 2, p); pair != (Pair{1, 2}) {
			t.Fatalf("portion %v is with %v", p, pair)
		}
	}
	s.Apply(56, &Command{Settle: &Settle{View: s.View, MembersAt: s.MembersAt}})
	s.Apply(57, &Command{SetAgent: &SetAgent{Agent: 2, Domain: new("a")}})
	if s.MembersAt != 57 || s.Settled == s.View {
		t.Fatalf("the label of a member changed unseen: members at %d, settled %d", s.MembersAt, s.Settled)
	}
}

func TestExposed(t *testing.T) {
	for name, test := range map[string]struct {
		domains [6]string // c1, c2, c3, p1, p2, s
		want    string
	}{
		"no labels":                     {[6]string{}, ""},
		"all at the primary's site":     {[6]string{"a", "a", "a", "a", "a", "b"}, "a"},
		"one at the secondary's":        {[6]string{"a", "a", "b", "a", "a", "b"}, ""},
		"one at a third site":           {[6]string{"a", "a", "c", "a", "a", "b"}, ""},
		"all at a third site":           {[6]string{"c", "c", "c", "a", "a", "b"}, ""},
		"one not labelled":              {[6]string{"a", "", "a", "a", "a", "b"}, "a"},
		"one site for all":              {[6]string{"a", "a", "a", "a", "a", "a"}, ""},
		"targets not labelled":          {[6]string{"a", "a", "a", "a", "a", ""}, ""},
		"all where one of two writes":   {[6]string{"a", "a", "a", "a", "c", "b"}, "a"},
		"where both of two sites write": {[6]string{"a", "c", "a", "a", "c", "b"}, ""},
	} {
		s := fleet(t)
		for i, d := range test.domains {
			s.Agents[wire.AgentID(i+1)].Domain = d
		}
		if have := s.Exposed(s.Groups[1]); have != test.want {
			t.Errorf("%s: %q, want %q", name, have, test.want)
		}
	}
}

func TestSetAgentRefusals(t *testing.T) {
	s := fleet(t)
	for _, c := range []*SetAgent{
		{Agent: 99, Domain: new("a")},
		{Agent: 1, Domain: new("a b")},
		{Agent: 1, Domain: new(string(make([]byte, 64)))},
		{Agent: 4, Weight: new(uint8(3))},
	} {
		if _, err := s.Apply(60, &Command{SetAgent: c}); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}
