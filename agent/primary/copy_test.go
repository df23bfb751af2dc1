package primary_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/primary"
	"flotilla/agent/vfs/crashfs"
	"flotilla/blockdev"
	"flotilla/blockdev/faulty"
	"flotilla/wire"
)

// TestFirstCopyUnderWrites copies a source with data, zeroes and holes while it is written, in extents that are smaller
// and larger than what is copied in one piece.
func TestFirstCopyUnderWrites(t *testing.T) {
	for _, extent := range []int64{64 << 10, 4 << 20} {
		t.Run(sizeName(extent), func(t *testing.T) {
			seed := seedOf(t)
			inBubble(t, func(t *testing.T) {
				const size = 24<<20 + 4096
				src := blockdev.NewMemory(size)
				rng := rand.New(rand.NewPCG(seed, 9))
				for range 100 { // a third is data, some of it zeroes that are written
					data := make([]byte, 4096*(1+rng.IntN(40)))
					if rng.IntN(3) > 0 {
						for i := range data {
							data[i] = byte(rng.Uint32())
						}
					}
					if _, err := src.WriteAt(data, rng.Int64N((size-int64(len(data)))/512)*512); err != nil {
						t.Fatal(err)
					}
				}
				w := newWorld(t, cluster.Async, primary.Limits{Extent: extent, CopyRate: 20 << 20})
				w.sources["/src/a"] = src
				w.targets[1] = blockdev.NewMemory(size)
				// The target holds something else, so that a range that is not copied is seen.
				if _, err := w.targets[1].WriteAt(bytes.Repeat([]byte{0xee}, size), 0); err != nil {
					t.Fatal(err)
				}
				w.propose(*w.createVolume(volumeSpec{"a", size}))
				w.attached()
				w.scribble(seed, 1, 4, 100)
				if st := w.group().Volumes[0]; st.ToCopy == 0 {
					t.Error("the copy was whole before the writes: the test shows nothing")
				}
				w.settled()
				if !w.saw("copy.whole") {
					t.Error("no event")
				}
				w.shut()
			})
		})
	}
}

// addFilled gives the world, which has no volume yet, one whose source is full of data.
func (w *world) addFilled(name string, size int64) *blockdev.Memory {
	w.t.Helper()
	src := blockdev.NewMemory(size)
	block := make([]byte, 64<<10)
	for i := range block {
		block[i] = byte(i%251 + 1)
	}
	for off := int64(0); off < size; off += int64(len(block)) {
		binary.LittleEndian.PutUint64(block, uint64(off)+1)
		if _, err := src.WriteAt(block[:min(int64(len(block)), size-off)], off); err != nil {
			w.t.Fatal(err)
		}
	}
	w.sources["/src/"+name] = src
	w.targets[1] = blockdev.NewMemory(size)
	w.propose(*w.createVolume(volumeSpec{name, size}))
	return src
}

func sizeName(n int64) string {
	if n < 1<<20 {
		return "small-extents"
	}
	return "large-extents"
}

// TestResyncIsBroken: while a resync is under way no recovery point comes out of it, and after it they do.
func TestResyncIsBroken(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		limits := small
		limits.CopyRate = 1 << 20
		w := newWorld(t, cluster.Async, limits, volumeSpec{"a", 4 << 20})
		w.scribble(1, 1, 2, 20)
		w.settled()
		w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Suspend(now, groupID) })
		w.eventually("it is detached", func() bool { v, _ := w.view(); return v.Inc == 0 })
		w.write(1, 0, bytes.Repeat([]byte{5}, 3<<20))
		time.Sleep(2 * time.Second) // what is held of the old incarnation is sealed and applied
		_, before := w.view()
		w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Unsuspend(now, groupID) })
		w.attached()
		time.Sleep(time.Second) // 20 periods
		_, during := w.view()
		if w.group().Volumes[0].ToCopy == 0 {
			t.Fatal("the resync was whole too soon: the test shows nothing")
		}
		if during.Committed != before.Committed {
			t.Errorf("sets up to %d were committed in the middle of a resync", during.Committed)
		}
		w.settled()
		w.shut()
	})
}

// TestFailedWriteBreaksNoSet: sets go on to be recovery points while what a failed write left on the source can not be
// copied.
func TestFailedWriteBreaksNoSet(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small)
		dev := faulty.New(blockdev.NewMemory(4 << 20))
		w.sources["/src/a"] = dev
		w.targets[1] = blockdev.NewMemory(4 << 20)
		w.propose(*w.createVolume(volumeSpec{"a", 4 << 20}))
		w.sizeOf(1)
		w.write(1, 0, bytes.Repeat([]byte{1}, 65536))
		w.settled()
		time.Sleep(time.Second)
		// One of the two is copied, and the node is told how the copies stand; the other can not be read.
		heal := dev.Inject(faulty.Fault{Op: faulty.Read, Offset: 3 << 20, Length: 4096, Times: -1})
		dev.Inject(faulty.Fault{Op: faulty.Write, Transfer: 1000, Times: 2})
		for _, off := range []int64{3 << 20, 0} {
			if err := w.request(writeOf(off, bytes.Repeat([]byte{2}, 4096)), 1); err == nil {
				t.Fatal("the source failed and the client was told success")
			}
		}
		time.Sleep(2 * time.Second)
		w.write(1, 2<<20, bytes.Repeat([]byte{3}, 4096))
		_, before := w.view()
		time.Sleep(2 * time.Second)
		_, during := w.view()
		if w.group().Volumes[0].ToCopy == 0 {
			t.Fatal("what failed was copied too soon: the test shows nothing")
		}
		if during.Committed < before.Committed+5 || during.Point.Set < before.Committed {
			t.Errorf("committed is %d and was %d, the targets are at %d: the failed write keeps sets back", during.Committed, before.Committed, during.Point.Set)
		}
		heal()
		w.settled()
		w.shut()
	})
}

// TestUnreadableExtents: what can not be read is put aside and named, everything else of both volumes is copied, and the
// rest when it is mended, by writing to it or by itself.
func TestUnreadableExtents(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const size = 4 << 20
		w := newWorld(t, cluster.Async, small)
		devs := map[string]*faulty.Device{}
		for i, name := range []string{"a", "b"} {
			devs[name] = faulty.New(blockdev.NewMemory(size))
			w.sources["/src/"+name] = devs[name]
			w.targets[wire.VolumeID(i+1)] = blockdev.NewMemory(size)
			if _, err := devs[name].WriteAt(bytes.Repeat([]byte{3}, size), 0); err != nil {
				t.Fatal(err)
			}
		}
		a := devs["a"]
		bad := a.Inject(faulty.Fault{Op: faulty.Read, Offset: 100 << 10, Length: 4096, Times: -1})
		worse := a.Inject(faulty.Fault{Op: faulty.Read, Offset: size - 4096, Length: 4096, Times: -1})
		w.propose(*w.createVolume(volumeSpec{"a", size}))
		w.propose(*w.createVolume(volumeSpec{"b", size}))
		unreadable := func() []primary.Range {
			st := w.group()
			if len(st.Volumes) != 2 || st.Volumes[1].ToCopy != 0 || st.Volumes[0].ToCopy > 2*small.Extent {
				return nil
			}
			if n := st.Volumes[0].Unreadable; n != len(st.Volumes[0].UnreadableAt) {
				t.Fatalf("%d extents can not be read, listed are %v", n, st.Volumes[0].UnreadableAt)
			}
			return st.Volumes[0].UnreadableAt
		}
		first := primary.Range{Offset: (100 << 10) / small.Extent * small.Extent, Length: small.Extent}
		last := primary.Range{Offset: size - small.Extent, Length: small.Extent}
		w.eventually("all but two extents are copied", func() bool { return slices.Equal(unreadable(), []primary.Range{first, last}) })
		if !w.saw("source.unreadable") {
			t.Error("no event names it")
		}
		f := w.host.p.Faults()
		if len(f) != 1 || f[0].Name != primary.SourceUnreadable || f[0].Volume != 1 || !strings.HasSuffix(f[0].Text, fmt.Sprintf("at %v, %v", first, last)) {
			t.Errorf("faults: %v", f)
		}
		reads := a.Calls(faulty.Read)
		time.Sleep(10 * time.Second)
		if again := a.Calls(faulty.Read) - reads; again == 0 || again > 20 {
			t.Errorf("it was read %d times in 10 s", again)
		}
		bad()
		w.eventually("the mended extent is copied", func() bool { return slices.Equal(unreadable(), []primary.Range{last}) })
		worse()
		w.settled()
		if st := w.group().Volumes[0]; st.Unreadable != 0 {
			t.Errorf("%d extents still count as unreadable", st.Unreadable)
		}
		time.Sleep(2 * time.Minute)
		if f := w.host.p.Faults(); len(f) > 0 {
			t.Errorf("faults two minutes after the last error: %v", f)
		}
		w.shut()
	})
}

// TestUnreadableSource: a copy that meets an error goes on once it is mended. Until then the fault stands, however seldom it
// is tried again.
func TestUnreadableSource(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small)
		dev := faulty.New(blockdev.NewMemory(4 << 20))
		w.sources["/src/a"] = dev
		w.targets[1] = blockdev.NewMemory(4 << 20)
		if _, err := dev.WriteAt(bytes.Repeat([]byte{3}, 1<<20), 0); err != nil {
			t.Fatal(err)
		}
		heal := dev.Inject(faulty.Fault{Op: faulty.Read, Offset: 100 << 10, Length: 4096, Times: -1})
		w.propose(*w.createVolume(volumeSpec{"a", 4 << 20}))
		w.eventually("the error shows", func() bool {
			st := w.group()
			return len(st.Volumes) == 1 && st.Volumes[0].Error != ""
		})
		for range primary.Rounds(28) {
			time.Sleep(4900 * time.Millisecond)
			f := w.host.p.Faults()
			if len(f) != 1 || f[0].Name != primary.SourceUnreadable || f[0].For < 4*time.Second {
				t.Fatalf("faults: %v", f)
			}
		}
		heal()
		w.settled() // at the next try, which is within two minutes
		w.shut()
	})
}

// TestVolumesComeAndGo creates and deletes volumes while the group replicates.
func TestVolumesComeAndGo(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small, volumeSpec{"a", 4 << 20})
		w.scribble(1, 1, 2, 20)
		w.settled()
		v, _ := w.view()
		// A volume whose source is missing does not hold up the others, and is tried again.
		w.setFault(func() {
			w.addVolume(1, volumeSpec{"b", 2 << 20})
			w.opened["/src/b"] = blockdev.ErrInUse
		})
		w.propose(*w.createVolume(volumeSpec{"b", 2 << 20}))
		w.eventually("the failure shows", func() bool {
			st := w.group()
			return len(st.Volumes) == 2 && st.Volumes[1].Error != "" && w.saw("volume.unavailable")
		})
		w.scribble(2, 1, 2, 20)
		w.setFault(func() { delete(w.opened, "/src/b") })
		w.scribble(3, 2, 2, 20)
		w.settled()
		if now, _ := w.view(); now.Inc != v.Inc {
			t.Error("a new volume cost the incarnation")
		}
		w.propose(cluster.Command{DeleteVolume: &cluster.DeleteVolume{Volume: 1}})
		w.eventually("it is closed", func() bool { return w.host.p.Export(1) == nil && w.saw("volume.closed") })
		if _, err := w.fs.Open("/state/primary/1.bits"); err == nil {
			t.Error("its activity log stays behind")
		}
		w.scribble(4, 2, 2, 20)
		w.settled()
		w.propose(cluster.Command{DeleteVolume: &cluster.DeleteVolume{Volume: 2}})
		w.eventually("the group is gone", func() bool { return len(w.host.p.Status().Groups) == 0 })
		w.shut()
	})
}

// TestWrongSizeIsRefused: a source of another size than the volume's is never opened.
func TestWrongSizeIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small)
		w.addVolume(0, volumeSpec{"a", 4 << 20})
		w.propose(*w.createVolume(volumeSpec{"a", 8 << 20}))
		w.eventually("the failure shows", func() bool { return w.saw("volume.unavailable") })
		if w.host.p.Export(1) != nil {
			t.Error("it is open")
		}
		if v, _ := w.view(); v.Inc != 0 {
			t.Error("a group without its volumes has attached")
		}
		w.shut()
	})
}

// TestResyncRate: the group's ceiling counts as soon as it is set, and what is told of the copy agrees with it.
func TestResyncRate(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, primary.Limits{})
		w.propose(cluster.Command{SetGroup: &cluster.SetGroup{Group: groupID, ResyncRate: new(int64(1 << 20))}})
		w.addFilled("a", 40<<20)
		w.attached()
		began := time.Now()
		time.Sleep(20 * time.Second)
		st := w.group().Volumes[0]
		if done := st.Total - st.ToCopy; !st.First || st.Total != 40<<20 || done < 19<<20 || done > 22<<20 {
			t.Errorf("after 20 s at 1 MiB/s: %+v", st)
		}
		if st.Rate < 0.9*(1<<20) || st.Rate > 1.15*(1<<20) {
			t.Errorf("the rate is %.0f bytes a second", st.Rate)
		}
		w.host.loop.View(func(n *core.Node) {
			if c := n.Heard()[1].Status.Groups[0].Copies; len(c) != 1 || c[0].Volume != 1 || !c[0].First || c[0].Total != 40<<20 || c[0].Left > 22<<20 || c[0].Rate < 1<<19 {
				t.Errorf("the captain is told %+v", c)
			}
		})
		w.propose(cluster.Command{SetGroup: &cluster.SetGroup{Group: groupID, ResyncRate: new(int64(5 << 20))}})
		w.settled()
		if d := time.Since(began); d < 23*time.Second || d > 26*time.Second {
			t.Errorf("40 MiB took %v, want 20 s for the first half and 4 s for the second", d)
		}
		w.eventually("the captain is told that the copy is over", func() (over bool) {
			w.host.loop.View(func(n *core.Node) { over = len(n.Heard()[1].Status.Groups[0].Copies) == 0 })
			return over
		})
		w.mu.Lock()
		told := slices.Clone(w.told)
		w.mu.Unlock()
		var percents []int64
		for _, e := range told {
			if e.Name == "copy.progress" {
				percents = append(percents, attr(t, e, "percent").(int64))
				if left, rate := attr(t, e, "seconds_left").(int64), attr(t, e, "bytes_per_second").(int64); left < 1 || left > 40 || rate < 1<<19 {
					t.Errorf("%v", e)
				}
			}
		}
		if len(percents) < 6 || percents[0] != 10 || !slices.IsSorted(percents) {
			t.Errorf("the events tell of %v percent", percents)
		}
		w.shut()
	})
}

func attr(t *testing.T, e core.Event, key string) any {
	t.Helper()
	for i := 0; i+1 < len(e.Attrs); i += 2 {
		if e.Attrs[i] == key {
			return e.Attrs[i+1]
		}
	}
	t.Fatalf("event %v has no %s", e, key)
	return nil
}

// TestFirstCopyGoesOn: what is applied of a first copy is not copied again, whenever the agent dies.
func TestFirstCopyGoesOn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, primary.Limits{CopyRate: 4 << 20})
		w.shut()
		fsys := crashfs.New(1)
		w.fs = fsys
		w.start()
		const size = 80 << 20
		w.addFilled("a", size)
		read := int64(0)
		for tenth := int64(1); tenth < 10; tenth++ {
			w.eventually("another tenth", func() bool {
				st := w.group()
				return len(st.Volumes) == 1 && st.Volumes[0].Total == size && size-st.Volumes[0].ToCopy >= tenth*size/10
			})
			w.write(1, tenth*4096, []byte{1})
			read += w.group().Volumes[0].Read
			fsys.PowerCut()
			w.die()
			fsys.Restart()
			w.start()
		}
		w.settled()
		read += w.group().Volumes[0].Read
		// A kill costs what was not applied, and what was cleared since the bits were last made durable: 2 s at most.
		if read > size+9*2*(4<<20) {
			t.Errorf("%d bytes were read of a volume of %d", read, size)
		}
		t.Logf("read %d bytes of %d", read, size)
		w.shut()
	})
}

// TestResyncGoesOn: what a resync has copied and is held is not copied again, whenever the agent dies or the group is
// suspended, but where it was written meanwhile.
func TestResyncGoesOn(t *testing.T) {
	for _, how := range []string{"dies", "is shut", "is suspended"} {
		if testing.Short() && how == "is shut" { // as under the race detector, which sees it die
			continue
		}
		t.Run(how, func(t *testing.T) { inBubble(t, func(t *testing.T) { resyncGoesOn(t, how) }) })
	}
}

func resyncGoesOn(t *testing.T, how string) {
	const size, rate = 20 << 20, 2 << 20
	w := newWorld(t, cluster.Async, primary.Limits{CopyRate: rate})
	w.shut()
	fsys := crashfs.New(1)
	w.fs = fsys
	w.start()
	w.addFilled("a", size)
	w.settled()
	before := w.group().Volumes[0].Read
	suspend := func() {
		w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Suspend(now, groupID) })
		w.eventually("it is detached", func() bool { v, _ := w.view(); return v.Inc == 0 && w.group().Incarnation == 0 })
	}
	resume := func() {
		w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Unsuspend(now, groupID) })
	}
	suspend()
	for off := int64(0); off < size; off += 1 << 20 {
		w.write(1, off, bytes.Repeat([]byte{byte(off>>20) + 100}, 1<<20))
	}
	resume()
	read, times := -before, 0
	for tenth := int64(1); tenth < 10; tenth += 3 { // scripts/measure does it at each
		times++
		w.eventually("another tenth", func() bool {
			st := w.group()
			return len(st.Volumes) == 1 && st.Volumes[0].Total == size && size-st.Volumes[0].ToCopy >= tenth*size/10
		})
		_, g := w.view()
		if g.Committed != g.Applied || g.Live(1).Whole != 0 {
			t.Fatalf("tenth %d: the resync is whole: the test shows nothing", tenth)
		}
		w.write(1, tenth*4096, []byte{byte(tenth)}) // the first extent is hot
		switch how {
		case "dies":
			read += w.group().Volumes[0].Read
			fsys.PowerCut()
			w.die()
			fsys.Restart()
			w.start()
		case "is shut":
			read += w.group().Volumes[0].Read
			w.shut()
			w.start()
		default:
			suspend()
			w.write(1, 2<<20+tenth*4096, []byte{byte(tenth)})
			resume()
		}
	}
	w.settled()
	read += w.group().Volumes[0].Read
	// An interruption costs what was not held in a closed set, or not flushed and noted: 2 s at most; and what is hot.
	if most := size + int64(times)*(2*rate+2<<20); read < size || read > most {
		t.Errorf("%d bytes were read for a resync of %d, want %d at most", read, size, most)
	}
	t.Logf("%s %d times: read %d bytes of %d", how, times, read, size)
	w.shut()
	kept, last := 0, int64(0)
	for _, e := range w.told {
		if e.Name == "copy.begun" && slices.Contains(e.Attrs, any("kept_bytes")) {
			now := attr(t, e, "kept_bytes").(int64)
			if kept++; now+4<<20 < last { // what became hot
				t.Errorf("%d bytes are kept, and before %d were", now, last)
			}
			last = now
		}
	}
	if kept < times-1 {
		t.Errorf("the copy went on where it was %d times", kept)
	}
}
