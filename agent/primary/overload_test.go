package primary_test

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/primary"
	"flotilla/nbd"
)

// tight are limits that a few writes reach.
var tight = primary.Limits{
	Extent: 64 << 10, PaceMark: 1 << 20, QueueLimit: 4 << 20, StallAfter: 10 * time.Second, SuspendFor: 5 * time.Second,
}

// TestPaceThenSuspend cuts the link of an async group under writes.
func TestPaceThenSuspend(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, tight, volumeSpec{"a", 8 << 20})
		w.scribble(1, 1, 2, 20)
		w.settled()
		w.setFault(func() { w.linkDown = true })
		data := bytes.Repeat([]byte{1}, 64<<10)
		var slowest time.Duration
		begin := time.Now()
		for i := 0; !w.group().Suspended; i++ {
			at := time.Now()
			w.write(1, int64(i%100)*65536, data)
			slowest = max(slowest, time.Since(at))
			if time.Since(begin) > time.Minute {
				t.Fatal("the queue grows and the group is not suspended")
			}
		}
		if slowest < 100*time.Millisecond || slowest > time.Second+100*time.Millisecond {
			t.Errorf("the slowest write took %v; the stated ceiling is 1 s", slowest)
		}
		w.eventually("the events", func() bool {
			return w.saw("overload.pace") && w.saw("overload.suspend") && w.saw("group.suspended")
		})
		// Suspended, it writes at the speed of its disk, and nothing is queued.
		at := time.Now()
		for i := range 100 {
			w.write(1, int64(i)*65536, data)
		}
		if d := time.Since(at); d > 10*time.Millisecond {
			t.Errorf("100 writes took %v while suspended", d)
		}
		if v, _ := w.view(); v.Queued != 0 {
			t.Errorf("%d bytes are queued while suspended", v.Queued)
		}
		w.setFault(func() { w.linkDown = false })
		w.settled()
		if !w.saw("group.resumed") {
			t.Error("no event says that the group has resumed")
		}
		w.shut()
	})
}

// TestQueueIsBounded: writers in such numbers that pacing does not bound them meet the hard limit.
func TestQueueIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, tight, volumeSpec{"a", 8 << 20})
		w.scribble(1, 1, 2, 20)
		w.settled()
		w.setFault(func() { w.linkDown = true })
		const workers = 64
		var wg sync.WaitGroup
		for k := range workers {
			wg.Go(func() {
				for i := range 8 {
					w.write(1, int64((k+i)%100)*65536, bytes.Repeat([]byte{byte(k)}, 64<<10))
					if v, _ := w.view(); v.Queued > 2*tight.QueueLimit+workers*(64<<10+64) {
						t.Errorf("%d bytes are queued", v.Queued)
					}
				}
			})
		}
		wg.Wait()
		if !w.saw("overload.suspend") {
			t.Error("the group was not suspended")
		}
		w.setFault(func() { w.linkDown = false })
		w.settled()
		w.shut()
	})
}

// TestSyncIsNotSuspendedByLoad: on-degraded is block.
func TestSyncIsNotSuspendedByLoad(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Sync, tight, volumeSpec{"a", 8 << 20})
		w.scribble(1, 1, 2, 20)
		w.settled()
		w.setFault(func() { w.linkDown = true })
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { w.write(1, int64(i)*65536, bytes.Repeat([]byte{2}, 64<<10)) })
		}
		time.Sleep(20 * time.Second) // twice StallAfter
		if st := w.group(); st.Suspended || st.Waiting != 100 {
			t.Errorf("suspended %v, %d writes wait", st.Suspended, st.Waiting)
		}
		w.setFault(func() { w.linkDown = false })
		wg.Wait()
		w.settled()
		w.shut()
	})
}

// TestPauseIsBounded has the node stand still for a cut that nobody ends.
func TestPauseIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small, volumeSpec{"a", 4 << 20})
		w.scribble(1, 1, 2, 20)
		w.settled()
		w.host.loop.Do(func(n *core.Node, now time.Duration) {
			n.Receive(now, 1, &core.Pause{Group: groupID, Term: 1 << 40, Attempt: 1})
		})
		at := time.Now()
		w.write(1, 0, make([]byte, 4096))
		if d := time.Since(at); d < 40*time.Millisecond || d > 100*time.Millisecond {
			t.Errorf("a write in a pause took %v; it is held 50 ms at most", d)
		}
		if !w.saw("cut.overdue") {
			t.Error("it did not stand still")
		}
		w.settled()
		w.shut()
	})
}

// TestFullSetSuspends: without a captain the open set can not be closed. Here it is the grants that are missing.
func TestFullSetSuspends(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, primary.Limits{Extent: 64 << 10}, volumeSpec{"a", 16 << 20})
		w.propose(cluster.Command{SetGroup: &cluster.SetGroup{Group: groupID, SetBytes: 1 << 20, PeriodMS: 3600_000}})
		w.sizeOf(1)
		w.attached()
		data := bytes.Repeat([]byte{4}, 1<<20)
		for i := 0; i < 400 && !w.saw("overload.suspend"); i++ {
			w.write(1, int64(i%16)<<20, data)
		}
		if !w.saw("overload.suspend") {
			t.Error("32 sets were granted and 400 were written, and the group was not suspended")
		}
		w.propose(cluster.Command{SetGroup: &cluster.SetGroup{Group: groupID, SetBytes: 64 << 20, PeriodMS: 50}})
		w.settled()
		w.shut()
	})
}

// TestFullSetOfACopyHoldsNobodyUp: a copy that waits for the next set leaves the range free for its clients.
func TestFullSetOfACopyHoldsNobodyUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const size = 256 << 20
		w := newWorld(t, cluster.Async, primary.Limits{Extent: 1 << 20})
		w.propose(cluster.Command{SetGroup: &cluster.SetGroup{Group: groupID, SetBytes: 1 << 20, PeriodMS: 3600_000}})
		w.addFilled("a", size)
		w.attached()
		stands := make(chan struct{})
		w.setFault(func() { w.noRaft = stands }) // no more sets are granted
		left := func() int64 { return w.group().Volumes[0].ToCopy }
		for before := int64(-1); before != left(); time.Sleep(10 * time.Second) {
			before = left()
		}
		if left() == 0 {
			t.Fatal("the copy is whole: the test shows nothing")
		}
		for at := int64(0); at < size; at += 1 << 20 {
			began := time.Now()
			data := make([]byte, 512)
			op := writeOf(at, data)
			if at%(2<<20) == 0 {
				op = func(done func(*nbd.Request, error)) *nbd.Request {
					return nbd.NewRequest(nbd.OpRead, at, 0, nbd.NewBuffer(512), done)
				}
			}
			if err := w.request(op, 1); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(began); d > time.Second {
				t.Fatalf("a request at %d waited for %v", at, d)
			}
		}
		w.setFault(func() { w.noRaft = nil })
		close(stands)
		w.propose(cluster.Command{SetGroup: &cluster.SetGroup{Group: groupID, SetBytes: 64 << 20, PeriodMS: 50}})
		w.settled()
		w.shut()
	})
}

// TestFramesStayInTheNodeWithoutRoom: a frame is taken, and its age begins, only when the link has room for it.
func TestFramesStayInTheNodeWithoutRoom(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small, volumeSpec{"a", 4 << 20})
		w.scribble(1, 1, 2, 20)
		w.settled()
		room := make(chan struct{})
		w.setFault(func() { w.noRoom = room })
		time.Sleep(time.Second) // the sender has come to wait for room
		before := w.host.p.Status().Frames
		for i := range 100 {
			w.write(1, int64(i)*4096, bytes.Repeat([]byte{6}, 4096))
		}
		time.Sleep(10 * time.Second)
		if n := w.host.p.Status().Frames - before; n > 0 {
			t.Errorf("%d frames were taken without room for them", n)
		}
		close(room)
		w.settled()
		if n := w.host.p.Status().Frames - before; n > 600 {
			t.Errorf("%d frames for 100 writes and some hundred marks", n)
		}
		w.shut()
	})
}

// TestSilentLinkDoesNotHoldUpClose closes while a sender waits for room.
func TestSilentLinkDoesNotHoldUpClose(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small, volumeSpec{"a", 4 << 20})
		w.sizeOf(1)
		w.attached()
		w.setFault(func() { w.noRoom = make(chan struct{}) })
		w.write(1, 0, make([]byte, 4096))
		time.Sleep(time.Second)
		w.shut()
	})
}
