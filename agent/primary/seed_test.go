package primary_test

import (
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

// seededWorld has one seeded volume, of whose extents of 64 KiB differ on the target those that are drawn.
func seededWorld(t *testing.T, mode cluster.Mode, limits primary.Limits, size int64, wrong int) (w *world, source *faulty.Device) {
	t.Helper()
	w = newWorld(t, mode, limits)
	rng := rand.New(rand.NewPCG(5, 5))
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	mem := blockdev.NewMemory(size)
	source = faulty.New(lingering{mem})
	target := blockdev.NewMemory(size)
	for _, d := range []blockdev.Device{mem, target} {
		if _, err := d.WriteAt(data, 0); err != nil {
			t.Fatal(err)
		}
	}
	for range wrong {
		if _, err := target.WriteAt([]byte{byte(rng.Uint32())}, rng.Int64N(size)); err != nil {
			t.Fatal(err)
		}
	}
	w.setFault(func() { w.sources["/src/a"], w.targets[1] = source, target })
	c := w.createVolume(volumeSpec{"a", size})
	c.CreateVolume.Seeded = true
	w.propose(*c)
	return w, source
}

// sent returns the bytes of content that were sent.
func (w *world) sent() (n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.frames {
		for i := range b.Updates {
			if u := &b.Updates[i]; u.Kind == wire.KindWrite {
				n += int64(u.Length)
			}
		}
	}
	return n
}

// Of a target that was filled by hand only what differs is copied.
func TestSeededCopiesWhatDiffers(t *testing.T) {
	const extent = 64 << 10
	for _, mode := range []cluster.Mode{cluster.Async, cluster.Sync} {
		for _, wrong := range []int{0, 3} {
			inBubble(t, func(t *testing.T) {
				w, _ := seededWorld(t, mode, small, 6<<20+512, wrong)
				w.settled()
				if n := w.sent(); n > int64(wrong)*extent || (n == 0) != (wrong == 0) {
					t.Errorf("%d bytes were sent, for %d extents that differ", n, wrong)
				}
				if !w.saw("copy.comparing") || !w.saw("copy.compared") || !w.saw("copy.whole") {
					t.Errorf("events %v", w.events)
				}
				// From here on it is a volume as any other.
				w.scribble(7, 1, 4, 30)
				w.settled()
				w.shut()
				w.start()
				w.scribble(8, 1, 4, 30)
				w.settled()
				w.shut()
			})
		}
	}
}

// Under writes, failed ones too, and over suspensions, restarts and answers that do not come, the copy comes out right.
func TestSeededUnderWrites(t *testing.T) {
	for seed := range primary.Rounds(4) {
		inBubble(t, func(t *testing.T) {
			limits := small
			limits.CopyRate, limits.SuspendFor = 2<<20, 300*time.Millisecond
			w, source := seededWorld(t, cluster.Async, limits, 6<<20, 5)
			rng := rand.New(rand.NewPCG(seed, 5))
			w.verdict = func(v core.CheckVerdict) core.CheckVerdict {
				switch rng.IntN(10) {
				case 0:
					return core.CheckUnknown
				case 1:
					return 0
				}
				return v
			}
			stop := w.load(seed, 1)
			torn, end := context.WithCancel(context.Background())
			var done sync.WaitGroup
			done.Go(func() {
				for torn.Err() == nil {
					time.Sleep(100 * time.Millisecond)
					source.Inject(faulty.Fault{Op: faulty.Write, Transfer: 300})
				}
			})
			time.Sleep(1500 * time.Millisecond)
			switch seed {
			case 1:
				w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Suspend(now, groupID) })
				time.Sleep(time.Second)
				w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Unsuspend(now, groupID) })
			case 2, 3:
				stop()
				w.die()
				w.start()
				stop = w.load(seed+9, 1)
			}
			time.Sleep(2 * time.Second)
			end()
			done.Wait()
			stop()
			w.settled()
			w.shut()
		})
	}
}
