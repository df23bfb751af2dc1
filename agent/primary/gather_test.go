package primary_test

import (
	"bytes"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/agent/primary"
)

// TestFramesGather: writes of an async group leave together, those of a sync group, whose clients wait, at once.
func TestFramesGather(t *testing.T) {
	const writes, gather = 100, 10 * time.Millisecond
	for _, mode := range []cluster.Mode{cluster.Async, cluster.Sync} {
		t.Run(mode.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, mode, primary.Limits{Extent: 64 << 10, Gather: gather}, volumeSpec{"a", 1 << 20})
				w.sizeOf(1)
				w.settled()
				before, sets, began := w.host.p.Status().Frames, w.group().Open, time.Now()
				for i := range writes {
					w.write(1, int64(i)*4096, bytes.Repeat([]byte{6}, 4096))
					if mode == cluster.Async {
						time.Sleep(time.Millisecond)
					}
				}
				took := time.Since(began)
				w.settled()
				frames := int(w.host.p.Status().Frames-before) - 2*int(w.group().Open-sets) // a mark is alone, and cuts a frame in two
				if most := int(took/gather) + 2; mode == cluster.Async && frames > most {
					t.Errorf("%d writes in %v took %d frames, want at most %d", writes, took, frames, most)
				}
				if mode == cluster.Sync && took > writes*gather/2 {
					t.Errorf("%d writes, one after the other, took %v: they wait for others to gather", writes, took)
				}
				w.shut()
			})
		})
	}
}
