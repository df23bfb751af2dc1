package secondary_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"flotilla/agent/apply"
	"flotilla/agent/backup/shelltest"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/secondary"
	"flotilla/agent/vfs"
	"flotilla/blockdev"
	"flotilla/blockdev/faulty"
	"flotilla/nbd"
	"flotilla/wire"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(p *shelltest.Primary, rng *rand.Rand, n int) (last wire.Set) {
	for range n {
		data := make([]byte, 4096)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		last = p.Submit(wire.KindWrite, int64(rng.IntN(shelltest.Size/4096))*4096, data)
	}
	return last
}

func rng() *rand.Rand { return rand.New(rand.NewPCG(3, 4)) }

// target returns the status of the one target.
func target(c *shelltest.Cluster) secondary.TargetStatus {
	if ts := c.Agent(1).Secondary.Targets(); len(ts) == 1 {
		return ts[0]
	}
	return secondary.TargetStatus{}
}

func waitFor(c *shelltest.Cluster, what string, ok func(secondary.TargetStatus) bool) {
	c.T.Helper()
	c.Wait(what, func() bool { return ok(target(c)) })
}

func recordOf(t *testing.T, c *shelltest.Cluster) string {
	t.Helper()
	data, err := vfs.ReadFile(c.FS(1), "/secondary/volume-1.target", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestRecordFollowsTheTarget(t *testing.T) {
	c := shelltest.New(t, shelltest.Config{Seed: 1})
	var seen sync.Map
	c.Target.Inject(faulty.Fault{Op: faulty.Write, Times: -1, OnlyHook: true, Hook: func(faulty.Call) {
		data, _ := vfs.ReadFile(c.FS(1), "/secondary/volume-1.target", 1<<20)
		for _, cond := range []string{"claimed", "copying", "applying", "consistent"} {
			if strings.Contains(string(data), `"condition": "`+cond+`"`) {
				seen.Store(cond, true)
			}
		}
	}})
	c.StartAll()
	p := c.Agent(1).Primary()
	p.WaitApplied(write(p, rng(), 20))
	waitFor(c, "a consistent target", func(s secondary.TargetStatus) bool { return s.Condition == secondary.Consistent })
	p.WaitApplied(write(p, rng(), 20))
	waitFor(c, "a consistent target", func(s secondary.TargetStatus) bool { return s.Condition == secondary.Consistent })
	p.CheckTarget()
	// What the record said whenever the device was written.
	for cond, want := range map[string]bool{"claimed": false, "copying": true, "applying": true, "consistent": false} {
		if _, got := seen.Load(cond); got != want {
			t.Errorf("a write was seen while the record said %q: %v, want %v", cond, got, want)
		}
	}
}

func TestTargetTooSmall(t *testing.T) {
	var small atomic.Bool
	small.Store(true)
	c := shelltest.New(t, shelltest.Config{Seed: 2, Secondary: func(o *secondary.Options) {
		right := o.Open
		o.Open = func(path string) (blockdev.Device, error) {
			if small.Load() {
				return blockdev.NewMemory(shelltest.Size - 512), nil
			}
			return right(path)
		}
	}})
	c.StartAll()
	c.WaitSeen("target.unavailable")
	if s := target(c); s.Open || !strings.Contains(s.Error, "/target has 8388096 bytes and the volume 8388608") {
		t.Errorf("status: %+v", s)
	}
	if _, err := vfs.ReadFile(c.FS(1), "/secondary/volume-1.target", 1<<20); err == nil {
		t.Error("a target that could not be used was claimed")
	}
	p := c.Agent(1).Primary()
	set := write(p, rng(), 3)
	c.WaitSeen("apply.failed")
	small.Store(false)
	p.WaitApplied(set)
	p.CheckTarget()
	if n := c.Seen("target.unavailable"); n != 1 {
		t.Errorf("the same trouble was shown %d times", n)
	}
}

// superblock is the beginning of an ext4 file system.
func superblock() []byte {
	p := make([]byte, 4096)
	copy(p[0x438:], "\x53\xef")
	return p
}

func TestTargetThatHoldsSomething(t *testing.T) {
	for name, volume := range map[string]func(*cluster.CreateVolume){
		"refused": nil,
		"forced":  func(v *cluster.CreateVolume) { v.Overwrite = true },
	} {
		t.Run(name, func(t *testing.T) {
			c := shelltest.New(t, shelltest.Config{Seed: 11, Volume: volume})
			if _, err := c.Target.WriteAt(superblock(), 0); err != nil {
				t.Fatal(err)
			}
			written := c.Target.Calls(faulty.Write)
			c.StartAll()
			p := c.Agent(1).Primary()
			if volume == nil {
				c.WaitSeen("target.unavailable")
				set := write(p, rng(), 3)
				c.WaitSeen("apply.failed")
				if s := target(c); s.Open || !strings.Contains(s.Error, "holds something: ext2, ext3 or ext4 file system") || !strings.Contains(s.Error, "--force") {
					t.Errorf("status: %+v", s)
				}
				if there, err := vfs.Exists(c.FS(1), "/secondary/volume-1.target"); there || err != nil || c.Target.Calls(faulty.Write) != written {
					t.Errorf("it was claimed: %v, %v, or written", there, err)
				}
				// Its owner clears it, and the next look takes it.
				if err := c.Target.WriteZeroes(0, 4096, true); err != nil {
					t.Fatal(err)
				}
				p.WaitApplied(set)
				return
			}
			// What the application did not write stays as it was, so the test has it written.
			p.Submit(wire.KindZero, 0, make([]byte, 4096))
			p.WaitApplied(write(p, rng(), 3))
			p.CheckTarget()
		})
	}
}

// The file system that was replicated to a target is no reason to refuse it after a restart.
func TestTargetThatHoldsTheVolume(t *testing.T) {
	c := shelltest.New(t, shelltest.Config{Seed: 12})
	c.StartAll()
	p := c.Agent(1).Primary()
	p.WaitApplied(p.Submit(wire.KindWrite, 0, superblock()))
	c.Stop(1)
	c.Start(1)
	waitFor(c, "the target to be open again", func(s secondary.TargetStatus) bool { return s.Open && s.Error == "" })
}

func TestTargetInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "target")
	other, err := blockdev.Create(path, shelltest.Size, blockdev.Options{Exclusive: true})
	if err != nil {
		t.Fatal(err)
	}
	c := shelltest.New(t, shelltest.Config{Seed: 3, Secondary: func(o *secondary.Options) {
		o.Open = func(string) (blockdev.Device, error) { return blockdev.Open(path, blockdev.Options{Exclusive: true}) }
	}})
	c.StartAll()
	c.WaitSeen("target.unavailable")
	if s := target(c); s.Open || !strings.Contains(s.Error, blockdev.ErrInUse.Error()) {
		t.Errorf("status: %+v", s)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	p := c.Agent(1).Primary()
	p.WaitApplied(p.Submit(wire.KindWrite, 8192, []byte(strings.Repeat("flotilla", 512))))
	data, err := os.ReadFile(path)
	if err != nil || string(data[8192:8200]) != "flotilla" {
		t.Errorf("the file has %q, %v", data[8192:8200], err)
	}
	if s := target(c); !s.Open || s.Error != "" {
		t.Errorf("status: %+v", s)
	}
}

func TestDeviceErrors(t *testing.T) {
	for _, op := range []faulty.Op{faulty.Write, faulty.Flush} {
		t.Run(op.String(), func(t *testing.T) {
			var opened atomic.Int64
			c := shelltest.New(t, shelltest.Config{Seed: 4, Secondary: func(o *secondary.Options) {
				right := o.Open
				o.Open = func(path string) (blockdev.Device, error) { opened.Add(1); return right(path) }
			}})
			c.StartAll()
			p := c.Agent(1).Primary()
			p.WaitApplied(write(p, rng(), 5))
			heal := c.Target.Inject(faulty.Fault{Op: op, Times: -1})
			set := write(p, rng(), 5)
			c.WaitSeen("target.failed")
			tried := c.Target.Calls(op)
			c.Wait("the apply to be tried again", func() bool { return c.Target.Calls(op) > tried+1 })
			c.State(1, func(st *cluster.State) {
				if a := st.Groups[shelltest.Group].Applied; a >= set {
					t.Errorf("set %d is applied while the device fails", a)
				}
			})
			if r := recordOf(t, c); !strings.Contains(r, `"applying"`) {
				t.Errorf("the record while the device fails: %s", r)
			}
			// A device that fails to flush is opened anew each time, and looks healthy until the next flush.
			waitFor(c, "the error in the status", func(s secondary.TargetStatus) bool {
				return strings.Contains(s.Error, "input/output error")
			})
			c.Wait("the fault to be named", func() bool {
				f := c.Agent(1).Secondary.Faults()
				return len(f) == 1 && f[0].Name == secondary.TargetFailed && f[0].Volume == 1 && f[0].For > 0
			})
			heal()
			p.WaitApplied(set)
			p.CheckTarget()
			if again := opened.Load() > 1; again != (op == faulty.Flush) {
				t.Errorf("the device was opened %d times", opened.Load())
			}
			waitFor(c, "a healthy target", func(s secondary.TargetStatus) bool { return s.Error == "" && s.Open })
			if f := c.Agent(1).Secondary.Faults(); len(f) > 0 {
				t.Errorf("faults of a healthy target: %v", f)
			}
		})
	}
}

func TestFlushOfUnknownWritesIsRefused(t *testing.T) {
	c := shelltest.New(t, shelltest.Config{Seed: 5})
	var n atomic.Int64
	c.OnCall = func(_ wire.AgentID, r *apply.Request) error {
		if r.Flush && n.Add(1) == 1 {
			r.Writes++ // as if one had been answered before this device was opened
		}
		return nil
	}
	c.StartAll()
	p := c.Agent(1).Primary()
	set := write(p, rng(), 3)
	c.WaitSeen("apply.failed")
	p.WaitApplied(set)
	p.CheckTarget()
	if n.Load() < 2 {
		t.Error("the set was applied without a second flush")
	}
}

func TestRefusals(t *testing.T) {
	c := shelltest.New(t, shelltest.Config{Seed: 6})
	c.StartAll()
	p := c.Agent(1).Primary()
	set := write(p, rng(), 3)
	p.WaitApplied(set)
	var view wire.View
	var applied wire.Set
	c.State(1, func(st *cluster.State) { view, applied = st.View, st.Groups[shelltest.Group].Applied })
	data := []byte("evil")
	req := func(change func(*apply.Request)) *apply.Request {
		r := &apply.Request{Group: shelltest.Group, Set: applied, View: view, Volume: shelltest.Volume, Pieces: []apply.Piece{{
			Kind: wire.KindWrite, Length: 4, Sum: apply.Sum(data), Data: data,
		}}}
		change(r)
		return r
	}
	s := c.Agent(1).Secondary
	for name, tt := range map[string]struct {
		from wire.AgentID
		req  *apply.Request
		why  string
	}{
		"an applied set":  {1, req(func(*apply.Request) {}), "sets up to"},
		"a set to come":   {1, req(func(r *apply.Request) { r.Set += 1000 }), "can not take writes"},
		"a lower view":    {1, req(func(r *apply.Request) { r.View-- }), "it is of view"},
		"a view to come":  {1, req(func(r *apply.Request) { r.View++ }), "can not take writes"},
		"no member":       {7, req(func(*apply.Request) {}), "is no member"},
		"unknown group":   {1, req(func(r *apply.Request) { r.Group = 9 }), "there is no group 9"},
		"unknown volume":  {1, req(func(r *apply.Request) { r.Volume = 9 }), "volume 9 has no target"},
		"behind the end":  {1, req(func(r *apply.Request) { r.Pieces[0].Offset = shelltest.Size - 3 }), "lies behind the end"},
		"a damaged piece": {1, req(func(r *apply.Request) { r.Pieces[0].Sum++ }), "its data has sum"},
	} {
		if err := s.OnApply(context.Background(), tt.from, tt.req); err == nil || !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%s: %v, want %q", name, err, tt.why)
		}
	}
	p.CheckTarget()
}

// shelf is an exporter that keeps what it is given.
type shelf struct {
	mu      sync.Mutex
	exports map[string]nbd.Export
}

func (s *shelf) AddExport(name string, e nbd.Export) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exports[name] != nil {
		return nbd.ErrExportExists
	}
	s.exports[name] = e
	return nil
}

func (s *shelf) RemoveExport(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.exports, name)
	return nil
}

func (s *shelf) get(name string) nbd.Export {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exports[name]
}

func TestPromotedTargetIsServed(t *testing.T) {
	sh := &shelf{exports: map[string]nbd.Export{}}
	c := shelltest.New(t, shelltest.Config{Seed: 7, Secondary: func(o *secondary.Options) { o.Exports = sh }})
	c.StartAll()
	p := c.Agent(1).Primary()
	p.WaitApplied(write(p, rng(), 20))
	waitFor(c, "a consistent target", func(s secondary.TargetStatus) bool { return s.Condition == secondary.Consistent })
	if sh.get("db/data") != nil {
		t.Fatal("the target is served before it is promoted")
	}
	c.Wait("the promotion", func() (done bool) {
		c.Agent(1).Do(func(n *core.Node) {
			if done = n.State().Groups[shelltest.Group].Phase == cluster.Promoted; !done {
				n.Propose(cluster.Command{Promote: &cluster.Promote{Group: shelltest.Group, Label: 1}})
			}
		})
		return done && sh.get("db/data") != nil
	})
	if size := sh.get("db/data").Info().Size; size != shelltest.Size {
		t.Errorf("the export has %d bytes", size)
	}
	if s := target(c); s.Export != "db/data" || s.Condition != secondary.Promoted {
		t.Errorf("status: %+v", s)
	}
	if r := recordOf(t, c); !strings.Contains(r, `"promoted"`) {
		t.Errorf("record: %s", r)
	}
	// After a restart it is served again.
	c.Stop(1)
	if sh.get("db/data") != nil {
		t.Error("the target is served after the end")
	}
	c.Start(1)
	c.Wait("the export", func() bool { return sh.get("db/data") != nil })
}

func TestTargetOfAnotherVolume(t *testing.T) {
	const foreign = `{"version":1,"cluster":"ff","group":4,"group_name":"old","volume":9,"volume_name":"precious","path":"/target","size":1,"condition":"consistent","applied":3,"run":0}`
	adopt := atomic.Bool{}
	c := shelltest.New(t, shelltest.Config{Seed: 8, Secondary: func(o *secondary.Options) { o.Adopt = adopt.Load() }})
	if err := c.FS(1).MkdirAll("/secondary"); err != nil {
		t.Fatal(err)
	}
	if err := vfs.WriteFileAtomic(c.FS(1), "/secondary/volume-9.target", []byte(foreign)); err != nil {
		t.Fatal(err)
	}
	c.StartAll()
	c.WaitSeen("target.unavailable")
	if s := target(c); s.Open || !strings.Contains(s.Error, `target of volume "precious"`) {
		t.Errorf("status: %+v", s)
	}
	c.Stop(1)
	adopt.Store(true)
	c.Start(1)
	waitFor(c, "the target to be open", func(s secondary.TargetStatus) bool { return s.Open })
	if there, err := vfs.Exists(c.FS(1), "/secondary/volume-9.target"); there || err != nil {
		t.Errorf("the record of the volume that was given up is there: %v, %v", there, err)
	}
}

func TestDeletedVolumeIsGivenBack(t *testing.T) {
	c := shelltest.New(t, shelltest.Config{Seed: 9})
	c.StartAll()
	waitFor(c, "the target to be open", func(s secondary.TargetStatus) bool { return s.Open })
	c.Wait("the volume to be deleted", func() (gone bool) {
		c.Agent(1).Do(func(n *core.Node) {
			if gone = n.State().Groups[shelltest.Group].Volumes[shelltest.Volume] == nil; !gone {
				n.Propose(cluster.Command{DeleteVolume: &cluster.DeleteVolume{Volume: shelltest.Volume}})
			}
		})
		return gone
	})
	c.WaitSeen("target.closed")
	c.Wait("the record to go", func() bool {
		there, err := vfs.Exists(c.FS(1), "/secondary/volume-1.target")
		return err == nil && !there
	})
	if n := len(c.Agent(1).Secondary.Targets()); n != 0 {
		t.Errorf("%d targets are left", n)
	}
}

func TestDamagedRecordStopsTheStart(t *testing.T) {
	c := shelltest.New(t, shelltest.Config{Seed: 10})
	c.StartAll()
	waitFor(c, "the target to be open", func(s secondary.TargetStatus) bool { return s.Open })
	c.Stop(1)
	if err := vfs.WriteFileAtomic(c.FS(1), "/secondary/volume-1.target", []byte("{")); err != nil {
		t.Fatal(err)
	}
	s, err := secondary.New(secondary.Options{FS: c.FS(1), Dir: "/secondary"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(nil); err == nil || !strings.Contains(err.Error(), "it is damaged") {
		t.Errorf("start: %v", err)
	}
	if err := s.OnApply(context.Background(), 1, &apply.Request{Flush: true}); !errors.Is(err, secondary.ErrClosed) {
		t.Errorf("apply to a secondary that did not start: %v", err)
	}
}
