package cluster

import (
	"strings"
	"testing"

	"flotilla/wire"
)

// degradableGroup is a sync group of some primaries that goes on when its writes can not be held; each primary has a whole
// incarnation, and sets up to 4 are granted.
func degradableGroup(t *testing.T, primaries int) (*State, *Group) {
	t.Helper()
	s := New("test")
	do := func(c Command) uint64 {
		t.Helper()
		v, err := s.Apply(1<<8, &c)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	g := s.Groups[wire.GroupID(do(Command{CreateGroup: &CreateGroup{
		Name: "g", Mode: Sync, Contract: Contract{OnDegraded: AsyncDegraded, DegradeAfterMS: 700},
	}}))]
	c := do(Command{AddAgent: &AddAgent{Name: "c", Address: "c:1", Backup: true, Secondary: true}})
	do(Command{Admit: &Admit{Agent: wire.AgentID(c)}})
	for i := range primaries {
		name := string(rune('p' + i))
		p := wire.AgentID(do(Command{AddAgent: &AddAgent{Name: name, Address: name, Primary: true}}))
		do(Command{CreateVolume: &CreateVolume{Group: g.ID, Name: name, Size: 1 << 20, Primary: p, Source: name, Secondary: wire.AgentID(c), Target: name}})
		s.attachWhole(t, g, p, uint64(10+i))
	}
	return s, g
}

// attachWhole gives a primary an incarnation that becomes whole at once.
func (s *State) attachWhole(t *testing.T, g *Group, p wire.AgentID, index uint64) *Incarnation {
	t.Helper()
	inc := s.attachBroken(t, g, p, index)
	s.applyToGroup(index<<8, &Command{Commit: &Commit{
		Group: g.ID, UpTo: g.Granted, View: s.View, Ends: []IncEnd{{Inc: inc.ID, Seq: 1, Whole: g.Granted}},
	}})
	return inc
}

func (s *State) attachBroken(t *testing.T, g *Group, p wire.AgentID, index uint64) *Incarnation {
	t.Helper()
	s.applyToGroup(index<<8, &Command{Attach: &Attach{Group: g.ID, Primary: p, Nonce: index}})
	s.applyToGroup(index<<8, &Command{Open: &Open{Group: g.ID, First: g.Granted + 1, Last: g.Granted + 4, View: s.View}})
	inc := g.Live(p)
	if inc == nil || inc.First == 0 {
		t.Fatalf("primary %d has no incarnation: %+v", p, inc)
	}
	return inc
}

// to proposes a phase as the captain does.
func (s *State) to(g *Group, index uint64, p DegradePhase, incs ...wire.Incarnation) {
	c := &Degrade{Group: g.ID, To: p, Label: int64(index), Incs: incs}
	if g.Degraded != nil {
		c.At = g.Degraded.At
	}
	s.applyToGroup(index<<8, &Command{Degrade: c})
}

func TestDegradeOnePrimary(t *testing.T) {
	s, g := degradableGroup(t, 1)
	inc := g.Incs[0]
	s.to(g, 20, DegradeAsked)
	if g.DegradedPhase() != Degraded || inc.Ended || g.Degraded.At != 20<<8 || !g.Unpromised() || !g.PrefixCounts() {
		t.Fatalf("a group of one primary is %+v, its incarnation ended: %v", g.Degraded, inc.Ended)
	}
	since := g.Degraded.Since
	s.applyToGroup(21<<8, &Command{Degrade: &Degrade{Group: g.ID, To: DegradeEnding, At: 19 << 8}})
	if g.DegradedPhase() != Degraded {
		t.Error("what was decided of another phase has an effect")
	}
	s.to(g, 22, 0, inc.ID)
	if g.Degraded == nil {
		t.Fatal("it is over without having been ending")
	}
	s.to(g, 23, DegradeEnding)
	s.to(g, 24, Degraded)
	s.to(g, 25, DegradeEnding)
	if d := g.Degraded; d.Phase != DegradeEnding || d.At != 25<<8 || d.Since != since {
		t.Fatalf("there and back: %+v", d)
	}
	s.to(g, 26, 0, inc.ID+1)
	if g.Degraded == nil {
		t.Error("it is over by the word of another incarnation")
	}
	inc.Ended = true
	s.to(g, 27, 0, inc.ID)
	if g.Degraded == nil {
		t.Error("it is over by the word of an incarnation that has ended")
	}
	next := s.attachBroken(t, g, inc.Primary, 28)
	s.to(g, 29, 0, next.ID)
	if g.Degraded == nil {
		t.Error("it is over before the resync is whole")
	}
	next.Whole = g.Granted
	s.to(g, 30, 0, next.ID)
	if g.Degraded != nil {
		t.Errorf("all is covered, and it is %+v", g.Degraded)
	}
}

func TestDegradeSeveralPrimaries(t *testing.T) {
	s, g := degradableGroup(t, 2)
	old := g.Incs[1]
	upTo := g.Granted
	s.to(g, 20, DegradeAsked)
	if g.DegradedPhase() != DegradeAsked || g.Unpromised() || !g.Incs[0].Ended || !old.Ended || g.Degraded.UpTo != upTo {
		t.Fatalf("asked: %+v, incarnations %+v %+v", g.Degraded, g.Incs[0], old)
	}
	s.to(g, 21, Degraded)
	if !g.Unpromised() || !g.PrefixAt(upTo) || g.PrefixAt(upTo+1) {
		t.Errorf("degraded: %+v; a prefix is to count up to set %d", g.Degraded, upTo)
	}
	if _, err := s.Apply(22<<8, &Command{CreateVolume: &CreateVolume{
		Group: g.ID, Name: "new", Size: 1 << 20, Primary: wire.AgentID(s.addPrimary(t)), Source: "n", Secondary: 1, Target: "n",
	}}); err == nil {
		t.Error("a degraded group got another primary")
	}
	first, second := s.attachBroken(t, g, old.Primary, 23), s.attachBroken(t, g, g.Incs[0].Primary, 24)
	first.Whole = g.Granted
	s.to(g, 25, DegradeEnding)
	s.to(g, 26, 0, first.ID, second.ID)
	if g.Degraded == nil {
		t.Error("it is over before all are whole")
	}
	second.Whole = g.Granted
	s.to(g, 27, 0, first.ID)
	if g.Degraded == nil {
		t.Error("it is over by the word of one of two")
	}
	s.to(g, 28, 0, first.ID, second.ID)
	if g.Degraded != nil || !g.PrefixAt(upTo+1) {
		t.Errorf("all is covered, and it is %+v", g.Degraded)
	}
}

func (s *State) addPrimary(t *testing.T) uint64 {
	t.Helper()
	id, err := s.Apply(1, &Command{AddAgent: &AddAgent{Name: "new", Address: "new:1", Primary: true}})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestDegradedByWhom looks at who may degrade at all, and at what a change of the contract does to what is under way.
func TestDegradedByWhom(t *testing.T) {
	block := func(s *State, g *Group) {
		if _, err := s.Apply(30<<8, &Command{SetGroup: &SetGroup{Group: g.ID, OnDegraded: new(BlockDegraded)}}); err != nil {
			t.Fatal(err)
		}
	}
	s, g := degradableGroup(t, 1)
	block(s, g)
	s.to(g, 31, DegradeAsked)
	if g.Degraded != nil {
		t.Errorf("a group that blocks degrades: %+v", g.Degraded)
	}
	s, g = degradableGroup(t, 1)
	s.to(g, 20, DegradeAsked)
	block(s, g)
	if d := g.Degraded; d == nil || d.Phase != DegradeEnding || d.At != 30<<8 {
		t.Errorf("degraded, then to block: %+v", d)
	}
	s.to(g, 32, Degraded)
	if g.DegradedPhase() != DegradeEnding {
		t.Errorf("a group that blocks is degraded again")
	}
	s, g = degradableGroup(t, 2)
	s.to(g, 20, DegradeAsked)
	block(s, g)
	if g.Degraded != nil {
		t.Errorf("asked, then to block: %+v", g.Degraded)
	}
	if _, err := s.Apply(1, &Command{CreateGroup: &CreateGroup{Name: "a", Mode: Async, Contract: Contract{OnDegraded: AsyncDegraded}}}); err == nil {
		t.Error("an async group has a contract for sync ones")
	}
	if _, err := s.Apply(1, &Command{SetGroup: &SetGroup{Group: g.ID, DegradeAfterMS: new(int64(499))}}); err == nil {
		t.Error("499 ms are accepted")
	}
}

func TestPromoteOfADegradedGroup(t *testing.T) {
	s, g := degradableGroup(t, 1)
	s.to(g, 20, DegradeAsked)
	promote := func(force bool) error {
		_, err := s.Apply(40<<8, &Command{Promote: &Promote{Group: g.ID, Label: 1, Force: force}})
		return err
	}
	if err := promote(false); err == nil || !strings.Contains(err.Error(), "degraded since 1970-01-01") || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a promote without force: %v", err)
	}
	if err := promote(true); err != nil || g.Phase != Promoting || g.Degraded == nil {
		t.Errorf("a promote with force: %v, %s, %+v", err, g.Phase, g.Degraded)
	}
	s, g = degradableGroup(t, 2)
	s.to(g, 20, DegradeAsked)
	if err := promote(false); err != nil {
		t.Errorf("nothing was acknowledged early: %v", err)
	}
}

// TestDegradedStateIsRead: it survives its encoding, and a group without any is encoded as before.
func TestDegradedStateIsRead(t *testing.T) {
	s, g := degradableGroup(t, 1)
	s.to(g, 20, DegradeAsked)
	read, err := Decode(s.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if d := read.Groups[g.ID]; *d.Degraded != *g.Degraded || d.Contract != g.Contract {
		t.Errorf("read %+v %+v", d.Degraded, d.Contract)
	}
	g.Degraded, g.Contract = nil, Contract{}
	for _, word := range []string{"Degrade", "Contract"} {
		if strings.Contains(string(s.Encode()), word) {
			t.Errorf("a state without it names %q: an older agent could not read it", word)
		}
	}
}

// TestChainOfADegradedGroup: what was acknowledged as held is not given up for want of room, what was not may be, and a
// decision of that comes too late once P3 holds again.
func TestChainOfADegradedGroup(t *testing.T) {
	s, g := degradableGroup(t, 1)
	inc := g.Incs[0]
	for g.Applied < g.Committed {
		s.applyToGroup(15<<8, &Command{ApplyTo: &ApplyTo{Group: g.ID, UpTo: g.Committed, View: s.View}})
		s.applyToGroup(15<<8, &Command{Applied: &Applied{Group: g.ID, Set: g.Applied + 1, View: s.View}})
	}
	s.applyToGroup(16<<8, &Command{Open: &Open{Group: g.ID, First: g.Granted + 1, Last: g.Granted + 4, View: s.View}})
	s.to(g, 20, DegradeAsked)
	giveUp := &Command{GiveUp: &GiveUp{Group: g.ID, View: s.View, Applied: g.Applied, Chain: true}}
	s.applyToGroup(21<<8, giveUp)
	if !g.KeepsHeld() || inc.Sealed {
		t.Error("sets from before it degraded were given up")
	}
	g.Degraded.UpTo = g.Committed
	if g.KeepsHeld() {
		t.Error("sets since it degraded are kept")
	}
	g.Degraded = nil
	s.applyToGroup(22<<8, giveUp)
	if inc.Sealed {
		t.Error("sets were given up after P3 held again")
	}
}
