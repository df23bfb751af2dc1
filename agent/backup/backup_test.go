package backup_test

import (
	"errors"
	"math/rand/v2"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"flotilla/agent/apply"
	"flotilla/agent/backup"
	"flotilla/agent/backup/shelltest"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/vfs/crashfs"
	"flotilla/wire"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gate refuses requests to secondaries while it is shut.
type gate struct{ shut atomic.Bool }

var errShut = errors.New("the test refuses applies now")

func (g *gate) call(wire.AgentID, *apply.Request) error {
	if g.shut.Load() {
		return errShut
	}
	return nil
}

// scribble submits random writes, zeroes and trims and returns the last set.
func scribble(p *shelltest.Primary, rng *rand.Rand, n int) (last wire.Set) {
	for range n {
		length := 512 << rng.IntN(6)
		off := int64(rng.IntN(shelltest.Size/length)) * int64(length)
		data := make([]byte, length)
		kind := wire.KindWrite
		switch rng.IntN(8) {
		case 0:
			kind = wire.KindZero
		case 1:
			kind = wire.KindTrim
		default:
			for i := range data {
				data[i] = byte(rng.IntN(4)) // compresses
			}
		}
		last = p.Submit(kind, off, data)
	}
	return last
}

func start(t *testing.T, cfg shelltest.Config, g *gate) *shelltest.Cluster {
	t.Helper()
	c := shelltest.New(t, cfg)
	if g != nil {
		c.OnCall = g.call
	}
	c.StartAll()
	return c
}

func committed(c *shelltest.Cluster, set wire.Set) {
	c.T.Helper()
	c.Wait("a set to be committed", func() (ok bool) {
		c.State(1, func(st *cluster.State) { ok = st.Groups[shelltest.Group].Committed >= set })
		return ok
	})
}

func rng() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func TestSetsReachTheTarget(t *testing.T) {
	for _, backups := range []int{0, 2} {
		c := start(t, shelltest.Config{Seed: 1, Backups: backups}, nil)
		p := c.Agent(1).Primary()
		for range 5 {
			p.WaitApplied(scribble(p, rng(), 100))
		}
		p.CheckTarget()
	}
}

func TestRestartGoesOnWithTheJournal(t *testing.T) {
	g := &gate{}
	g.shut.Store(true)
	c := start(t, shelltest.Config{Seed: 2, Backups: 1}, g)
	p := c.Agent(1).Primary()
	last := scribble(p, rng(), 200)
	committed(c, last)

	c.Stop(2)
	c.FS(2).PowerCut()
	c.FS(2).Restart()
	c.Start(2)
	g.shut.Store(false)
	p.WaitApplied(last)
	p.CheckTarget()
	if n := c.Seen("journal.lost"); n != 0 {
		t.Errorf("the journal was declared lost %d times", n)
	}
}

// lives returns an agent's life as the cluster has it, and the view.
func lives(c *shelltest.Cluster, id wire.AgentID) (life uint64, view wire.View) {
	c.State(1, func(st *cluster.State) { life, view = st.Agents[id].Life, st.View })
	return life, view
}

// comesBackAsNew waits until agent 2 has another life, and checks that all is well then.
func comesBackAsNew(c *shelltest.Cluster, old uint64, view wire.View) {
	c.T.Helper()
	c.WaitSeen("journal.lost")
	c.Wait("another life of agent 2", func() bool {
		life, v := lives(c, 2)
		return life != 0 && life != old && v > view
	})
	p := c.Agent(1).Primary()
	p.WaitApplied(scribble(p, rng(), 50))
	p.CheckTarget()
	if n := c.Seen("journal.lost"); n != 1 {
		c.T.Errorf("the journal was declared lost %d times, want once", n)
	}
}

func TestWhatMakesAComponentLost(t *testing.T) {
	segments := func(c *shelltest.Cluster) []string {
		names, err := c.FS(2).List("/backup/segments")
		if err != nil || len(names) == 0 {
			t.Fatalf("list segments: %v, %v", names, err)
		}
		return names
	}
	for _, tt := range []struct {
		name   string
		damage func(c *shelltest.Cluster)
	}{
		{"rot", func(c *shelltest.Cluster) {
			if err := c.FS(2).Corrupt(path.Join("/backup/segments", segments(c)[0]), 4096+60, 0x10); err != nil {
				t.Fatal(err)
			}
		}},
		{"no identity", func(c *shelltest.Cluster) {
			if err := c.FS(2).Remove("/backup/identity"); err != nil {
				t.Fatal(err)
			}
		}},
		{"an emptied directory", func(c *shelltest.Cluster) {
			for _, n := range segments(c) {
				if err := c.FS(2).Remove(path.Join("/backup/segments", n)); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.FS(2).Remove("/backup/identity"); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := &gate{}
			g.shut.Store(true)
			c := start(t, shelltest.Config{Seed: 3, Backups: 2}, g)
			p := c.Agent(1).Primary()
			last := scribble(p, rng(), 200)
			committed(c, last)
			life, view := lives(c, 2)
			c.Stop(2)
			tt.damage(c)
			c.Start(2)
			g.shut.Store(false)
			p.WaitApplied(last)
			p.CheckTarget()
			comesBackAsNew(c, life, view)
		})
	}
}

func TestLostStaysLostOverARestart(t *testing.T) {
	g := &gate{}
	g.shut.Store(true)
	c := start(t, shelltest.Config{Seed: 4, Backups: 1}, g)
	p := c.Agent(1).Primary()
	committed(c, scribble(p, rng(), 50))
	life, _ := lives(c, 2)
	c.Stop(2)
	if err := c.FS(2).Remove("/backup/identity"); err != nil {
		t.Fatal(err)
	}
	// Without agent 1 there is no majority that could end agent 2's life.
	c.Stop(1)
	for range 2 {
		a := c.Start(2)
		if n := c.Seen("journal.lost"); n == 0 {
			t.Fatal("agent 2 does not know that its journal is lost")
		}
		var now uint64
		a.Loop.View(func(n *core.Node) { now = n.Life() })
		if now != life {
			t.Fatalf("agent 2 has life %d, want still %d", now, life)
		}
		c.Stop(2)
	}
	if n := c.Seen("journal.lost"); n != 2 {
		t.Errorf("journal.lost was seen %d times, want at each start", n)
	}
}

func TestFailedFlushMakesAComponentLost(t *testing.T) {
	c := start(t, shelltest.Config{Seed: 5, Backups: 2}, nil)
	p := c.Agent(1).Primary()
	p.WaitApplied(scribble(p, rng(), 50))
	life, view := lives(c, 2)
	var failed atomic.Bool
	c.FS(2).SetHook(func(op crashfs.Op) error {
		if op.Kind == crashfs.Sync && strings.Contains(op.Name, "/segments/") && failed.CompareAndSwap(false, true) {
			return errors.New("injected: the disk forgot")
		}
		return nil
	})
	p.WaitApplied(scribble(p, rng(), 50))
	comesBackAsNew(c, life, view)
}

// TestUnusableJournalIsNamed: a component whose journal can not be made anew says so until it can.
func TestUnusableJournalIsNamed(t *testing.T) {
	c := start(t, shelltest.Config{Seed: 5, Backups: 2}, nil)
	p := c.Agent(1).Primary()
	p.WaitApplied(scribble(p, rng(), 50))
	life, view := lives(c, 2)
	c.FS(2).SetHook(func(op crashfs.Op) error {
		if op.Kind != crashfs.Read && strings.Contains(op.Name, "/segments") {
			return errors.New("injected: the disk is broken")
		}
		return nil
	})
	set := scribble(p, rng(), 50)
	c.Wait("the fault to be named", func() bool {
		f := c.Agent(2).Backup.Faults()
		return len(f) == 1 && f[0].Name == backup.JournalUnusable && strings.Contains(f[0].Text, "the disk is broken") && f[0].For > 0
	})
	c.FS(2).SetHook(nil)
	p.WaitApplied(set)
	comesBackAsNew(c, life, view)
	c.Wait("the fault to end", func() bool { return len(c.Agent(2).Backup.Faults()) == 0 })
}

func TestRotSeenWhenReadMakesAComponentLost(t *testing.T) {
	g := &gate{}
	g.shut.Store(true)
	c := start(t, shelltest.Config{Seed: 6, Backups: 2}, g)
	p := c.Agent(1).Primary()
	last := scribble(p, rng(), 300)
	committed(c, last)
	life, view := lives(c, 2)
	names, err := c.FS(2).List("/backup/segments")
	if err != nil {
		t.Fatal(err)
	}
	for off := int64(8192); off < 200<<10; off += 4096 {
		// Beyond the end of the file there is nothing to damage.
		_ = c.FS(2).Corrupt(path.Join("/backup/segments", names[0]), off+100, 1)
	}
	g.shut.Store(false)
	p.WaitApplied(last)
	p.CheckTarget()
	comesBackAsNew(c, life, view)
}

func TestFullJournalRefusesAndGoesOn(t *testing.T) {
	g := &gate{}
	g.shut.Store(true)
	c := start(t, shelltest.Config{Seed: 7, Backup: func(o *backup.Options) {
		o.Journal.SegmentSize, o.Journal.Limit, o.Journal.Spares = 256<<10, 1<<20, -1
	}}, g)
	p := c.Agent(1).Primary()
	r := rng()
	var last wire.Set
	for c.Seen("journal.full") == 0 {
		data := make([]byte, 32<<10)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		last = p.Submit(wire.KindWrite, int64(r.IntN(200))*32<<10, data)
		// A set that does not fit by itself could never end.
		c.Wait("a set to be committed or refused", func() (ok bool) {
			c.State(1, func(st *cluster.State) { ok = st.Groups[shelltest.Group].Committed >= last })
			return ok || c.Seen("journal.full") > 0
		})
	}
	used, limit := c.Agent(1).Backup.Usage()
	if used > limit || limit != 1<<20 {
		t.Errorf("the journal takes %d of %d bytes", used, limit)
	}
	g.shut.Store(false)
	c.WaitSeen("journal.room")
	p.WaitApplied(last)
	p.CheckTarget()
}

func TestUpdateThatDoesNotMatchItsSumIsNeverWritten(t *testing.T) {
	c := shelltest.New(t, shelltest.Config{Seed: 8})
	const bad = 3 << 20
	c.Seal = func(u *wire.Update, g wire.GroupID, inc wire.Incarnation) {
		u.Seal(g, inc)
		if u.Offset == bad {
			u.Sum ^= 1
		}
	}
	c.StartAll()
	p := c.Agent(1).Primary()
	p.WaitApplied(scribble(p, rng(), 1))
	data := []byte(strings.Repeat("x", 4096))
	set := p.Submit(wire.KindWrite, bad, data)
	c.WaitSeen("update.damaged")
	c.Wait("a second try", func() bool { return c.Seen("apply.failed") >= 2 })
	if n := c.Seen("update.damaged"); n != 1 {
		t.Errorf("the damage was shown %d times, want once", n)
	}
	have := make([]byte, 4096)
	if _, err := c.Target.ReadAt(have, bad); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(have), "x") {
		t.Error("an update whose sum does not match was written")
	}
	c.State(1, func(st *cluster.State) {
		if a := st.Groups[shelltest.Group].Applied; a >= set {
			t.Errorf("sets up to %d are applied, and the damaged one is %d", a, set)
		}
	})
}

func TestDamagedFrameIsSentAgain(t *testing.T) {
	c := shelltest.New(t, shelltest.Config{Seed: 9, Backups: 2})
	var n atomic.Int64
	c.Damage = func(_ wire.Route, raw []byte) {
		if n.Add(1)%3 == 1 {
			raw[len(raw)-1] ^= 0x40
		}
	}
	c.StartAll()
	p := c.Agent(1).Primary()
	p.WaitApplied(scribble(p, rng(), 100))
	p.CheckTarget()
	if c.Refused() == 0 {
		t.Error("no frame was refused")
	}
}

func TestMirrorsGetTheirCopyWhenMemoryIsShort(t *testing.T) {
	c := shelltest.New(t, shelltest.Config{Seed: 10, Backups: 2, Backup: func(o *backup.Options) { o.MirrorBytes, o.IntakeBytes = 1, 1 }})
	c.StartAll()
	p := c.Agent(1).Primary()
	var dropped uint64
	for range 20 {
		p.WaitApplied(scribble(p, rng(), 200))
		if dropped = c.Agent(2).Backup.Stats().MirrorsDropped + c.Agent(3).Backup.Stats().MirrorsDropped; dropped > 0 {
			break
		}
	}
	p.CheckTarget()
	if dropped == 0 {
		t.Error("nothing had to be sent out of the journal")
	}
}

// A frame that cannot leave, as while a mirror that came back is not yet connected, is sent out of the journal soon, and
// not only when it counts as lost on the way.
func TestRefusedFramesReachTheMirror(t *testing.T) {
	c := shelltest.New(t, shelltest.Config{Seed: 11, Backups: 2, ResendAfter: time.Hour})
	var refused atomic.Int64
	c.OnSend = func(_, _ wire.AgentID) error {
		if refused.Load() < 20 {
			refused.Add(1)
			return errors.New("nobody is there")
		}
		return nil
	}
	c.StartAll()
	p := c.Agent(1).Primary()
	for refused.Load() < 20 {
		p.WaitApplied(scribble(p, rng(), 50))
	}
	p.CheckTarget()
}

func TestLossOfAComponent(t *testing.T) {
	g := &gate{}
	g.shut.Store(true)
	c := start(t, shelltest.Config{Seed: 11, Backups: 3}, g)
	p := c.Agent(1).Primary()
	last := scribble(p, rng(), 300)
	committed(c, last)
	c.Stop(3)
	c.Wait("the view to rise", func() bool { _, v := lives(c, 2); return v > 1 })
	g.shut.Store(false)
	p.WaitApplied(last)
	p.WaitApplied(scribble(p, rng(), 100))
	p.CheckTarget()
}

func TestJournalOfAnotherAgentIsRefused(t *testing.T) {
	c := start(t, shelltest.Config{Seed: 12}, nil)
	p := c.Agent(1).Primary()
	p.WaitApplied(scribble(p, rng(), 1))
	c.Stop(1)
	f, err := c.FS(1).Create("/backup/identity")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(`{"version":1,"cluster":"ff","agent":7,"life":3,"lost":false}`), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.TryStart(1); err == nil || !strings.Contains(err.Error(), "belongs to agent 7 of cluster ff") {
		t.Errorf("start with a foreign journal: %v", err)
	}
}
