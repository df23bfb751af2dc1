package primary_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/primary"
	"flotilla/agent/vfs/crashfs"
)

// spilling are limits that a few writes reach, with a spool.
var spilling = primary.Limits{
	Extent: 64 << 10, PaceMark: 1 << 20, SpillMark: 2 << 20, QueueLimit: 4 << 20, SpoolSegment: 1 << 20, StallAfter: 10 * time.Second, SuspendFor: 5 * time.Second,
}

// newSpillWorld makes a world whose group may spill, and waits until its volume is copied. What was told by then is forgotten.
func newSpillWorld(t *testing.T, limits primary.Limits, size int64) *world {
	w := newWorld(t, cluster.Async, limits, volumeSpec{"a", size})
	spool := int64(64 << 20)
	w.propose(cluster.Command{SetGroup: &cluster.SetGroup{Group: groupID, Spool: &spool}})
	w.scribble(1, 1, 2, 20)
	w.settled()
	w.eventually("the first copy overloads nothing", func() bool { return w.group().Step == "" })
	w.setFault(func() { w.told, w.events = nil, nil }) // it may have, for a moment
	return w
}

// stop has the link take no frames; what it returns ends that.
func (w *world) stop() (heal func()) {
	room := make(chan struct{})
	w.setFault(func() { w.noRoom = room })
	return func() {
		w.setFault(func() { w.noRoom = nil })
		close(room)
	}
}

// overloads returns the steps that were told, and the newest event of each.
func (w *world) overloads() (steps []string, last map[string]map[string]any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last = map[string]map[string]any{}
	for _, e := range w.told {
		name, ok := strings.CutPrefix(e.Name, "overload.")
		if !ok {
			continue
		}
		steps = append(steps, name)
		last[name] = map[string]any{}
		for i := 0; i+1 < len(e.Attrs); i += 2 {
			last[name][e.Attrs[i].(string)] = e.Attrs[i+1]
		}
	}
	return steps, last
}

// pour writes so many pieces of 64 KiB, none twice, from several writers. It returns the slowest write, and the most memory
// that the queue took.
func (w *world) pour(first, pieces, writers int) (slowest time.Duration, most int64) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var next atomic.Int64
	for range writers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= pieces {
					return
				}
				at := time.Now()
				w.write(1, int64(first+i)*65536, bytes.Repeat([]byte{byte(first + i), byte(i >> 8)}, 32<<10))
				took := time.Since(at)
				v, _ := w.view()
				mu.Lock()
				slowest, most = max(slowest, took), max(most, primary.Load(v))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return slowest, most
}

// emptied waits until the spool takes nothing.
func (w *world) emptied() {
	w.t.Helper()
	w.eventually("the spool is empty", func() bool {
		return w.host.p.Status().Spool == 0 && w.group().Step == ""
	})
	if names, _ := w.fs.List("/state/primary/spool"); len(names) != 0 {
		w.t.Errorf("the spool has files with names: %v", names)
	}
}

// TestSpill stops the link while many times what memory may take is written: writers are delayed for a moment only, memory stays
// below the mark, nothing is suspended, and when the link is back everything arrives.
func TestSpill(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newSpillWorld(t, spilling, 64<<20)
		heal := w.stop()
		begin := time.Now()
		const writers = 4
		slowest, most := w.pour(0, 640, writers) // 40 MiB
		took := time.Since(begin)
		if limit := spilling.SpillMark + writers*(64<<10+64) + 64<<10; most > limit {
			t.Errorf("the queue took %d bytes of memory, want at most %d", most, limit)
		}
		v, _ := w.view()
		if v.Queued < 40<<20 || v.Spilled < 36<<20 {
			t.Errorf("%d bytes are queued, %d of them spilled", v.Queued, v.Spilled)
		}
		// 640 writes of up to 1 s, if each were delayed as without a spool.
		if slowest > 400*time.Millisecond || took > 20*time.Second {
			t.Errorf("the slowest write took %v, all of them %v", slowest, took)
		}
		w.eventually("the step", func() bool { return w.group().Step == "spill" && w.group().Delay == 0 })
		steps, last := w.overloads()
		if !slices.Equal(steps, []string{"pace", "spill"}) {
			t.Errorf("steps %v", steps)
		}
		for _, step := range steps {
			if in, ok := last[step]["full_in_seconds"].(float64); !ok || in <= 0 {
				t.Errorf("%s: full in %v", step, last[step])
			}
		}
		var told *core.Overload
		w.eventually("the captain hears of it", func() bool {
			w.host.loop.View(func(n *core.Node) {
				for _, gs := range n.Heard()[1].Status.Groups {
					told = gs.Overload
				}
			})
			return told != nil && told.Step == "spill" && told.Spool == 64<<20 && told.Spooled >= 36<<20
		})
		heal()
		w.settled()
		w.emptied()
		if steps, _ := w.overloads(); !slices.Equal(steps, []string{"pace", "spill", "over"}) {
			t.Errorf("steps %v", steps)
		}
		w.eventually("the captain hears that it is over", func() (over bool) {
			w.host.loop.View(func(n *core.Node) { over = n.Heard()[1].Status.Groups[0].Overload == nil })
			return over
		})
		w.shut()
	})
}

// TestSpillAgain: what is sent while more is written gives its space back, so that a spool takes many times its size; also with
// frames that are lost and sent again.
func TestSpillAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		limits := spilling
		limits.SpoolTotal = 12 << 20
		w := newSpillWorld(t, limits, 80<<20)
		for round := range 8 {
			heal := w.stop()
			w.pour(round*160, 160, 4) // 10 MiB
			if round%2 == 1 {
				w.setFault(func() { w.linkDown = true })
			}
			heal()
			time.Sleep(4 * time.Second)
			w.setFault(func() { w.linkDown = false })
			w.eventually("half is sent", func() bool { v, _ := w.view(); return v.Queued < 5<<20 })
			if n := w.host.p.Status().Spool; n > limits.SpoolTotal {
				t.Fatalf("the spool takes %d bytes", n)
			}
		}
		if w.saw("overload.suspend") {
			t.Error("the group was suspended")
		}
		w.settled()
		w.emptied()
		w.shut()
	})
}

// TestFullSpool: near its end writers are delayed again, but not more than is stated; then the group is suspended. No write fails.
func TestFullSpool(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		limits := spilling
		limits.SpoolTotal = 16 << 20
		w := newSpillWorld(t, limits, 64<<20)
		heal := w.stop()
		var slowest time.Duration
		for i := 0; !w.group().Suspended; i++ {
			if i == 1000 {
				t.Fatal("the group is not suspended")
			}
			at := time.Now()
			w.write(1, int64(i)*65536, bytes.Repeat([]byte{byte(i)}, 64<<10))
			slowest = max(slowest, time.Since(at))
			if n := w.host.p.Status().Spool; n > limits.SpoolTotal {
				t.Fatalf("the spool takes %d bytes", n)
			}
		}
		if slowest < 100*time.Millisecond || slowest > time.Second+100*time.Millisecond {
			t.Errorf("the slowest write took %v; the stated ceiling is 1 s", slowest)
		}
		w.eventually("all is told", func() bool { return w.saw("overload.suspend") && w.saw("overload.over") })
		steps, last := w.overloads()
		if !slices.Equal(steps, []string{"pace", "spill", "pace", "suspend", "over"}) {
			t.Errorf("steps %v", steps)
		}
		if s := last["suspend"]; s["full_in_seconds"] != 0.0 || s["spooled_bytes"].(int64) < 14<<20 {
			t.Errorf("suspended with %v", s)
		}
		w.eventually("the spool is given back", func() bool { return w.host.p.Status().Spool == 0 })
		heal()
		w.settled()
		w.emptied()
		w.shut()
	})
}

// TestSpoolDiskFails makes each operation of the spool fail. While it is written nothing comes of it but that writers are delayed:
// what could not be written is in memory. What can not be read back suspends the group, and is copied.
func TestSpoolDiskFails(t *testing.T) {
	for _, kind := range []crashfs.Kind{crashfs.Space, crashfs.Create, crashfs.Remove, crashfs.Allocate, crashfs.Write, crashfs.Read} {
		for _, fault := range []error{syscall.EIO, syscall.ENOSPC} {
			for _, late := range []bool{false, true} {
				if testing.Short() && late == (fault == syscall.EIO) { // as under the race detector: half of them
					continue
				}
				t.Run(fmt.Sprintf("%s %v late %v", kind, fault, late), func(t *testing.T) {
					inBubble(t, func(t *testing.T) {
						w := newSpillWorld(t, spilling, 32<<20)
						fail := func() {
							w.fs.(*crashfs.FS).SetHook(func(op crashfs.Op) error {
								if op.Kind == kind && strings.Contains(op.Name, "spool") {
									return fault
								}
								return nil
							})
						}
						heal := w.stop()
						if !late {
							fail()
						}
						w.pour(0, 40, 1)
						if late {
							fail()
						}
						w.pour(40, 24, 1) // in memory, if need be
						time.Sleep(spilling.StallAfter / 2)
						if w.saw("overload.suspend") {
							t.Error("the group was suspended while it was written")
						}
						heal()
						read, full := kind == crashfs.Read, fault == syscall.ENOSPC
						if failed := read || !full; failed {
							w.eventually("it is told", func() bool { return w.saw("spool.failed") })
							if faults := w.host.p.Faults(); len(faults) != 1 || faults[0].Name != primary.SpoolFailed || !strings.Contains(faults[0].Text, fault.Error()) {
								t.Errorf("faults %+v", faults)
							}
						}
						if read {
							w.eventually("it is suspended", func() bool { return w.saw("overload.suspend") })
						}
						w.fs.(*crashfs.FS).SetHook(nil)
						w.settled()
						if kind == crashfs.Remove {
							w.fs.Remove("/state/primary/spool/1.spool") // an empty file may have kept its name
						}
						w.emptied()
						if !read && (w.saw("overload.suspend") || (full && w.saw("spool.failed"))) {
							t.Errorf("events %v", w.events)
						}
						w.shut()
					})
				})
			}
		}
	}
}

// TestSpoolIsGivenBack ends the use of a full spool in each way that there is.
func TestSpoolIsGivenBack(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(w *world)
	}{
		{"suspend", func(w *world) {
			w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Suspend(now, groupID) })
		}},
		{"end of the incarnation", func(w *world) {
			v, _ := w.view()
			w.propose(cluster.Command{End: &cluster.End{Group: groupID, Inc: v.Inc}})
		}},
		{"promote", func(w *world) {
			w.propose(cluster.Command{Promote: &cluster.Promote{Group: groupID}})
		}},
		{"deletion", func(w *world) {
			w.propose(cluster.Command{DeleteVolume: &cluster.DeleteVolume{Volume: 1}})
		}},
		{"close", func(w *world) { w.shut() }},
		{"death", func(w *world) {
			w.fs.(*crashfs.FS).PowerCut()
			w.die()
			w.fs.(*crashfs.FS).Restart()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newSpillWorld(t, spilling, 32<<20)
				heal := w.stop()
				w.pour(0, 256, 2)
				if st := w.host.p.Status(); st.Spool < 12<<20 {
					t.Fatalf("the spool takes %d bytes", st.Spool)
				}
				tc.end(w)
				w.eventually("the spool takes nothing", func() bool { return w.host.p.Status().Spool == 0 })
				heal()
				if names, _ := w.fs.List("/state/primary/spool"); len(names) != 0 {
					t.Errorf("files are left: %v", names)
				}
				switch tc.name {
				case "suspend":
					w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Unsuspend(now, groupID) })
					w.settled()
				case "end of the incarnation":
					w.settled()
				case "close", "death":
					w.start()
					w.settled()
				}
				w.die()
			})
		})
	}
}

// TestSpoolSwitchedOff has the operator take the spool away while it is in use: what is in it is sent, and nothing more goes there.
func TestSpoolSwitchedOff(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newSpillWorld(t, spilling, 32<<20)
		heal := w.stop()
		w.pour(0, 128, 2)
		none := int64(cluster.NoSpool)
		w.propose(cluster.Command{SetGroup: &cluster.SetGroup{Group: groupID, Spool: &none}})
		w.eventually("writers are delayed", func() bool { return w.group().Step == "pace" })
		v, _ := w.view()
		w.pour(128, 16, 1)
		if after, _ := w.view(); after.Spilled != v.Spilled {
			t.Errorf("%d bytes were spilled, then %d", v.Spilled, after.Spilled)
		}
		heal()
		w.settled()
		w.emptied()
		w.shut()
	})
}

// TestSpillOpenSet: where one set is larger than memory may be, it is spilled though it may still be folded; what is folded then
// gives its space back.
func TestSpillOpenSet(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newSpillWorld(t, spilling, 32<<20)
		w.propose(cluster.Command{SetGroup: &cluster.SetGroup{Group: groupID, PeriodMS: 3600_000}})
		heal := w.stop()
		v, _ := w.view()
		open := v.Open
		w.pour(0, 200, 2)
		v, _ = w.view()
		if v.Open > open+1 || v.Spilled < 9<<20 {
			t.Fatalf("in set %d, of %d open before, %d bytes are spilled", v.Open, open, v.Spilled)
		}
		before := v.Spilled
		w.pour(0, 100, 1) // again
		if v, _ = w.view(); v.Folded < 90 || v.Spilled > before {
			t.Errorf("%d are folded, %d bytes spilled and %d before", v.Folded, v.Spilled, before)
		}
		w.propose(cluster.Command{SetGroup: &cluster.SetGroup{Group: groupID, PeriodMS: 50}})
		heal()
		w.settled()
		w.emptied()
		w.shut()
	})
}
