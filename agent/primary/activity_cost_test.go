package primary

import (
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"

	"flotilla/agent/vfs"
	"flotilla/agent/vfs/crashfs"
	"flotilla/wire"
)

// TestActivityLogOff: all bits are set on disk while the log is off, no write flushes anything, and settle ends it.
func TestActivityLogOff(t *testing.T) { inPlaces(t, activityLogOff) }

func activityLogOff(t *testing.T, p place) {
	fsys := crashfs.New(1)
	if err := prepare(t, fsys, p).close(); err != nil {
		t.Fatal(err)
	}
	a, _, reason := openActivity(p.medium(t, fsys), logShape, true)
	if reason != nil {
		t.Fatal(reason)
	}
	marked := func() int {
		b, _, reason := p.open(t, fsys, logShape)
		if reason != nil {
			t.Error(reason)
		}
		return b.ext.Marked()
	}
	var syncs atomic.Int32
	a.file.medium = slowMedium{a.file.medium, func() { syncs.Add(1) }}
	a.resync()
	for i := range logShape.extents() {
		if err := a.touch(int64(i)*logShape.extent, 512); err != nil {
			t.Fatal(err)
		}
		a.numbered(int64(i)*logShape.extent, 512, 1)
	}
	if n := syncs.Load(); n > 1 {
		t.Errorf("%d flushes", n)
	}
	if _, err := a.clean(1, 10, maxExtents, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := a.commit(); err != nil {
		t.Fatal(err)
	}
	if got := marked(); got != logShape.extents() {
		t.Errorf("%d of %d bits are set on disk while the log is off", got, logShape.extents())
	}
	a.settle()
	if err := a.commit(); err != nil {
		t.Fatal(err)
	}
	if got := marked(); got != 10 {
		t.Errorf("%d bits are set on disk when it is settled, want 10", got)
	}
}

// TestMemory: a volume of a TiB takes 32 MiB at most, its bits being written and all of its extents hot.
func TestMemory(t *testing.T) {
	l, err := Limits{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	shape := bitShape{volume: 1, size: 1 << 40, extent: l.extentFor(1 << 40)}
	used := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := used()
	a, _, err := openActivity(&stateFile{fs: vfs.OS(), name: filepath.Join(t.TempDir(), "bits")}, shape, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.touch(0, shape.size); err != nil {
		t.Fatal(err)
	}
	a.numbered(0, shape.size, 1)
	took := used() - before
	t.Logf("%.1f MiB", float64(took)/(1<<20))
	if took > 32<<20 {
		t.Errorf("a TiB takes %d bytes, more than 32 MiB", took)
	}
	if err := a.close(); err != nil {
		t.Error(err)
	}
}

// TestWorkingSetCostsNoFlush writes at random over a working set while sets are applied and bits cleared: each of its
// extents is flushed once.
func TestWorkingSetCostsNoFlush(t *testing.T) {
	a := prepare(t, crashfs.New(1), inStateDir)
	var syncs atomic.Int32
	a.file.medium = slowMedium{a.file.medium, func() { syncs.Add(1) }}
	a.resync()
	const extents, keep = 100, 100
	rng := rand.New(rand.NewPCG(1, 6))
	hot := rng.Perm(logShape.extents())[:extents]
	for set := wire.Set(2); set < 100; set++ {
		for range 200 {
			off := int64(hot[rng.IntN(extents)]) * logShape.extent
			if err := a.touch(off, 4096); err != nil {
				t.Fatal(err)
			}
			a.numbered(off, 4096, set)
		}
		cleared, err := a.clean(set-1, keep, maxExtents, func() error { return nil })
		if err != nil || cleared > 0 {
			t.Fatalf("set %d: cleared %d, %v", set, cleared, err)
		}
	}
	if n := syncs.Load(); n > extents {
		t.Errorf("%d flushes for %d extents", n, extents)
	}
}
