//go:build linux

package device

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flotilla/nbd"
	"flotilla/nbd/kernel"
)

// growing is an export that becomes larger.
type growing struct {
	nbd.Export
	size *atomic.Int64
}

func newGrowing(d disk, size int64) growing {
	g := growing{export(d, size), new(atomic.Int64)}
	g.size.Store(size)
	return g
}

func (g growing) Info() nbd.Info {
	i := g.Export.Info()
	i.Size = g.size.Load()
	return i
}

// eventually waits until the device has a size.
func (f *fake) eventually(size int64) {
	f.t.Helper()
	var got int64
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(time.Millisecond) {
		f.mu.Lock()
		got = f.devices[0].size
		f.mu.Unlock()
		if got == size {
			return
		}
	}
	f.t.Fatalf("the device has %d bytes, want %d", got, size)
}

// TestDeviceGrows: the kernel is told of a new size, on the socket that it has; also when it refuses at first, and when the
// agent ended before it could tell it.
func TestDeviceGrows(t *testing.T) {
	f, dir, k := newFake(t), t.TempDir(), kept{}
	var mu sync.Mutex
	var events []string
	change := func(o *Options) {
		o.Keeper = k
		o.Events = func(name, _ string, _ ...any) { mu.Lock(); defer mu.Unlock(); events = append(events, name) }
	}
	m := start(t, f, dir, change)
	m.Resized("db/data") // nobody has heard of it
	e := newGrowing(1, 4096)
	m.Offer("db/data", e)
	if _, err := m.Attach(Spec{Volume: "db/data", Index: 0}); err != nil {
		t.Fatal(err)
	}
	sock := f.devices[0].sock
	e.size.Store(8192)
	m.Resized("db/data")
	f.eventually(8192)
	f.mu.Lock()
	f.unfit = errors.New("not now")
	f.mu.Unlock()
	e.size.Store(12288)
	m.Resized("db/data")
	for refused := false; !refused; time.Sleep(time.Millisecond) {
		mu.Lock()
		refused = slices.Contains(events, "device.not-resized")
		mu.Unlock()
	}
	f.mu.Lock()
	f.unfit = nil
	f.mu.Unlock()
	f.eventually(12288)
	want(t, f, 1)
	_ = m.Close()
	e.size.Store(16384)
	m = start(t, f, dir, change)
	m.Offer("db/data", e)
	f.eventually(16384)
	want(t, f, 1)
	if f.devices[0].sock != sock || f.refused != 0 {
		t.Error("the device was given another socket")
	}
	if _, err := m.Attach(Spec{Volume: "db/data", Index: kernel.AnyIndex}); !errors.Is(err, ErrAttached) {
		t.Error(err)
	}
}
