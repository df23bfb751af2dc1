package primary_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/primary"
	"flotilla/blockdev"
	"flotilla/blockdev/faulty"
	"flotilla/nbd"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seedOf returns FLOTILLA_SEED or the time, and prints it when the test fails.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("FLOTILLA_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed: FLOTILLA_SEED=%d", seed)
	return seed
}

// small are limits that make a small volume have many extents.
var small = primary.Limits{Extent: 4096 * 16, KeepExtents: 8}

func TestWritesReachTheTarget(t *testing.T) {
	for _, mode := range []cluster.Mode{cluster.Async, cluster.Sync} {
		t.Run(mode.String(), func(t *testing.T) {
			seed := seedOf(t)
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, mode, small, volumeSpec{"a", 6<<20 + 512}, volumeSpec{"b", 3 << 20})
				w.scribble(seed, 1, 8, 60)
				w.scribble(seed+1, 2, 4, 30)
				w.settled()
				w.scribble(seed+2, 1, 8, 60)
				w.settled()
				w.shut()
				// After an end in order nothing is left to be copied.
				w.start()
				w.attached()
				for _, v := range w.group().Volumes {
					if v.Total > v.Size/2 {
						t.Errorf("volume %s: %d bytes of %d are copied again after a clean end", v.Name, v.Total, v.Size)
					}
				}
				w.settled()
				w.shut()
			})
		})
	}
}

func TestReadsAndExtents(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small, volumeSpec{"a", 4 << 20})
		w.sizeOf(1)
		data := bytes.Repeat([]byte{7}, 8192)
		w.write(1, 4096, data)
		buf := nbd.NewBuffer(16384)
		var got []byte
		e := w.host.p.Export(1)
		e.Serve(nbd.NewRequest(nbd.OpRead, 0, 0, buf, func(r *nbd.Request, err error) {
			if err != nil {
				t.Error(err)
			}
			got = r.Data()
		}))
		if want := slices.Concat(make([]byte, 4096), data, make([]byte, 4096)); !bytes.Equal(got, want) {
			t.Error("the read shows other bytes than were written")
		}
		e.Serve(nbd.NewRequest(nbd.OpBlockStatus, 0, 4<<20, nil, func(r *nbd.Request, err error) {
			if ex := r.Extents(); err != nil || len(ex) != 2 || ex[0].Flags != 0 || ex[1].Flags != nbd.ExtentHole|nbd.ExtentZero {
				t.Errorf("extents %+v, %v", ex, err)
			}
		}))
		if err := w.request(opOf(nbd.OpFlush, 0, 0), 1); err != nil {
			t.Error(err)
		}
		if err := w.request(opOf(nbd.OpCache, 0, 512), 1); !errors.Is(err, nbd.EINVAL) {
			t.Errorf("an unknown request: %v", err)
		}
		w.settled()
		e = w.host.p.Export(1)
		w.shut()
		e.Serve(nbd.NewRequest(nbd.OpRead, 0, 0, buf, func(_ *nbd.Request, err error) {
			if !errors.Is(err, nbd.ESHUTDOWN) {
				t.Errorf("a read after Close: %v", err)
			}
		}))
	})
}

// TestFUAFlushesBeforeTheReply also shows that a flush's failure is the client's to see.
func TestFUAFlushesBeforeTheReply(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small)
		dev := faulty.New(blockdev.NewMemory(4 << 20))
		w.sources["/src/a"] = dev
		w.targets[1] = blockdev.NewMemory(4 << 20)
		w.propose(*w.createVolume(volumeSpec{"a", 4 << 20}))
		w.sizeOf(1)
		fua := func(done func(*nbd.Request, error)) *nbd.Request {
			r := writeOf(0, make([]byte, 4096))(done)
			r.FUA = true
			return r
		}
		before := dev.Calls(faulty.Flush)
		if err := w.request(fua, 1); err != nil || dev.Calls(faulty.Flush) != before+1 {
			t.Errorf("%d flushes, %v", dev.Calls(faulty.Flush)-before, err)
		}
		heal := dev.Inject(faulty.Fault{Op: faulty.Flush})
		if err := w.request(fua, 1); err == nil {
			t.Error("a flush failed and the client was told success")
		}
		heal()
		w.settled()
		w.shut()
	})
}

// TestSyncIsAcknowledgedWhenHeld stops the journal and looks that no write is answered.
func TestSyncIsAcknowledgedWhenHeld(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Sync, small, volumeSpec{"a", 4 << 20})
		w.sizeOf(1)
		w.write(1, 0, make([]byte, 4096))
		w.setFault(func() { w.noStore = true })
		answered := make(chan error, 1)
		w.begin(writeOf(4096, make([]byte, 4096)), 1, func(err error) { answered <- err })
		time.Sleep(2 * time.Second)
		select {
		case err := <-answered:
			t.Fatalf("answered before it was held: %v", err)
		default:
		}
		w.storeAgain()
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
		w.settled()
		w.shut()
	})
}

// TestSyncWaitsForTheResync ends the incarnation under a write that is not held yet.
func TestSyncWaitsForTheResync(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Sync, small, volumeSpec{"a", 4 << 20})
		w.sizeOf(1)
		w.write(1, 0, make([]byte, 4096))
		w.settled()
		w.setFault(func() { w.linkDown = true })
		answered := make(chan error, 2)
		data := bytes.Repeat([]byte{9}, 4096)
		w.begin(writeOf(65536, data), 1, func(err error) { answered <- err })
		time.Sleep(time.Second)
		v, _ := w.view()
		w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Suspend(now, groupID) })
		// While it is detached a write waits, too.
		w.begin(writeOf(2<<20, data), 1, func(err error) { answered <- err })
		time.Sleep(time.Second)
		if len(answered) != 0 {
			t.Fatal("a write that is held nowhere was answered")
		}
		w.setFault(func() { w.linkDown = false })
		w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Unsuspend(now, groupID) })
		for range 2 {
			if err := <-answered; err != nil {
				t.Fatal(err)
			}
		}
		if now, _ := w.view(); now.Inc == v.Inc || !now.Whole {
			t.Errorf("answered in %+v", now)
		}
		w.settled()
		w.shut()
	})
}

// TestSyncWaitsForTheFirstCopy: a first copy breaks no set, so that an incarnation is whole long before it ends. A write of
// an older incarnation is held only once it was copied.
func TestSyncWaitsForTheFirstCopy(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		limits := small
		limits.CopyRate = 1 << 20
		w := newWorld(t, cluster.Sync, limits)
		w.addFilled("a", 8<<20)
		w.sizeOf(1)
		w.attached()
		w.setFault(func() { w.linkDown = true })
		answered := make(chan error, 1)
		w.begin(writeOf(8<<20-4096, bytes.Repeat([]byte{9}, 4096)), 1, func(err error) {
			if st := w.group().Volumes[0]; st.ToCopy != 0 {
				t.Errorf("answered with %d bytes to copy", st.ToCopy)
			}
			answered <- err
		})
		w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Suspend(now, groupID) })
		time.Sleep(time.Second)
		w.setFault(func() { w.linkDown = false })
		// While it is uncommitted the next one counts as a resync, which is whole at its end only.
		w.eventually("the older incarnation is committed", func() bool { _, g := w.view(); return g.Incs[0].Sealed && g.Incs[0].Last <= g.Committed })
		w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Unsuspend(now, groupID) })
		w.eventually("the incarnation is whole", func() bool { v, _ := w.view(); return v.Whole })
		if w.group().Volumes[0].ToCopy == 0 {
			t.Error("the copy was over too soon: the test shows nothing")
		}
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
		w.settled()
		w.shut()
	})
}

// TestUnheldIsHidden is of sync groups of several primaries; the second one never comes. A read waits for the write whose
// bytes it would show, the copy that makes that write held does not wait for either.
func TestUnheldIsHidden(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Sync, small, volumeSpec{"a", 4 << 20})
		w.propose(cluster.Command{AddAgent: &cluster.AddAgent{Name: "two", Address: "two:1", Primary: true}})
		other := w.createVolume(volumeSpec{"other", 1 << 20})
		other.CreateVolume.Primary = 2
		w.propose(*other)
		w.sizeOf(1)
		w.write(1, 0, make([]byte, 4096))
		w.setFault(func() { w.linkDown = true })
		data := bytes.Repeat([]byte{9}, 4096)
		answered, read := make(chan error, 2), make(chan byte, 2)
		for range 2 { // two that overlap: the second must not wait inside of what the copy needs
			go w.begin(writeOf(65536, data), 1, func(err error) { answered <- err })
		}
		time.Sleep(100 * time.Millisecond)
		readAt := func(off int64) {
			w.host.p.Export(1).Serve(nbd.NewRequest(nbd.OpRead, off, 0, nbd.NewBuffer(512), func(r *nbd.Request, err error) {
				if err != nil {
					t.Error(err)
				}
				read <- r.Data()[0]
			}))
		}
		go readAt(0)
		<-read
		go readAt(65536)
		time.Sleep(time.Second)
		if len(answered) != 0 || len(read) != 0 {
			t.Fatalf("held nowhere, and %d writes and %d reads were answered", len(answered), len(read))
		}
		w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Suspend(now, groupID) })
		time.Sleep(time.Second)
		w.setFault(func() { w.linkDown = false })
		w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Unsuspend(now, groupID) })
		for range 2 {
			if err := <-answered; err != nil {
				t.Fatal(err)
			}
		}
		if b := <-read; b != 9 {
			t.Errorf("the read shows %d", b)
		}
		w.shut()
	})
}

// TestSyncServesAfterTheSeal: after a restart a sync volume shows nothing before the old incarnation's end is recorded.
func TestSyncServesAfterTheSeal(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Sync, small, volumeSpec{"a", 4 << 20})
		w.sizeOf(1)
		w.write(1, 0, bytes.Repeat([]byte{1}, 4096))
		w.setFault(func() { w.linkDown = true })
		lost := make(chan error, 1)
		w.begin(writeOf(0, bytes.Repeat([]byte{2}, 4096)), 1, func(err error) { lost <- err })
		w.shut()
		if <-lost == nil {
			t.Fatal("a write that is held nowhere was acknowledged")
		}
		w.setFault(func() { w.linkDown = false })
		w.start()
		w.sizeOf(1)
		done := make(chan struct{})
		w.host.p.Export(1).Serve(nbd.NewRequest(nbd.OpRead, 0, 0, nbd.NewBuffer(512), func(_ *nbd.Request, err error) {
			if err != nil {
				t.Error(err)
			}
			_, g := w.view()
			for _, inc := range g.Incs {
				if v, _ := w.view(); inc.ID != v.Inc && !inc.Sealed {
					t.Error("a read was served before the seal")
				}
			}
			close(done)
		}))
		<-done
		w.settled()
		w.shut()
	})
}

// TestCloseDoesNotHang closes while writes wait to be held.
func TestCloseDoesNotHang(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Sync, small, volumeSpec{"a", 4 << 20})
		w.sizeOf(1)
		w.setFault(func() { w.noStore = true })
		w.eventually("the volume is served", func() bool { v, _ := w.view(); return v.Open != 0 })
		answered := make(chan error, 10)
		for i := range 10 {
			go w.begin(writeOf(int64(i)*4096, make([]byte, 4096)), 1, func(err error) { answered <- err })
		}
		time.Sleep(time.Second)
		w.shut()
		for range 10 {
			if err := <-answered; !errors.Is(err, nbd.ESHUTDOWN) {
				t.Errorf("a write that was never held is answered with %v", err)
			}
		}
	})
}

func TestFailedSourceWriteIsAnErrorAndCopiedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small)
		dev := faulty.New(blockdev.NewMemory(4 << 20))
		w.sources["/src/a"] = dev
		w.targets[1] = blockdev.NewMemory(4 << 20)
		w.propose(*w.createVolume(volumeSpec{"a", 4 << 20}))
		w.sizeOf(1)
		w.write(1, 0, bytes.Repeat([]byte{1}, 65536*3))
		w.settled()
		dev.Inject(faulty.Fault{Op: faulty.Write, Transfer: 1000}) // torn: the source is neither old nor new
		if err := w.request(writeOf(65536, bytes.Repeat([]byte{2}, 4096)), 1); err == nil {
			t.Fatal("the source failed and the client was told success")
		}
		if !w.saw("source.failed") {
			t.Error("no event")
		}
		w.settled() // compares
		if got := content(t, w.targets[1])[65536]; got != 2 {
			t.Errorf("the target has %d where the torn write began", got)
		}
		w.shut()
	})
}

// propose has a command applied.
func (w *world) propose(cmd cluster.Command) {
	w.t.Helper()
	cmd.ID = uint64(time.Now().UnixNano())
	w.eventually("a captain", func() (ok bool) {
		w.host.loop.View(func(n *core.Node) { ok = n.Captain() != 0 })
		return ok
	})
	w.host.loop.Do(func(n *core.Node, now time.Duration) { n.Propose(cmd) })
	w.eventually("the command's result", func() (ok bool) {
		w.host.loop.View(func(n *core.Node) {
			r, done := n.Result(cmd.ID)
			if ok = done; r.Err != "" {
				w.t.Errorf("%s", r.Err)
			}
		})
		return ok
	})
}

func (w *world) setFault(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}
