package primary_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"flotilla/agent/core/cluster"
	"flotilla/agent/primary"
	"flotilla/nbd"
	"flotilla/nbd/nbdclient"
)

// TestServedOverNBD uses a volume through a real server and real connections, and looks that no payload is kept for good.
func TestServedOverNBD(t *testing.T) {
	for _, mode := range []cluster.Mode{cluster.Async, cluster.Sync} {
		t.Run(mode.String(), func(t *testing.T) { servedOverNBD(t, mode, false) })
		t.Run(mode.String()+" cached", func(t *testing.T) { servedOverNBD(t, mode, true) })
	}
}

func servedOverNBD(t *testing.T, mode cluster.Mode, cached bool) {
	seed := seedOf(t)
	srv, err := nbd.New(nbd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "nbd.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := srv.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	w := newWorld(t, mode, primary.Limits{Extent: 64 << 10})
	w.shut()
	w.server, w.cached = srv, cached
	w.start()
	const size = 8 << 20
	w.addVolume(0, volumeSpec{"a", size})
	w.propose(*w.createVolume(volumeSpec{"a", size}))
	w.sizeOf(1)

	want := make([]byte, size)
	var clients sync.WaitGroup
	for k := range 4 { // each has a part of its own, so that the outcome is known
		clients.Go(func() {
			c, err := nbdclient.Dial(ctx, "unix", socket, "g/a")
			if err != nil {
				t.Error(err)
				return
			}
			rng := rand.New(rand.NewPCG(seed, uint64(k)))
			part := want[k*size/4 : (k+1)*size/4]
			for range 100 {
				n := 512 * (1 + rng.IntN(256))
				at := 512 * rng.IntN((len(part)-n)/512+1)
				off := int64(k*size/4 + at)
				if rng.IntN(5) == 0 {
					clear(part[at : at+n])
					err = c.WriteZeroes(ctx, off, uint32(n), 0)
				} else {
					for i := range n {
						part[at+i] = byte(rng.Uint32())
					}
					err = c.WriteAt(ctx, part[at:at+n], off, 0)
				}
				if err != nil {
					t.Errorf("seed %d: %v", seed, err)
					break
				}
			}
			if err := errors.Join(c.Flush(ctx), c.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	clients.Wait()
	w.settled()
	if !bytes.Equal(content(t, w.targets[1]), want) {
		t.Errorf("seed %d: source and target agree, but not with what was written", seed)
	}
	if n := w.host.p.Status().Inlined; (n > 0) != (cached && mode == cluster.Async) {
		t.Errorf("%d requests were done without a worker, in mode %v with cached=%v", n, mode, cached)
	}
	w.eventually("all payloads are released", func() bool { return srv.Stats().BufferBytes == 0 })
	idle, err := nbdclient.Dial(ctx, "unix", socket, "g/a")
	if err != nil {
		t.Fatal(err)
	}
	w.shut() // with a client connected
	if err := idle.WriteAt(ctx, make([]byte, 512), 0, 0); err == nil {
		t.Error("a write after Close was acknowledged")
	}
	_ = idle.Close() // the server has closed it
	stop()
	serving.Wait()
}
