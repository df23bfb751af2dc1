package primary_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/primary"
	"flotilla/agent/vfs/crashfs"
	"flotilla/blockdev"
	"flotilla/nbd"
)

const (
	smallSize = 4<<20 + 4096*5 // no multiple of an extent, nor of a portion
	largeSize = 9<<20 + 4096*3
)

// junk fills a device from an offset on: each with something else.
func junk(t testing.TB, d blockdev.Device, from int64, fill byte) {
	t.Helper()
	if _, err := d.WriteAt(bytes.Repeat([]byte{fill}, int(d.Size()-from)), from); err != nil {
		t.Fatal(err)
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
}

// enlarge gives the devices of volume 1 more storage, with something else in it on either side.
func (w *world) enlarge() {
	w.t.Helper()
	for k, d := range []*blockdev.Memory{w.sources["/src/a"].(*blockdev.Memory), w.targets[1]} {
		from := d.Size()
		d.Enlarge(largeSize)
		if _, err := d.Grow(); err != nil {
			w.t.Fatal(err)
		}
		junk(w.t, d, from, 0xa0+byte(k))
	}
}

func (w *world) resize(size int64) {
	w.t.Helper()
	w.propose(cluster.Command{ResizeVolume: &cluster.ResizeVolume{Volume: 1, Size: size}})
}

// grown waits until clients are offered the large size, and looks that what they get is zero.
func (w *world) grown() {
	w.t.Helper()
	w.eventually("the volume has grown", func() bool {
		e := w.host.p.Export(1)
		return e != nil && e.Info().Size == largeSize
	})
	if _, g := w.view(); g.Volumes[1].Size != largeSize || g.Volumes[1].Grow != 0 {
		w.t.Errorf("the state has %+v", g.Volumes[1])
	}
}

// read returns a range of volume 1 as a client sees it.
func (w *world) read(off, length int64) []byte {
	w.t.Helper()
	buf := nbd.NewBuffer(int(length))
	out := make([]byte, length)
	result := make(chan error, 1)
	e := w.host.p.Export(1)
	r := nbd.NewRequest(nbd.OpRead, off, 0, buf, func(r *nbd.Request, err error) {
		copy(out, r.Buffer().Bytes())
		r.Buffer().Release()
		result <- err
	})
	if !e.Try(r) {
		e.Serve(r)
	}
	if err := <-result; err != nil {
		w.t.Fatal(err)
	}
	return out
}

// newTail looks that nothing of what the storage held before shows behind the old end.
func (w *world) newTail() {
	w.t.Helper()
	if got := w.read(smallSize, largeSize-smallSize); !bytes.Equal(got, make([]byte, len(got))) {
		w.t.Error("the new range does not read as zeroes")
	}
}

// TestResize: a volume grows while clients write; the new range is zero for them and on the target, and nothing is copied
// for it.
func TestResize(t *testing.T) {
	for _, mode := range []cluster.Mode{cluster.Async, cluster.Sync} {
		t.Run(mode.String(), func(t *testing.T) {
			seed := seedOf(t)
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, mode, small, volumeSpec{"a", smallSize}, volumeSpec{"b", 1 << 20})
				w.settled()
				began := w.count("copy.begun")
				w.enlarge()
				var wg sync.WaitGroup
				wg.Go(func() { w.scribble(seed, 1, 4, 40) })
				w.resize(largeSize)
				w.grown()
				wg.Wait()
				w.newTail()
				w.settled()
				if marked := w.group().Volumes[0].Marked; marked > smallSize+small.Extent {
					t.Errorf("%d bytes are marked: so is what is new", marked)
				}
				w.scribble(seed+1, 1, 4, 60)
				w.settled()
				if n := w.count("copy.begun"); n != began || w.count("volume.grown") != 1 {
					t.Errorf("%d copies began, %d volumes have grown: %v", n-began, w.count("volume.grown"), w.events)
				}
				w.shut()
				w.start()
				if size := w.sizeOf(1); size != largeSize {
					t.Errorf("after a restart the volume has %d bytes", size)
				}
				w.scribble(seed+2, 1, 2, 20)
				w.settled()
				w.shut()
			})
		})
	}
}

func (w *world) count(event string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e == event {
			n++
		}
	}
	return n
}

// TestResizeWaits: nothing of the new size is offered while the target has not got the new range, whatever becomes of the
// incarnation, and while the source is too small.
func TestResizeWaits(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small, volumeSpec{"a", smallSize})
		w.settled()
		w.resize(largeSize)
		w.eventually("the source is found to be too small", func() bool { return w.saw("volume.not-grown") })
		time.Sleep(3 * time.Second)
		if n := w.count("volume.not-grown"); n != 1 {
			t.Errorf("the same trouble was told %d times", n)
		}
		w.mu.Lock()
		told := fmt.Sprint(w.told[len(w.told)-1])
		w.mu.Unlock()
		if !strings.Contains(told, fmt.Sprintf("it has %d bytes and %d are needed", smallSize, largeSize)) {
			t.Errorf("what was told: %s", told)
		}
		w.setFault(func() { w.noApply = true })
		w.enlarge()
		w.write(1, 0, []byte("before")) // a set that is not applied
		before, _ := w.view()
		w.eventually("the zeroes are numbered", func() bool { v, _ := w.view(); return v.Seq >= before.Seq+5 && v.HeldUpTo == v.Seq })
		w.propose(cluster.Command{End: &cluster.End{Group: groupID, Inc: before.Inc}})
		w.eventually("another incarnation", func() bool { v, _ := w.view(); return v.Inc > before.Inc && v.Open != 0 })
		time.Sleep(5 * time.Second)
		if _, g := w.view(); g.Volumes[1].Size != smallSize || w.sizeOf(1) != smallSize {
			t.Errorf("the state has %d bytes and clients see %d, before the target has anything", g.Volumes[1].Size, w.sizeOf(1))
		}
		w.applyAgain()
		w.grown()
		w.newTail()
		w.settled()
		w.shut()
	})
}

// applyAgain lets the targets answer what they were asked meanwhile.
func (w *world) applyAgain() {
	w.mu.Lock()
	w.noApply = false
	late := w.unapplied
	w.unapplied = nil
	w.mu.Unlock()
	for _, a := range late {
		w.host.applied(a)
	}
}

// TestResizeOfAReplacedTarget: the target becomes another one while the zeroes are on their way, or when they are there.
func TestResizeOfAReplacedTarget(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small, volumeSpec{"a", smallSize})
		w.scribble(1, 1, 2, 20)
		w.settled()
		w.enlarge()
		for round := range 40 {
			to := int64(smallSize + 4096*100 + 4096*10*round)
			w.resize(to)
			time.Sleep(time.Duration(5*round) * time.Millisecond)
			w.mu.Lock()
			w.targets[1] = blockdev.NewMemory(largeSize)
			junk(t, w.targets[1], 0, byte(round+1))
			w.mu.Unlock()
			w.propose(cluster.Command{RecopyVolume: &cluster.RecopyVolume{Volume: 1}})
			w.eventually("the volume has grown", func() bool { return w.host.p.Export(1).Info().Size == to })
			w.settled()
		}
		w.shut()
	})
}

// TestResizeCrash cuts the power at each operation of the state directory's disk while a volume grows under writes, and
// at other times, while the target answers or does not.
func TestResizeCrash(t *testing.T) {
	seed := seedOf(t)
	cut, reached := 0, false
	for k := 1; !reached && k < 60; k++ {
		inBubble(t, func(t *testing.T) { reached = resizeCrash(t, seed+uint64(k), k); cut++ })
	}
	if cut < 4 {
		t.Errorf("the power was cut in %d places only", cut)
	}
	for round := range primary.Rounds(16) {
		inBubble(t, func(t *testing.T) { resizeCrash(t, seed+1000+round, 0) })
	}
}

// resizeCrash reports whether the growth ended before the k-th operation.
func resizeCrash(t *testing.T, seed uint64, k int) (reached bool) {
	rng := rand.New(rand.NewPCG(seed, 6))
	limits := small
	limits.CleanEvery = time.Hour // the operations are those of the growth
	w := newWorld(t, cluster.Async, limits)
	fsys := crashfs.New(seed)
	w.fs = fsys
	w.shut()
	w.start()
	dev := newLosing(largeSize, seed)
	junk(t, dev, smallSize, 0xa0)
	w.sources["/src/a"] = dev
	w.targets[1] = blockdev.NewMemory(largeSize)
	junk(t, w.targets[1], smallSize, 0xa1)
	w.propose(*w.createVolume(volumeSpec{"a", smallSize}))
	w.scribble(seed, 1, 2, 10)
	w.settled()
	w.setFault(func() { w.noApply = rng.IntN(3) == 0 })
	fsys.CutAt(k)
	w.resize(largeSize)
	for n := range 300 {
		if k == 0 && n > rng.IntN(40) {
			break
		}
		if e := w.host.p.Export(1); fsys.Down() || (e != nil && e.Info().Size == largeSize) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	reached = !fsys.Down() && !w.noApply
	fsys.PowerCut()
	dev.crash()
	w.die()
	fsys.Restart()
	dev = dev.reborn(seed)
	w.sources["/src/a"] = dev
	w.setFault(func() { w.noApply, w.unapplied = false, nil })
	w.start()
	w.grown()
	w.newTail()
	w.settled()
	w.scribble(seed+1, 1, 2, 30)
	w.settled()
	w.shut()
	return reached
}

// TestResizeOfASuspendedVolume: what is written into the new range while the group is detached is copied when it is attached.
func TestResizeOfASuspendedVolume(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small, volumeSpec{"a", smallSize})
		w.settled()
		w.enlarge()
		w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Suspend(now, groupID) })
		w.resize(largeSize)
		time.Sleep(2 * time.Second)
		if size := w.sizeOf(1); size != smallSize {
			t.Errorf("clients see %d bytes of a volume whose target nobody writes to", size)
		}
		w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Unsuspend(now, groupID) })
		w.grown()
		w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Suspend(now, groupID) })
		w.write(1, largeSize-8192, bytes.Repeat([]byte{3}, 8192))
		w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Unsuspend(now, groupID) })
		w.settled()
		w.shut()
	})
}
