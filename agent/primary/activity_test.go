package primary

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"flotilla/agent/vfs"
	"flotilla/agent/vfs/crashfs"
	"flotilla/wire"
)

// logShape has a few sectors of bits.
var logShape = bitShape{cluster: "c0ffee", volume: 7, size: 3*sectorBits*4096 - 1000, extent: 4096}

// logModel is what the log must not forget: extents whose source was written and not applied and flushed.
type logModel struct {
	a      *activity
	rng    *rand.Rand
	unsafe map[int]wire.Set // extents that were written, by the set that has them; 0 for none
	set    wire.Set
}

// step does one random thing with the log, as a primary does, and returns the first error.
func (m *logModel) step() error {
	e := m.a.shape.extent
	switch m.rng.IntN(6) {
	case 0, 1, 2: // a write
		first := m.rng.IntN(m.a.shape.extents() - 3)
		if m.rng.IntN(2) == 0 {
			first = m.rng.IntN(40) // a working set
		}
		n := 1 + m.rng.IntN(3)
		off, length := int64(first)*e, int64(n)*e
		if err := m.a.touch(off, length); err != nil {
			m.a.dirtied(off, length)
			return err
		}
		set := m.set
		for i := first; i < first+n; i++ {
			m.unsafe[i] = set
		}
		m.a.numbered(off, length, set)
	case 3: // some are applied, and cleared
		applied := m.set - 1
		if _, err := m.a.clean(applied, m.rng.IntN(30), 1000, func() error {
			for i, set := range m.unsafe {
				if set != 0 && set <= applied {
					delete(m.unsafe, i)
				}
			}
			return nil
		}); err != nil {
			return err
		}
	case 4:
		m.set++
	case 5:
		return m.a.commit()
	}
	return nil
}

// check opens the log anew and looks that no unsafe extent is clear.
func (m *logModel) check(t *testing.T, fsys vfs.FS, p place) {
	t.Helper()
	b, _, _ := p.open(t, fsys, logShape)
	for i := range m.unsafe {
		if !b.ext.Bit(i) {
			t.Fatalf("extent %d was written in set %d and reads as clear", i, m.unsafe[i])
		}
	}
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
}

// prepare makes a log all of whose bits are clear on disk.
func prepare(t *testing.T, fsys vfs.FS, p place) *activity {
	t.Helper()
	a, fresh, err := p.open(t, fsys, logShape)
	if err != nil || !fresh {
		t.Fatalf("a new log: fresh %v, %v", fresh, err)
	}
	a.resync()
	for {
		i, n, _, _, ok := a.nextCopy(3)
		if !ok {
			break
		}
		a.copied(i, n, 1)
	}
	if n, err := a.clean(1, 0, maxExtents, func() error { return nil }); err != nil || n != logShape.extents() {
		t.Fatalf("cleared %d, %v", n, err)
	}
	if err := a.commit(); err != nil {
		t.Fatal(err)
	}
	return a
}

// Rounds is n, or an eighth of it with -short: as under the race detector, where a round takes ten times as long.
func Rounds(n uint64) uint64 {
	if testing.Short() {
		return max(1, n/8)
	}
	return n
}

// TestCrashAtEveryWrite cuts the power at the k-th operation of the file, for every k.
func TestCrashAtEveryWrite(t *testing.T) { inPlaces(t, crashAtEveryWrite) }

func crashAtEveryWrite(t *testing.T, p place) {
	const steps = 40
	for seed := range Rounds(25) {
		for k := 1; ; k++ {
			fsys := crashfs.New(seed)
			a := prepare(t, fsys, p)
			m := &logModel{a: a, rng: rand.New(rand.NewPCG(seed, 1)), unsafe: map[int]wire.Set{}, set: 2}
			fsys.CutAt(k)
			var err error
			for s := 0; s < steps && err == nil; s++ {
				err = m.step()
			}
			cut := fsys.Down()
			if !cut {
				fsys.PowerCut()
			}
			fsys.Restart()
			m.check(t, fsys, p)
			if !cut {
				break
			}
		}
	}
}

// TestCrashWhileItIsMade cuts the power while a log is made anew, over nothing and over one of another shape in which all
// bits are clear: whatever mixture is left, no bit of it reads as clear.
func TestCrashWhileItIsMade(t *testing.T) { inPlaces(t, crashWhileItIsMade) }

func crashWhileItIsMade(t *testing.T, p place) {
	recopied := logShape
	recopied.copy++
	for seed := range Rounds(25) {
		for _, before := range []bool{false, true} {
			for k := 1; ; k++ {
				fsys := crashfs.New(seed)
				if before {
					if err := prepare(t, fsys, p).close(); err != nil {
						t.Fatal(err)
					}
				} else {
					p.medium(t, fsys) // the device is there
				}
				fsys.CutAt(k)
				a, _, _ := p.open(t, fsys, recopied)
				err := a.commit()
				cut := fsys.Down()
				if !cut && err != nil {
					t.Fatal(err)
				}
				fsys.Restart()
				b, _, reason := p.open(t, fsys, recopied)
				if b.ext.Marked() != recopied.extents() {
					t.Fatalf("seed %d, cut at %d: %d of %d bits are set (%v)", seed, k, b.ext.Marked(), recopied.extents(), reason)
				}
				if !cut {
					if reason != nil {
						t.Fatalf("seed %d: what was made can not be read: %v", seed, reason)
					}
					break
				}
			}
		}
	}
}

// TestFailedFlush lets flushes and writes fail: the failed one is not tried again on the same file.
func TestFailedFlush(t *testing.T) { inPlaces(t, failedFlush) }

func failedFlush(t *testing.T, p place) {
	for seed := range Rounds(80) {
		fsys := crashfs.New(seed)
		a := prepare(t, fsys, p)
		rng := rand.New(rand.NewPCG(seed, 2))
		m := &logModel{a: a, rng: rng, unsafe: map[int]wire.Set{}, set: 2}
		fail := rand.New(rand.NewPCG(seed, 3))
		fsys.SetHook(func(op crashfs.Op) error {
			if op.Kind != crashfs.Read && fail.IntN(6) == 0 {
				return syscall.EIO
			}
			return nil
		})
		good := 0
		for range 60 {
			if m.step() == nil {
				good++
			}
		}
		fsys.SetHook(nil)
		fsys.PowerCut()
		fsys.Restart()
		m.check(t, fsys, p)
		if good == 0 {
			t.Errorf("seed %d: nothing ever worked", seed)
		}
	}
}

// TestRot flips bytes of a log at rest: what is damaged reads as set.
func TestRot(t *testing.T) { inPlaces(t, rot) }

func rot(t *testing.T, p place) {
	for seed := range uint64(50) {
		fsys := crashfs.New(seed)
		a := prepare(t, fsys, p)
		m := &logModel{a: a, rng: rand.New(rand.NewPCG(seed, 4)), unsafe: map[int]wire.Set{}, set: 2}
		for range 30 {
			if err := m.step(); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.commit(); err != nil {
			t.Fatal(err)
		}
		at := m.rng.Int64N(4 * bitSector)
		if err := p.corrupt(t, fsys, at); err != nil {
			t.Fatal(err)
		}
		fsys.Restart()
		m.check(t, fsys, p)
		b, _, reason := p.open(t, fsys, logShape)
		if reason == nil {
			t.Errorf("seed %d: rot at byte %d was not noticed", seed, at)
		}
		if at >= bitSector {
			if sec := int(at/bitSector) - 1; !b.ext.Bit(logShape.first(sec)) || !b.ext.Bit(logShape.behind(sec)-1) {
				t.Errorf("seed %d: sector %d is damaged and has clear bits", seed, sec)
			}
		}
		// It is mended with the next write.
		if err := b.commit(); err != nil {
			t.Fatal(err)
		}
		if _, _, reason := p.open(t, fsys, logShape); reason != nil {
			t.Errorf("seed %d: after a write still: %v", seed, reason)
		}
	}
}

func TestAnotherVolumesLogIsOfNoUse(t *testing.T) { inPlaces(t, anotherVolumesLogIsOfNoUse) }

func anotherVolumesLogIsOfNoUse(t *testing.T, p place) {
	fsys := crashfs.New(1)
	if err := prepare(t, fsys, p).close(); err != nil {
		t.Fatal(err)
	}
	for _, other := range []bitShape{
		{cluster: logShape.cluster, volume: 8, size: logShape.size, extent: logShape.extent},
		{cluster: logShape.cluster, volume: 7, size: logShape.size + 4096, extent: logShape.extent},
		{cluster: logShape.cluster, volume: 7, size: logShape.size, extent: 2 * logShape.extent},
		{cluster: logShape.cluster, volume: 7, size: logShape.size, extent: logShape.extent, copy: 1},
		{cluster: "another", volume: 7, size: logShape.size, extent: logShape.extent},
	} {
		a, _, reason := p.open(t, fsys, other)
		if reason == nil || a.ext.Marked() != other.extents() {
			t.Errorf("%+v: %d of %d bits set, %v", other, a.ext.Marked(), other.extents(), reason)
		}
	}
	a, fresh, reason := p.open(t, fsys, logShape)
	if fresh || reason != nil || a.ext.Marked() != 0 {
		t.Errorf("its own log: %d bits set, %v", a.ext.Marked(), reason)
	}
	if err := a.remove(); err != nil {
		t.Error(err)
	}
	if _, fresh, reason := p.open(t, fsys, logShape); !fresh || reason != nil {
		t.Errorf("after remove: fresh %v, %v", fresh, reason)
	}
}

// TestSecondWriterWaitsForTheFirst: a bit that another writer is still making durable is no leave to write.
func TestSecondWriterWaitsForTheFirst(t *testing.T) {
	fsys := crashfs.New(1)
	a := prepare(t, fsys, inStateDir)
	entered, leave := make(chan struct{}), make(chan struct{})
	var syncs atomic.Int32
	a.file.medium = slowMedium{a.file.medium, func() {
		if syncs.Add(1) == 1 {
			close(entered)
			<-leave
		}
	}}
	var durable atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.touch(0, 4096); err != nil {
			t.Error(err)
		}
	})
	<-entered
	second := make(chan struct{})
	wg.Go(func() {
		if err := a.touch(512, 512); err != nil {
			t.Error(err)
		}
		if !durable.Load() {
			t.Error("the second writer went on before the bit was durable")
		}
		close(second)
	})
	// The second writer has nothing left to do but wait for a round: wait until it is listed.
	for {
		a.mu.Lock()
		listed := a.next != nil
		a.mu.Unlock()
		select {
		case <-second:
			listed = true
		default:
		}
		if listed {
			break
		}
	}
	durable.Store(true)
	close(leave)
	wg.Wait()
}

type slowMedium struct {
	bitMedium
	before func()
}

func (f slowMedium) sync() error {
	f.before()
	return f.bitMedium.sync()
}

// TestDirtiedUnderCopy: an extent is copied in several pieces; a failed write into one that was read already is not lost.
func TestDirtiedUnderCopy(t *testing.T) {
	a, _, err := inStateDir.open(t, crashfs.New(1), logShape)
	if err != nil {
		t.Fatal(err)
	}
	before := a.resync()
	i, _, off, _, ok := a.nextCopy(1)
	if !ok {
		t.Fatal("nothing to copy")
	}
	if err := a.touch(off, 512); err != nil {
		t.Fatal(err)
	}
	if !a.dirtied(off, 512) {
		t.Error("nothing is left to copy")
	}
	a.copied(i, 1, 3)
	if left, _ := a.toCopy(); left != before {
		t.Errorf("%d bytes are left to copy of %d: the failed write is forgotten", left, before)
	}
	if again, _, _, _, _ := a.nextCopy(1); again != i {
		t.Errorf("extent %d is next, not %d", again, i)
	}
	a.copied(i, 1, 3)
	if left, _ := a.toCopy(); left != before-logShape.extent {
		t.Errorf("%d bytes are left to copy after the second copy", left)
	}
}

// TestGroupCommit counts the flushes of many writers.
func TestGroupCommit(t *testing.T) {
	fsys := crashfs.New(1)
	a := prepare(t, fsys, inStateDir)
	entered, leave := make(chan struct{}), make(chan struct{})
	var syncs atomic.Int32
	a.file.medium = slowMedium{a.file.medium, func() {
		if syncs.Add(1) == 1 {
			close(entered)
			<-leave
		}
	}}
	var wg sync.WaitGroup
	touch := func(i int) {
		wg.Go(func() {
			if err := a.touch(int64(i)*4096, 4096); err != nil {
				t.Error(err)
			}
		})
	}
	touch(0)
	<-entered
	for i := range 100 {
		touch(1 + i*50)
	}
	for marked := 0; marked < 101; {
		a.mu.Lock()
		marked = a.ext.Marked()
		a.mu.Unlock()
	}
	close(leave)
	wg.Wait()
	if n := syncs.Load(); n > 3 {
		t.Errorf("%d flushes for 101 writers", n)
	}
}

// TestCopiedTooLate: what was copied for an incarnation that has ended is not taken for copied in the next, nor what could
// not be read for it as unreadable.
func TestCopiedTooLate(t *testing.T) {
	a, _, err := inStateDir.open(t, crashfs.New(1), logShape)
	if err != nil {
		t.Fatal(err)
	}
	all := a.resync()
	first, n, _, _, _ := a.nextCopy(4)
	a.detach()
	a.resync()
	a.copied(first, n, 7)
	if left, _ := a.toCopy(); left != all {
		t.Errorf("%d bytes are left to copy, want all %d", left, all)
	}
	first, _, _, _, _ = a.nextCopy(4)
	a.detach()
	a.resync()
	a.putAside(first)
	if n, _ := a.aside(1); n != 0 {
		t.Errorf("%d extents are put aside", n)
	}
}

// TestNeedWithoutActivityLog: that all bits are set on disk is for a crash. An incarnation that begins anew without one copies
// no more for it.
func TestNeedWithoutActivityLog(t *testing.T) {
	const size, extent = 64 << 10, 4096
	m, err := newDeviceEnd(endDevice(size), &endLimits, size)
	if err != nil {
		t.Fatal(err)
	}
	a, _, _ := openActivity(m, bitShape{volume: 1, size: size, extent: extent}, true)
	if n := a.nextResync(); n != size {
		t.Errorf("a new volume's first copy: %d bytes", n)
	}
	a.resync()
	for {
		first, n, _, _, ok := a.nextCopy(4)
		if !ok {
			break
		}
		a.copied(first, n, 1)
	}
	if _, err := a.clean(1, 0, 100, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := a.touch(extent, 10); err != nil {
		t.Fatal(err)
	}
	a.numbered(extent, 10, 2)
	if _, marked := a.toCopy(); a.nextResync() != extent || marked != size {
		t.Errorf("one extent was written: %d bytes for the next incarnation, %d after a crash", a.nextResync(), marked)
	}
}
