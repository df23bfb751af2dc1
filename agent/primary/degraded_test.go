package primary_test

import (
	"bytes"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/agent/primary"
)

// degradable makes a world whose group goes on when its writes can not be held for a second.
func degradable(t *testing.T, limits primary.Limits) *world {
	w := newWorld(t, cluster.Sync, limits, volumeSpec{"a", 8 << 20})
	w.propose(cluster.Command{SetGroup: &cluster.SetGroup{
		Group: groupID, OnDegraded: new(cluster.AsyncDegraded), DegradeAfterMS: new(int64(1000)),
	}})
	w.scribble(1, 1, 2, 20)
	w.settled()
	return w
}

func (w *world) phase() cluster.DegradePhase {
	_, g := w.view()
	return g.DegradedPhase()
}

// TestDegradedGoesOn takes the link away. The write that waits is answered once it is recorded that the group is degraded,
// those that follow at once; when the link is back writes are acknowledged as held again.
func TestDegradedGoesOn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := degradable(t, small)
		w.setFault(func() { w.linkDown = true })
		at := time.Now()
		w.write(1, 65536, bytes.Repeat([]byte{3}, 4096))
		if d := time.Since(at); d < time.Second || d > 1500*time.Millisecond {
			t.Errorf("answered after %v: it is to degrade after 1 s", d)
		}
		if p := w.phase(); p != cluster.Degraded || !w.saw("group.degraded") {
			t.Errorf("a write that is held nowhere was answered while the group was %q", p)
		}
		at = time.Now()
		for i := range 20 {
			w.write(1, int64(i)*65536, bytes.Repeat([]byte{4}, 4096))
		}
		if d := time.Since(at); d > 100*time.Millisecond {
			t.Errorf("20 writes of a degraded group took %v", d)
		}
		time.Sleep(5 * time.Second)
		if p := w.phase(); p != cluster.Degraded {
			t.Errorf("the link is down and the group is %q", p)
		}
		w.setFault(func() { w.linkDown = false })
		w.eventually("the group is synchronous again", func() bool { return w.phase() == 0 && w.saw("group.synchronous-again") })
		v, _ := w.view()
		if v.Early || v.HeldUpTo == 0 {
			t.Errorf("it is synchronous again in %+v", v)
		}
		w.setFault(func() { w.noStore = true })
		answered := make(chan error, 1)
		w.begin(writeOf(0, make([]byte, 4096)), 1, func(err error) { answered <- err })
		time.Sleep(500 * time.Millisecond)
		if len(answered) != 0 {
			t.Error("a write was answered before it was held, in less than the time after which the group degrades")
		}
		w.storeAgain()
		if err := <-answered; err != nil {
			t.Error(err)
		}
		w.settled()
		w.shut()
	})
}

// TestDegradedIsBounded has more written than the queue takes: the group is suspended as an async one, and resyncs.
func TestDegradedIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := degradable(t, tight)
		w.setFault(func() { w.linkDown = true })
		for i := range 400 {
			w.write(1, int64(i%100)*65536, bytes.Repeat([]byte{byte(i)}, 64<<10))
		}
		if !w.saw("overload.suspend") {
			t.Error("25 MiB were written to a link that is down, and the group was not suspended")
		}
		w.setFault(func() { w.linkDown = false })
		w.eventually("the group is synchronous again", func() bool { return w.phase() == 0 })
		w.settled()
		w.shut()
	})
}

// TestDegradedRestart: a primary that restarts while the group is degraded serves at once, and a write is answered before the
// resync is whole.
func TestDegradedRestart(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := degradable(t, small)
		w.setFault(func() { w.linkDown = true })
		w.write(1, 65536, bytes.Repeat([]byte{3}, 4096))
		w.die()
		w.start()
		w.sizeOf(1)
		at := time.Now()
		w.write(1, 0, bytes.Repeat([]byte{5}, 4096))
		if v, _ := w.view(); v.Whole || time.Since(at) > 5*time.Second {
			t.Errorf("the write was answered after %v in %+v", time.Since(at), v)
		}
		w.setFault(func() { w.linkDown = false })
		w.eventually("the group is synchronous again", func() bool { return w.phase() == 0 })
		if v, _ := w.view(); !v.Whole {
			t.Errorf("the group is synchronous in %+v", v)
		}
		w.settled()
		w.shut()
	})
}

// TestDegradedByOperator has the contract changed to block while the group is degraded: writes wait again.
func TestDegradedByOperator(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := degradable(t, small)
		w.setFault(func() { w.linkDown = true })
		w.write(1, 65536, bytes.Repeat([]byte{3}, 4096))
		w.propose(cluster.Command{SetGroup: &cluster.SetGroup{Group: groupID, OnDegraded: new(cluster.BlockDegraded)}})
		w.eventually("it is ending", func() bool { return w.phase() == cluster.DegradeEnding })
		answered := make(chan error, 1)
		w.begin(writeOf(0, make([]byte, 4096)), 1, func(err error) { answered <- err })
		time.Sleep(20 * time.Second)
		if len(answered) != 0 {
			t.Error("a write that is held nowhere was answered by a group that blocks")
		}
		w.setFault(func() { w.linkDown = false })
		if err := <-answered; err != nil {
			t.Error(err)
		}
		w.eventually("the group is synchronous again", func() bool { return w.phase() == 0 })
		w.settled()
		w.shut()
	})
}
