package cluster

import (
	"bytes"
	"strings"
	"testing"

	"flotilla/wire"

	"pgregory.net/rapid"
)

// fleet returns a state with three components, two primaries and a secondary, and a group of one volume each.
func fleet(t *testing.T) *State {
	t.Helper()
	s := New("test")
	index := uint64(1)
	do := func(c Command) uint64 {
		index++
		v, err := s.Apply(index, &c)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, n := range []string{"c1", "c2", "c3"} {
		id := do(Command{AddAgent: &AddAgent{Name: n, Address: n, Backup: true}})
		do(Command{Admit: &Admit{Agent: wire.AgentID(id)}})
	}
	for _, n := range []string{"p1", "p2"} {
		do(Command{AddAgent: &AddAgent{Name: n, Address: n, Primary: true}})
	}
	do(Command{AddAgent: &AddAgent{Name: "s", Address: "s", Secondary: true}})
	do(Command{CreateGroup: &CreateGroup{Name: "g"}})
	for i, n := range []string{"v1", "v2"} {
		do(Command{CreateVolume: &CreateVolume{Group: 1, Name: n, Size: 1 << 20, Primary: wire.AgentID(4 + i), Source: n, Secondary: 6, Target: n}})
	}
	return s
}

func TestRefusals(t *testing.T) {
	s := fleet(t)
	s.Tokens["spent"] = &Token{Expires: 100, Spent: true}
	s.Tokens["old"] = &Token{Expires: 100}
	for want, c := range map[string]Command{
		"not known":            {AddAgent: &AddAgent{Name: "x", Address: "x", TokenHash: "none"}},
		"used already":         {AddAgent: &AddAgent{Name: "x", Address: "x", TokenHash: "spent"}},
		"has expired":          {AddAgent: &AddAgent{Name: "x", Address: "x", TokenHash: "old", Label: 101}},
		`named "c1" already`:   {AddAgent: &AddAgent{Name: "c1", Address: "x"}},
		`group named "g"`:      {CreateGroup: &CreateGroup{Name: "g"}},
		"and is none":          {AddAgent: &AddAgent{Name: "x", Address: "x", Primary: true, ComponentAddress: "y"}},
		"period of 1 ms":       {CreateGroup: &CreateGroup{Name: "h", PeriodMS: 1}},
		"not a power of two":   {CreateGroup: &CreateGroup{Name: "h", PortionSize: 3 << 20}},
		"no secondary role":    {CreateVolume: &CreateVolume{Group: 1, Name: "x", Size: 1, Primary: 4, Source: "x", Secondary: 1, Target: "x"}},
		"no primary role":      {CreateVolume: &CreateVolume{Group: 1, Name: "x", Size: 1, Primary: 1, Source: "x", Secondary: 6, Target: "x"}},
		"belongs to volume":    {CreateVolume: &CreateVolume{Group: 1, Name: "x", Size: 1, Primary: 4, Source: "x", Secondary: 6, Target: "v1"}},
		"not positive":         {CreateVolume: &CreateVolume{Group: 1, Name: "x", Primary: 4, Source: "x", Secondary: 6, Target: "x"}},
		"it has 2 volumes":     {DeleteGroup: &DeleteGroup{Group: 1}},
		"component of the cur": {RemoveAgent: &RemoveAgent{Agent: 1}},
		"no backup role":       {Drain: &Drain{Agent: 4}},
		`volume "v1" uses it`:  {RemoveAgent: &RemoveAgent{Agent: 4}},
	} {
		before := s.Encode()
		if _, err := s.Apply(99, &c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, have %v", want, err)
		}
		if !bytes.Equal(before, s.Encode()) {
			t.Errorf("%q changed the state", want)
		}
	}
}

// A token admits once.
func TestTokenIsSpent(t *testing.T) {
	s := fleet(t)
	s.Tokens["t"] = &Token{Expires: 100}
	if _, err := s.Apply(50, &Command{AddAgent: &AddAgent{Name: "n", Address: "n", TokenHash: "t", Label: 100}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(51, &Command{AddAgent: &AddAgent{Name: "m", Address: "m", TokenHash: "t", Label: 100}}); err == nil {
		t.Fatal("a spent token was taken")
	}
}

func TestStateSurvivesItsEncoding(t *testing.T) {
	s := fleet(t)
	s.Apply(50, &Command{Attach: &Attach{Group: 1, Primary: 4, Nonce: 7}})
	s.Apply(51, &Command{Open: &Open{Group: 1, First: 1, Last: 4, View: 1}})
	s.Apply(52, &Command{Lose: &Lose{Agent: 2, View: 1}})
	if bytes.Contains(s.Encode(), []byte("ComponentAddress")) {
		t.Error("agents with one address are no longer encoded as they were before there could be two")
	}
	s.Apply(53, &Command{AddAgent: &AddAgent{Name: "two", Address: "x", Backup: true, ComponentAddress: "y"}})
	c, err := Decode(s.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if a := c.AgentByName("two"); a.Address != "x" || a.ComponentAddress != "y" {
		t.Errorf("%+v", a)
	}
	if !bytes.Equal(s.Encode(), c.Encode()) {
		t.Fatal("it comes back otherwise")
	}
	s.Version = FormatVersion + 1
	if _, err := Decode(s.Encode()); err == nil || !strings.Contains(err.Error(), "upgrade") {
		t.Fatalf("a newer version was taken: %v", err)
	}
}

// On a loss only the portions of the lost component move, the survivor of each pair owns, and owner and mirror differ.
func TestAssignmentFolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "components")
		s := New("test")
		var members []wire.AgentID
		for i := range n {
			members = append(members, wire.AgentID(i+1))
			s.Agents[wire.AgentID(i+1)] = &Agent{ID: wire.AgentID(i + 1), Backup: true}
		}
		s.Members = append(s.Members, members...)
		g := &Group{ID: 1, Grants: []Grant{{First: 1, Last: 9, View: 1, Shares: Shares{Members: members}}}, Granted: 9}
		s.Groups[1] = g
		lost := rapid.Permutation(members).Draw(t, "lost")[:rapid.IntRange(0, n).Draw(t, "losses")]
		portions := make([]wire.Portion, 200)
		pairs := make([]Pair, len(portions))
		for i := range portions {
			portions[i] = wire.Portion{Volume: wire.VolumeID(i % 3), Index: uint32(i)}
			pairs[i] = s.Pair(g, 5, portions[i])
		}
		for _, l := range lost {
			s.lose(9, &Lose{Agent: l, View: s.View})
			for i, p := range portions {
				was, is := pairs[i], s.Pair(g, 5, p)
				switch {
				case was.Owner != l && was.Mirror != l && is != was:
					t.Fatalf("portion %v moved from %v to %v when %d was lost", p, was, is, l)
				case was.Owner == l && was.Mirror != 0 && is.Owner != was.Mirror:
					t.Fatalf("portion %v: %v lost %d, and %v does not own", p, was, l, is)
				case is.Owner != 0 && is.Owner == is.Mirror, is.Owner == l, is.Mirror == l:
					t.Fatalf("portion %v is with %v after the loss of %d", p, is, l)
				case is.Mirror == 0 && len(s.Members) > 1, is.Owner == 0 && len(s.Members) > 0:
					t.Fatalf("portion %v is with %v while %v are there", p, is, s.Members)
				}
				pairs[i] = is
			}
		}
	})
}

// Commands that come twice, late or of another view change nothing.
func TestStaleCommandsAreNoOps(t *testing.T) {
	s := fleet(t)
	do := func(i uint64, c Command) { s.Apply(i, &c) }
	do(50, Command{Attach: &Attach{Group: 1, Primary: 4, Nonce: 7}})
	do(51, Command{Open: &Open{Group: 1, First: 1, Last: 4, View: 1}})
	do(52, Command{Commit: &Commit{Group: 1, UpTo: 2, View: 1}})
	do(53, Command{ApplyTo: &ApplyTo{Group: 1, UpTo: 2, View: 1}})
	do(54, Command{Applied: &Applied{Group: 1, Set: 1, View: 1}})
	before := s.Encode()
	for name, c := range map[string]Command{
		"attach again":        {Attach: &Attach{Group: 1, Primary: 4, Nonce: 7}},
		"grant again":         {Open: &Open{Group: 1, First: 1, Last: 4, View: 1}},
		"grant of old view":   {Open: &Open{Group: 1, First: 5, Last: 8, View: 0}},
		"commit again":        {Commit: &Commit{Group: 1, UpTo: 2, View: 1}},
		"commit of old view":  {Commit: &Commit{Group: 1, UpTo: 3, View: 0}},
		"commit of ungranted": {Commit: &Commit{Group: 1, UpTo: 5, View: 1}},
		"apply uncommitted":   {ApplyTo: &ApplyTo{Group: 1, UpTo: 3, View: 1}},
		"applied again":       {Applied: &Applied{Group: 1, Set: 1, View: 1}},
		"applied out of turn": {Applied: &Applied{Group: 1, Set: 3, View: 1}},
		"applied of old view": {Applied: &Applied{Group: 1, Set: 2, View: 0}},
		"seal of a live one":  {Seal: &Seal{Group: 1, Inc: 50, Seq: 3, View: 1}},
		"loss of old view":    {Lose: &Lose{Agent: 2, View: 0}},
		"giving up too late":  {GiveUp: &GiveUp{Group: 1, View: 1, Applied: 0}},
		"admit a member":      {Admit: &Admit{Agent: 1}},
		"final without fence": {Final: &Final{Group: 1, Set: 2, View: 1}},
	} {
		do(60, c)
		if !bytes.Equal(before, s.Encode()) {
			t.Fatalf("%s changed the state", name)
		}
	}
}

// The first seal and the first verdict win.
func TestFirstWordWins(t *testing.T) {
	s := fleet(t)
	do := func(i uint64, c Command) { s.Apply(i, &c) }
	do(50, Command{Attach: &Attach{Group: 1, Primary: 4, Nonce: 7}})
	do(51, Command{Attach: &Attach{Group: 1, Primary: 5, Nonce: 8}})
	do(52, Command{Open: &Open{Group: 1, First: 1, Last: 4, View: 1}})
	do(53, Command{Verdict: &Verdict{Group: 1, Set: 1, Cut: false}})
	do(54, Command{Verdict: &Verdict{Group: 1, Set: 1, Cut: true}})
	if cut, decided := s.Groups[1].Verdict(1); cut || !decided {
		t.Fatal("a void boundary became a cut")
	}
	do(55, Command{End: &End{Group: 1, Inc: 50}})
	do(56, Command{Seal: &Seal{Group: 1, Inc: 50, Seq: 3, Last: 1, View: 1}})
	do(57, Command{Seal: &Seal{Group: 1, Inc: 50, Seq: 9, Last: 2, View: 1}})
	if inc := s.Groups[1].Inc(50); inc.Seal != 3 {
		t.Fatalf("a seal grew from 3 to %d", inc.Seal)
	}
}

// A set that was given up leaves nobody whole: neither who had attached nor who was away counts before a resync.
func TestGivenUpLeavesNobodyWhole(t *testing.T) {
	s := fleet(t)
	do := func(i uint64, c Command) { s.Apply(i, &c) }
	do(50, Command{Attach: &Attach{Group: 1, Primary: 4, Nonce: 7}})
	do(51, Command{Attach: &Attach{Group: 1, Primary: 5, Nonce: 8}})
	do(52, Command{Open: &Open{Group: 1, First: 1, Last: 4, View: 1}})
	g := s.Groups[1]
	do(53, Command{Commit: &Commit{Group: 1, UpTo: 1, View: 1, Copied: []wire.VolumeID{1, 2}, Ends: []IncEnd{{50, 9, 1}, {51, 9, 1}}}})
	do(54, Command{ApplyTo: &ApplyTo{Group: 1, UpTo: 1, View: 1}})
	do(55, Command{Applied: &Applied{Group: 1, Set: 1, View: 1}})
	if !g.WholeAt(4, 1, nil, nil) || !g.WholeAt(5, 1, nil, nil) {
		t.Fatal("not whole before")
	}
	do(56, Command{GiveUp: &GiveUp{Group: 1, View: 1, Applied: 1}})
	do(57, Command{Attach: &Attach{Group: 1, Primary: 4, Nonce: 9}})
	do(58, Command{Open: &Open{Group: 1, First: 5, Last: 8, View: 1}})
	for _, p := range []wire.AgentID{4, 5} {
		if g.WholeAt(p, 5, nil, nil) {
			t.Errorf("agent %d counts as whole without a resync", p)
		}
	}
	if g.Torn || g.Point.Set != 1 {
		t.Errorf("the point before is gone: torn %v, point %d", g.Torn, g.Point.Set)
	}
}

// A set given up while it was being applied leaves the targets torn until a resync is whole.
func TestGivenUpWhileApplying(t *testing.T) {
	s := fleet(t)
	do := func(i uint64, c Command) { s.Apply(i, &c) }
	do(50, Command{Attach: &Attach{Group: 1, Primary: 4, Nonce: 7}})
	do(52, Command{Open: &Open{Group: 1, First: 1, Last: 4, View: 1}})
	do(53, Command{Commit: &Commit{Group: 1, UpTo: 1, View: 1}})
	do(54, Command{ApplyTo: &ApplyTo{Group: 1, UpTo: 1, View: 1}})
	do(56, Command{GiveUp: &GiveUp{Group: 1, View: 1, Applied: 0}})
	if !s.Groups[1].Torn {
		t.Fatal("not torn")
	}
}

// The operator's way out of a primary that does not come back: its last volume taken out ends its incarnation.
func TestLastVolumeEndsTheIncarnation(t *testing.T) {
	s := fleet(t)
	do := func(i uint64, c Command) { s.Apply(i, &c) }
	do(50, Command{Attach: &Attach{Group: 1, Primary: 4, Nonce: 7}})
	do(51, Command{DeleteVolume: &DeleteVolume{Volume: 1}})
	if inc := s.Groups[1].Inc(50); !inc.Ended {
		t.Fatal("it goes on")
	}
}

// Whoever joins a view without a second component takes the second copy of what is there.
func TestJoinerToADegradedViewMirrors(t *testing.T) {
	s := fleet(t)
	s.Apply(50, &Command{Attach: &Attach{Group: 1, Primary: 4, Nonce: 7}})
	s.Apply(51, &Command{Open: &Open{Group: 1, First: 1, Last: 4, View: 1}})
	s.Apply(52, &Command{Lose: &Lose{Agent: 1, View: 1}})
	s.Apply(53, &Command{Lose: &Lose{Agent: 2, View: 2}})
	p := wire.Portion{Volume: 1}
	if pair := s.Pair(s.Groups[1], 2, p); pair != (Pair{Owner: 3}) {
		t.Fatalf("with one component: %v", pair)
	}
	s.Apply(54, &Command{Admit: &Admit{Agent: 1}})
	if pair := s.Pair(s.Groups[1], 2, p); pair != (Pair{Owner: 3, Mirror: 1}) {
		t.Fatalf("with a joiner: %v", pair)
	}
}

// TestDrain: a drained component keeps what it has and gets nothing new; it leaves when that is applied, and comes back
// only when it is asked to.
func TestDrain(t *testing.T) {
	s := fleet(t)
	index := uint64(100)
	do := func(c Command) error {
		t.Helper()
		index++
		_, err := s.Apply(index, &c)
		return err
	}
	must := func(c Command) {
		t.Helper()
		if err := do(c); err != nil {
			t.Fatal(err)
		}
	}
	const c3 = wire.AgentID(3)
	portions := func(set wire.Set) (n int) {
		for i := range uint32(64) {
			if p := s.Pair(s.Groups[1], set, wire.Portion{Volume: 1, Index: i}); p.Owner == c3 || p.Mirror == c3 {
				n++
			}
		}
		return n
	}
	must(Command{AddAgent: &AddAgent{Name: "c4", Address: "c4", Backup: true}})
	must(Command{Admit: &Admit{Agent: 7}})
	must(Command{Attach: &Attach{Group: 1, Primary: 4, Nonce: 1}})
	inc := s.Groups[1].Live(4).ID
	must(Command{Open: &Open{Group: 1, First: 1, Last: 2, View: s.View}})
	before := portions(1)
	if before == 0 {
		t.Fatal("agent 3 has no share: the test shows nothing")
	}
	must(Command{Drain: &Drain{Agent: c3}})
	must(Command{Open: &Open{Group: 1, First: 3, Last: 4, View: s.View}})
	if portions(2) != before || portions(3) != 0 {
		t.Errorf("of older sets it has %d of %d, of newer ones %d", portions(2), before, portions(3))
	}
	// Nor does it inherit anything from who is lost.
	must(Command{Lose: &Lose{Agent: 1, View: s.View}})
	if portions(3) != 0 {
		t.Errorf("after a loss it has %d portions of newer sets", portions(3))
	}
	leave := func() bool {
		must(Command{Leave: &Leave{Agent: c3, MembersAt: s.MembersAt}})
		return !s.IsMember(c3)
	}
	apply := func(set wire.Set) {
		must(Command{Commit: &Commit{Group: 1, UpTo: set, View: s.View, Ends: []IncEnd{{Inc: inc, Seq: wire.Seq(set), Whole: 1}}}})
		must(Command{ApplyTo: &ApplyTo{Group: 1, UpTo: set, View: s.View}})
		must(Command{Applied: &Applied{Group: 1, Set: set, View: s.View}})
	}
	apply(1)
	if s.Uses(c3) == nil || leave() {
		t.Error("it may go though set 2 is not applied")
	}
	apply(2)
	must(Command{Leave: &Leave{Agent: c3, MembersAt: s.MembersAt - 1}})
	if !s.IsMember(c3) {
		t.Error("it left on the word of a captain that saw other members")
	}
	view := s.View
	if !leave() || s.View != view || s.Agents[c3].Life != 0 {
		t.Errorf("members %v, view %d after %d, life %d", s.Members, s.View, view, s.Agents[c3].Life)
	}
	must(Command{Admit: &Admit{Agent: c3}})
	if s.IsMember(c3) {
		t.Error("it came back by itself")
	}
	must(Command{Drain: &Drain{Agent: c3, Undo: true}})
	must(Command{Admit: &Admit{Agent: c3}})
	if !s.IsMember(c3) {
		t.Error("it did not come back")
	}
	must(Command{Drain: &Drain{Agent: 2}})
	if err := do(Command{Drain: &Drain{Agent: c3}}); err == nil || !strings.Contains(err.Error(), "one component would be left") {
		t.Errorf("draining all but one: %v", err)
	}
	// When all others are lost it serves again, whatever was asked of it.
	must(Command{Drain: &Drain{Agent: c3, Force: true}})
	for _, m := range []wire.AgentID{2, 7} {
		must(Command{Lose: &Lose{Agent: m, View: s.View}})
	}
	if p := s.Pair(s.Groups[1], 4, wire.Portion{Volume: 1}); p != (Pair{Owner: c3}) {
		t.Errorf("the last member has %+v", p)
	}
}

// TestPromoteLeavesSettled: a disaster takes a component with it as a rule, and promote is asked for before that is
// declared lost. It must not take the long limit for that.
func TestPromoteLeavesSettled(t *testing.T) {
	for _, settled := range []bool{true, false} {
		s := fleet(t)
		apply := func(c Command) {
			t.Helper()
			if _, err := s.Apply(1000, &c); err != nil {
				t.Fatal(err)
			}
		}
		if settled {
			apply(Command{Settle: &Settle{View: s.View, MembersAt: s.MembersAt}})
		}
		apply(Command{Promote: &Promote{Group: 1}})
		if (s.Settled == s.View) != settled || s.View != 2 {
			t.Errorf("settled before: %v; then view %d, settled %d", settled, s.View, s.Settled)
		}
		apply(Command{Lose: &Lose{Agent: 1, View: s.View}})
		if s.Settled == s.View {
			t.Error("settled at once after a loss")
		}
	}
}

// TestDoubt: when components that could hold the same update together were lost, a promote of a sync group must not pass
// over acknowledged writes in silence.
func TestDoubt(t *testing.T) {
	for name, test := range map[string]struct {
		mode     Mode
		settle   bool // between the losses
		apply    bool // of what was open at the second loss, by the primary's own manifests
		giveUp   bool
		reattach bool // and the new incarnation is whole
		doubted  bool
	}{
		"one after the other":     {mode: Sync, settle: true},
		"two at once":             {mode: Sync, doubted: true},
		"two at once, async":      {mode: Async},
		"it was all there":        {mode: Sync, apply: true},
		"sets were given up":      {mode: Sync, settle: true, giveUp: true, doubted: true},
		"a resync has brought it": {mode: Sync, giveUp: true, reattach: true},
	} {
		s := fleet(t)
		s.Groups[1].Mode = test.mode
		delete(s.Groups[1].Volumes, 2) // of one primary
		index := uint64(1000)
		do := func(c Command) error {
			index++
			_, err := s.Apply(index, &c)
			return err
		}
		must := func(c Command) {
			t.Helper()
			if err := do(c); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		settle := func() { must(Command{Settle: &Settle{View: s.View, MembersAt: s.MembersAt}}) }
		g := s.Groups[1]
		apply := func(set wire.Set, inc wire.Incarnation) {
			must(Command{Commit: &Commit{Group: 1, UpTo: set, View: s.View, Ends: []IncEnd{{Inc: inc, Seq: wire.Seq(set), Whole: set}}, Copied: []wire.VolumeID{1}}})
			must(Command{ApplyTo: &ApplyTo{Group: 1, UpTo: set, View: s.View}})
			must(Command{Applied: &Applied{Group: 1, Set: set, View: s.View}})
		}
		must(Command{Attach: &Attach{Group: 1, Primary: 4, Nonce: 1}})
		must(Command{Open: &Open{Group: 1, First: 1, Last: 3, View: s.View}})
		apply(1, g.Live(4).ID)
		settle()
		must(Command{Lose: &Lose{Agent: 1, View: s.View}})
		if test.settle {
			settle()
		}
		must(Command{Lose: &Lose{Agent: 2, View: s.View}})
		if test.apply {
			apply(2, g.Live(4).ID)
			apply(3, g.Live(4).ID)
		}
		if test.giveUp {
			must(Command{GiveUp: &GiveUp{Group: 1, View: s.View, Applied: g.Applied}})
		}
		if test.reattach {
			must(Command{Attach: &Attach{Group: 1, Primary: 4, Nonce: 2}})
			must(Command{Open: &Open{Group: 1, First: 4, Last: 5, View: s.View}})
			if !g.Doubted() {
				t.Errorf("%s: in no doubt before the resync", name)
			}
			apply(4, g.Live(4).ID)
			apply(5, g.Live(4).ID)
		}
		err := do(Command{Promote: &Promote{Group: 1}})
		if refused := err != nil; refused != test.doubted || g.Doubted() != test.doubted {
			t.Errorf("%s: doubted %v, promote: %v", name, g.Doubted(), err)
		}
		if must(Command{Promote: &Promote{Group: 1, Force: true}}); g.Phase != Promoting {
			t.Errorf("%s: %s after a forced promote", name, g.Phase)
		}
	}
}

// The last component declares itself lost and comes back, then another joins: what is not applied has the same owner all
// the time, for the view does not rise.
func TestOwnerAfterTheLastLoss(t *testing.T) {
	s := New("test")
	apply := func(index uint64, c Command) {
		t.Helper()
		if _, err := s.Apply(index, &c); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"c1", "c2", "p"} {
		apply(1, Command{AddAgent: &AddAgent{Name: name, Address: name, Backup: name != "p", Primary: name == "p", Secondary: name == "p"}})
	}
	apply(2, Command{CreateGroup: &CreateGroup{Name: "g", Mode: Async, PortionSize: 1 << 20}})
	apply(3, Command{CreateVolume: &CreateVolume{Group: 1, Name: "v", Size: 64 << 20, Primary: 3, Source: "/s", Secondary: 3, Target: "/t"}})
	apply(4, Command{Admit: &Admit{Agent: 2}})
	apply(5, Command{Attach: &Attach{Group: 1, Primary: 3, Nonce: 1}})
	apply(6, Command{Open: &Open{Group: 1, First: 1, Last: 4, View: s.View}})
	apply(7, Command{Lose: &Lose{Agent: 2, View: s.View}})
	apply(8, Command{Admit: &Admit{Agent: 2}})
	view := s.View
	apply(9, Command{Admit: &Admit{Agent: 1}})
	if s.View != view {
		t.Fatalf("the view rose from %d to %d", view, s.View)
	}
	for i := range uint32(64) {
		if have := s.Pair(s.Groups[1], 1, wire.Portion{Volume: 1, Index: i}); have != (Pair{Owner: 2, Mirror: 1}) {
			t.Fatalf("portion %d: %+v", i, have)
		}
	}
}

// TestDrainOfTheOneToCome: while there is no member, the one that is to become it can not be asked to leave.
func TestDrainOfTheOneToCome(t *testing.T) {
	s := fleet(t)
	for i, m := range []wire.AgentID{1, 2, 3} {
		s.Apply(uint64(50+i), &Command{Lose: &Lose{Agent: m, View: s.View}})
	}
	if _, err := s.Apply(60, &Command{Drain: &Drain{Agent: 2, Force: true}}); err == nil || s.Agents[2].Drain {
		t.Errorf("members %v, and component 2 was asked to leave: %v", s.Members, err)
	}
	s.Apply(61, &Command{Admit: &Admit{Agent: 2}})
	if !s.IsMember(2) {
		t.Error("it did not become a member")
	}
	if _, err := s.Apply(62, &Command{Drain: &Drain{Agent: 3}}); err != nil || !s.Agents[3].Drain {
		t.Errorf("component 3, which is none now, can not be asked to stay away: %v", err)
	}
}
