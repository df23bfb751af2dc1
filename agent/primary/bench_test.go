package primary_test

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/primary"
	"flotilla/nbd"
	"flotilla/wire"
)

// benchWorld is attached, with memory below, and its frames are not compressed.
func benchWorld(b *testing.B) *world {
	w := newWorld(b, cluster.Async, primary.Limits{PaceMark: 1 << 40, QueueLimit: 1 << 41, KeepExtents: 1 << 20}, volumeSpec{"a", 256 << 20})
	w.shut()
	w.codec = wire.CodecRaw
	w.start()
	w.attached()
	w.settled()
	b.ReportAllocs()
	return w
}

// BenchmarkSubmit is what numbering one 4 KiB write costs in the loop, with the frames being sent and held meanwhile.
func BenchmarkSubmit(b *testing.B) {
	w := benchWorld(b)
	defer w.shut()
	data := make([]byte, 4096)
	ups := []wire.Update{{Volume: 1, Kind: wire.KindWrite, Length: 4096, Data: data}}
	f := func(n *core.Node, now time.Duration) {
		if _, _, err := n.Submit(now, groupID, ups, nil); err != nil {
			b.Error(err)
		}
	}
	b.ResetTimer()
	for i := range b.N {
		ups[0].Offset = uint64(i%65536) * 4096
		ups[0].Portion = uint32(ups[0].Offset / portionSize)
		w.host.loop.Do(f)
		if i%1024 == 0 {
			drain(w, 64<<20)
		}
	}
}

// drain waits until less than so many bytes are not held: what a benchmark measures must not be an ever longer queue.
func drain(w *world, limit int64) {
	for {
		v, _ := w.view()
		if v.Queued < limit {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// BenchmarkWrite4K is a write's whole way in one process: request, source in memory, numbering, frame, journal in memory,
// ack, release, and the set's application.
func BenchmarkWrite4K(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(fmt.Sprintf("depth=%d", depth), func(b *testing.B) {
			w := benchWorld(b)
			defer w.shut()
			b.SetBytes(4096)
			e := w.host.p.Export(1)
			var wg sync.WaitGroup
			b.ResetTimer()
			for k := range depth {
				wg.Go(func() {
					done := make(chan error, 1)
					for i := k; i < b.N; i += depth {
						buf := nbd.NewBuffer(4096)
						e.Serve(nbd.NewRequest(nbd.OpWrite, int64(i%65536)*4096, 0, buf, func(r *nbd.Request, err error) {
							r.Buffer().Release()
							done <- err
						}))
						if err := <-done; err != nil {
							b.Error(err)
						}
						if i%1024 == 0 {
							drain(w, 64<<20)
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			runtime.KeepAlive(e)
		})
	}
}
