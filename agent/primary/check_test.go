package primary_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/primary"
	"flotilla/blockdev"
	"flotilla/blockdev/faulty"
	"flotilla/wire"
)

// check runs a check to its end and returns what the state then says of it.
func (w *world) check(start cluster.StartCheck) cluster.Check {
	w.t.Helper()
	_, g := w.view()
	start.Group = groupID
	w.propose(cluster.Command{StartCheck: &start})
	return w.checkEnds(g.LastCheck() + 1)
}

func (w *world) checkEnds(number uint64) (c cluster.Check) {
	w.t.Helper()
	w.eventually("the check to end", func() (ended bool) {
		w.host.loop.View(func(n *core.Node) {
			g := n.State().Groups[groupID]
			if ended = g.LastCheck() == number && !g.Checking(); ended {
				c = *g.Check
			}
		})
		return ended
	})
	return c
}

// load changes a volume without a pause until the returned function is called. Only blocks of 4 KiB with an even index
// are changed.
func (w *world) load(seed uint64, id wire.VolumeID) (stop func()) {
	size := w.sizeOf(id)
	rng := rand.New(rand.NewPCG(seed, 5))
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			off := rng.Int64N(size/8192)*8192 + rng.Int64N(8)*512
			// A source that fails is the test's own doing.
			_ = w.request(writeOf(off, bytes.Repeat([]byte{byte(rng.Uint32())}, 512)), id)
			time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond)
		}
	})
	return func() { cancel(); done.Wait() }
}

// flip changes one bit on a target behind everybody's back, in a block that load does not change.
func (w *world) flip(rng *rand.Rand, id wire.VolumeID) (at int64) {
	size := w.targets[id].Size()
	at = rng.Int64N(size/8192)*8192 + 4096 + rng.Int64N(4096)
	var b [1]byte
	if _, err := w.targets[id].ReadAt(b[:], at); err != nil {
		w.t.Fatal(err)
	}
	b[0] ^= 1 << rng.IntN(8)
	if _, err := w.targets[id].WriteAt(b[:], at); err != nil {
		w.t.Fatal(err)
	}
	return at
}

// mended compares bytes of volume 1 right away.
func (w *world) mended(at []int64) {
	w.t.Helper()
	for _, off := range at {
		var want, have [1]byte
		if _, err := w.sources["/src/a"].ReadAt(want[:], off); err != nil {
			w.t.Fatal(err)
		}
		if _, err := w.targets[1].ReadAt(have[:], off); err != nil || want != have {
			w.t.Errorf("the byte at %d, which was repaired, is %v on the source and %v on the target, %v", off, want, have, err)
		}
	}
}

const checkedSize = 5<<19 + 512

func TestCheckFindsAndRepairs(t *testing.T) {
	for _, mode := range []cluster.Mode{cluster.Async, cluster.Sync} {
		t.Run(mode.String(), func(t *testing.T) {
			seed := seedOf(t)
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, mode, small, volumeSpec{"a", checkedSize}, volumeSpec{"b", 1 << 20})
				w.scribble(seed, 1, 4, 30)
				w.settled()
				w.lag = 20 * time.Millisecond
				stop := w.load(seed, 1)
				rng := rand.New(rand.NewPCG(seed, 6))
				for range primary.Rounds(15) {
					if c := w.check(cluster.StartCheck{}).Parts[0].Tally; c.Differing+c.Unknown != 0 || c.Done != c.Total || c.Total != checkedSize+1<<20 {
						t.Fatalf("nothing is wrong: %+v", c)
					}
				}
				for range primary.Rounds(10) {
					flipped, flips := map[int64]bool{}, []int64{}
					for range 1 + rng.IntN(3) {
						at := w.flip(rng, 1)
						flipped[at/(256<<10)], flips = true, append(flips, at)
					}
					for _, repair := range []bool{false, true, false} {
						c := w.check(cluster.StartCheck{Volume: 1, Repair: repair}).Parts[0].Tally
						if len(c.Found) != len(flipped) || c.Total != checkedSize {
							t.Fatalf("%d pieces have a wrong bit, found %+v", len(flipped), c)
						}
						for _, f := range c.Found {
							if !flipped[int64(f.Offset)/(256<<10)] || f.Volume != 1 || f.Repaired != repair {
								t.Fatalf("found %+v, want one of %v, repaired %v", f, flipped, repair)
							}
						}
						if repair {
							w.mended(flips)
							clear(flipped)
							if c.Repaired != c.Differing {
								t.Fatalf("repaired %d bytes of %d", c.Repaired, c.Differing)
							}
						}
					}
				}
				stop()
				w.settled()
				for _, e := range []string{"check.started", "check.progress", "check.differs", "check.repaired", "check.ended"} {
					if !w.saw(e) {
						t.Errorf("no event %s", e)
					}
				}
				w.shut()
			})
		})
	}
}

// Answers that are lost, or say that nothing is known, are asked for again; those that never come are counted.
func TestCheckAsksAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small, volumeSpec{"a", 1 << 20})
		w.settled()
		n := 0
		w.verdict = func(v core.CheckVerdict) core.CheckVerdict {
			if n++; n%3 != 0 {
				return []core.CheckVerdict{0, core.CheckUnknown}[n%3-1]
			}
			return v
		}
		rng := rand.New(rand.NewPCG(1, 1))
		w.flip(rng, 1)
		if c := w.check(cluster.StartCheck{}).Parts[0].Tally; len(c.Found) != 1 || c.Unknown != 0 || c.Done != c.Total {
			t.Errorf("with answers lost: %+v", c)
		}
		w.verdict = func(core.CheckVerdict) core.CheckVerdict { return core.CheckUnknown }
		if c := w.check(cluster.StartCheck{}).Parts[0].Tally; c.Unknown != 1<<20 || c.Done != c.Total {
			t.Errorf("without an answer: %+v", c)
		}
		w.verdict = func(core.CheckVerdict) core.CheckVerdict { return core.CheckUnreadable }
		if c := w.check(cluster.StartCheck{Repair: true}).Parts[0].Tally; c.Differing != 1<<20 || c.Repaired != 0 || !c.Found[0].Unreadable {
			t.Errorf("a target that can not be read: %+v", c)
		}
		w.verdict = nil
		w.settled()
		w.shut()
	})
}

// lingering is a source whose writes take a while after what they write can be read.
type lingering struct{ blockdev.Device }

func (l lingering) WriteAt(p []byte, off int64) (int, error) {
	n, err := l.Device.WriteAt(p, off)
	time.Sleep(2 * time.Millisecond)
	return n, err
}

// Between writes that have changed the source and are in no update yet, and ranges that wait to be copied because writes
// failed, a check finds nothing.
func TestCheckBesideWritesAndCopies(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		limits := small
		limits.CopyRate = 512 << 10
		w := newWorld(t, cluster.Async, limits, volumeSpec{"a", 2 << 20})
		source := faulty.New(lingering{blockdev.NewMemory(2 << 20)})
		w.shut()
		w.setFault(func() { w.sources["/src/a"] = source })
		w.start()
		w.settled()
		stop := w.load(3, 1)
		torn, end := context.WithCancel(context.Background())
		var done sync.WaitGroup
		done.Go(func() {
			for torn.Err() == nil {
				time.Sleep(1200 * time.Millisecond)
				source.Inject(faulty.Fault{Op: faulty.Write, Times: 5, Transfer: 300}) // what is on the source then is in no update
			}
		})
		for range 20 {
			if c := w.check(cluster.StartCheck{Rate: 4 << 20}).Parts[0].Tally; c.Differing+c.Unknown != 0 || c.Done != c.Total {
				t.Errorf("nothing is wrong: %+v", c)
			}
		}
		end()
		done.Wait()
		stop()
		w.settled()
		w.shut()
	})
}

// A check goes on over suspensions and new incarnations; a restarted primary begins anew.
func TestCheckOverIncarnations(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		limits := small
		limits.SuspendFor = 300 * time.Millisecond
		w := newWorld(t, cluster.Async, limits, volumeSpec{"a", 8 << 20})
		w.settled()
		stop := w.load(3, 1)
		rng := rand.New(rand.NewPCG(1, 1))
		w.propose(cluster.Command{StartCheck: &cluster.StartCheck{Group: groupID, Rate: 1 << 20}})
		for range 5 {
			time.Sleep(time.Duration(500+rng.IntN(500)) * time.Millisecond)
			w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Suspend(now, groupID) })
			time.Sleep(time.Duration(200+rng.IntN(500)) * time.Millisecond)
			w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Unsuspend(now, groupID) })
		}
		if c := w.checkEnds(1).Parts[0].Tally; c.Differing+c.Unknown != 0 || c.Done != c.Total {
			t.Errorf("over incarnations: %+v", c)
		}
		w.propose(cluster.Command{StartCheck: &cluster.StartCheck{Group: groupID, Rate: 1 << 20}})
		time.Sleep(2 * time.Second)
		stop()
		w.shut()
		w.start()
		stop = w.load(4, 1)
		if c := w.checkEnds(2).Parts[0].Tally; c.Differing+c.Unknown != 0 || c.Done != 8<<20 {
			t.Errorf("over a restart: %+v", c)
		}
		stop()
		w.settled()
		w.shut()
	})
}

func TestCheckIsStoppedAndThrottled(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, primary.Limits{CheckRate: 1 << 20}, volumeSpec{"a", 4 << 20})
		w.settled()
		began := time.Now()
		w.check(cluster.StartCheck{})
		if d := time.Since(began); d < 3500*time.Millisecond || d > 6*time.Second {
			t.Errorf("4 MiB at 1 MiB/s took %v", d)
		}
		w.propose(cluster.Command{StartCheck: &cluster.StartCheck{Group: groupID}})
		time.Sleep(time.Second)
		w.propose(cluster.Command{StopCheck: &cluster.StopCheck{Group: groupID}})
		w.eventually("the end of it", func() bool { _, g := w.view(); return g.Check.Stopped })
		time.Sleep(10 * time.Second)
		if _, g := w.view(); g.Check.Parts[0].Ended {
			t.Error("a check that was stopped has ended")
		}
		// By itself, every minute.
		w.propose(cluster.Command{SetGroup: &cluster.SetGroup{Group: groupID, Schedule: &cluster.CheckSchedule{CheckEvery: 60, CheckRate: 4 << 20}}})
		time.Sleep(2 * time.Minute)
		if _, g := w.view(); g.LastCheck() < 3 || g.LastCheck() > 5 || !g.Check.Scheduled {
			t.Errorf("after two minutes: %+v", g.Check)
		}
		w.shut()
	})
}
