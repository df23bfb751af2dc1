package primary_test

import (
	"bytes"
	"testing"

	"flotilla/agent/core/cluster"
	"flotilla/blockdev"
)

// TestRecopy replaces the target by an empty one, with writes going on, with a restart before and after the new copy has
// begun, and of a volume that was copied in the very incarnation that runs.
func TestRecopy(t *testing.T) {
	for _, mode := range []cluster.Mode{cluster.Async, cluster.Sync} {
		t.Run(mode.String(), func(t *testing.T) { inBubble(t, func(t *testing.T) { recopy(t, mode) }) })
	}
}

func recopy(t *testing.T, mode cluster.Mode) {
	const size = 4 << 20
	limits := small
	limits.CopyRate = 4 << 20 // so that a restart can come in the middle of a copy
	w := newWorld(t, mode, limits, volumeSpec{"a", size}, volumeSpec{"b", size})
	w.scribble(1, 1, 2, 50)
	w.settled()
	replace := func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.targets[1] = blockdev.NewMemory(size)
		if _, err := w.targets[1].WriteAt(bytes.Repeat([]byte{0xee}, size), 0); err != nil {
			t.Error(err)
		}
	}
	for round, restart := range []func(){
		func() {},
		func() { w.shut(); w.start() },
		func() {
			w.eventually("the copy has begun", func() bool { st := w.group(); return len(st.Volumes) == 2 && st.Volumes[0].ToCopy > 0 })
			w.shut()
			w.start()
		},
	} {
		replace()
		w.propose(cluster.Command{RecopyVolume: &cluster.RecopyVolume{Volume: 1}})
		w.eventually("the volume is out of the recovery points", func() bool {
			_, g := w.view()
			return g.Volumes[1].Copy != 0 && g.Volumes[1].CopiedAt == 0
		})
		restart()
		w.scribble(uint64(round+2), 1, 2, 20)
		w.settled()
	}
	w.shut()
}
