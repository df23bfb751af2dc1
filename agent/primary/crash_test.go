package primary_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/agent/primary"
	"flotilla/agent/vfs/crashfs"
	"flotilla/blockdev"
)

// losing is a source with a cache that a crash loses in part: of every change since the last flush it keeps all or
// nothing, as the seed says.
type losing struct {
	blockdev.Device // what reads see

	mu    sync.Mutex
	disk  *blockdev.Memory
	log   []lost
	rng   *rand.Rand
	ended bool
}

type lost struct {
	off  int64
	data []byte
}

var errCrashed = errors.New("the machine has crashed")

func newLosing(size int64, seed uint64) *losing {
	return &losing{Device: blockdev.NewMemory(size), disk: blockdev.NewMemory(size), rng: rand.New(rand.NewPCG(seed, 77))}
}

func (d *losing) change(off int64, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return errCrashed
	}
	d.log = append(d.log, lost{off, append([]byte(nil), data...)})
	_, err := d.Device.WriteAt(data, off)
	return err
}

func (d *losing) WriteAt(p []byte, off int64) (int, error) {
	if err := d.change(off, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *losing) Trim(off, length int64) error { return d.change(off, make([]byte, length)) }

func (d *losing) WriteZeroes(off, length int64, _ bool) error {
	return d.change(off, make([]byte, length))
}

func (d *losing) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return errCrashed
	}
	for _, l := range d.log {
		if _, err := d.disk.WriteAt(l.data, l.off); err != nil {
			return err
		}
	}
	d.log = nil
	return nil
}

// crash makes every call fail.
func (d *losing) crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
}

// reborn returns the device after the crash.
func (d *losing) reborn(seed uint64) *losing {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := newLosing(d.disk.Size(), seed)
	for _, l := range d.log {
		if d.rng.IntN(2) == 0 {
			if _, err := d.disk.WriteAt(l.data, l.off); err != nil {
				panic(err)
			}
		}
	}
	all := make([]byte, d.disk.Size())
	for _, to := range []blockdev.Device{n.disk, n.Device} {
		if _, err := d.disk.ReadAt(all, 0); err != nil {
			panic(err)
		}
		if _, err := to.WriteAt(all, 0); err != nil {
			panic(err)
		}
	}
	return n
}

// TestCrash cuts the power of the primary's machine under random writes, again and again. The journal and the targets are
// another machine's. After each restart source and target must come to agree.
func TestCrash(t *testing.T) {
	for _, mode := range []cluster.Mode{cluster.Async, cluster.Sync} {
		t.Run(mode.String(), func(t *testing.T) {
			seed := seedOf(t)
			for round := range primary.Rounds(2) {
				inBubble(t, func(t *testing.T) { crashRounds(t, mode, seed+100*round) })
			}
		})
	}
}

func crashRounds(t *testing.T, mode cluster.Mode, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 5))
	w := newWorld(t, mode, small)
	fsys := crashfs.New(seed)
	w.fs = fsys
	w.shut()
	w.start()
	dev := newLosing(4<<20, seed)
	w.sources["/src/a"] = dev
	w.targets[1] = blockdev.NewMemory(4 << 20)
	w.propose(*w.createVolume(volumeSpec{"a", 4 << 20}))
	w.scribble(seed, 1, 4, 20)
	w.settled()
	for crash := range uint64(4) {
		// Some crashes come while sets are not applied, or frames do not arrive.
		w.setFault(func() { w.noApply, w.linkDown = rng.IntN(2) == 0, rng.IntN(4) == 0 })
		var answered atomic.Int64
		var wg sync.WaitGroup
		size := w.sizeOf(1)
		w.attached()
		for k := range 4 {
			rng := rand.New(rand.NewPCG(seed+crash, uint64(k)))
			wg.Go(func() {
				for {
					if w.request(randomChange(rng, size), 1) != nil {
						return
					}
					answered.Add(1)
					if rng.IntN(20) == 0 {
						time.Sleep(time.Duration(rng.IntN(50)) * time.Millisecond)
					}
				}
			})
		}
		time.Sleep(time.Duration(20+rng.IntN(600)) * time.Millisecond)
		fsys.PowerCut()
		dev.crash()
		w.die()
		wg.Wait()
		if answered.Load() == 0 && mode == cluster.Async {
			t.Errorf("seed %d, crash %d: nothing was written before it", seed, crash)
		}
		fsys.Restart()
		dev = dev.reborn(seed + crash)
		w.sources["/src/a"] = dev
		w.setFault(func() { w.noApply, w.linkDown, w.unapplied = false, false, nil })
		w.start()
		w.sizeOf(1)
		w.settled()
	}
	w.shut()
}
