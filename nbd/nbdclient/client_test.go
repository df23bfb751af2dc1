package nbdclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"flotilla/nbd"
	"flotilla/nbd/nbdclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// disk is a Device in memory.
type disk struct {
	mu    sync.RWMutex
	data  []byte
	syncs int
	gate  chan struct{} // if not nil, reads wait for it
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	if d.gate != nil {
		<-d.gate
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return copy(p, d.data[off:]), nil
}

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(d.data[off:], p), nil
}

func (d *disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncs++
	return nil
}

func (d *disk) Trim(off, n int64) error { return d.WriteZeroes(off, n, false, false) }

func (d *disk) WriteZeroes(off, n int64, _, _ bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.data[off : off+n])
	return nil
}

// serve offers d as "disk" and returns the socket's path.
func serve(t *testing.T, d *disk, inline int64) string {
	t.Helper()
	srv, err := nbd.New(nbd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e := nbd.NewDeviceExport(d, nbd.Info{Size: int64(len(d.data)), MaxPayload: 1 << 20}, inline)
	if err := srv.AddExport("disk", e); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return path
}

func dial(t *testing.T, path string) *nbdclient.Client {
	t.Helper()
	c, err := nbdclient.Dial(t.Context(), "unix", path, "disk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestEveryOperation(t *testing.T) {
	d := &disk{data: bytes.Repeat([]byte{7}, 1<<20)}
	c := dial(t, serve(t, d, 0))
	ctx := t.Context()
	if i := c.Info(); i.Size != 1<<20 || i.MaxPayload != 1<<20 || i.MinBlock != 1 {
		t.Errorf("info %+v", i)
	}
	steps := []error{
		c.WriteAt(ctx, []byte("hello"), 100, nbdclient.FUA),
		c.Flush(ctx),
		c.Trim(ctx, 4096, 4096, 0),
		c.WriteZeroes(ctx, 8192, 4096, nbdclient.NoHole|nbdclient.FUA),
	}
	for i, err := range steps {
		if err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
	p := make([]byte, 16384)
	if err := c.ReadAt(ctx, p, 0); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{7}, 16384)
	copy(want[100:], "hello")
	clear(want[4096:12288])
	if !bytes.Equal(p, want) {
		t.Error("wrong data")
	}
	d.mu.RLock()
	if d.syncs != 3 {
		t.Errorf("%d syncs, want 3", d.syncs)
	}
	d.mu.RUnlock()
	if err := c.WriteAt(ctx, p, 1<<20, 0); !errors.Is(err, nbd.ENOSPC) {
		t.Errorf("write past the end: %v", err)
	}
	if err := c.ReadAt(ctx, make([]byte, 2<<20), 0); err == nil {
		t.Error("read above the limit went out")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Flush(ctx); !errors.Is(err, nbdclient.ErrClosed) {
		t.Errorf("flush after Close: %v", err)
	}
}

func TestManyAtATime(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, inline := range []int64{0, 1 << 20} {
		d := &disk{data: make([]byte, 8<<20)}
		c := dial(t, serve(t, d, inline))
		var wg sync.WaitGroup
		for g := range 16 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, uint64(g)))
				base := int64(g) * (512 << 10)
				mirror := make([]byte, 512<<10)
				for range 50 {
					off := rng.IntN(len(mirror) - 1)
					n := 1 + rng.IntN(min(100<<10, len(mirror)-off))
					p := make([]byte, n)
					for i := 0; i < n; i += 512 { // enough to tell blocks apart
						p[i] = byte(1 + rng.IntN(255))
					}
					copy(mirror[off:], p)
					if err := c.WriteAt(t.Context(), p, base+int64(off), 0); err != nil {
						t.Error(err)
						return
					}
					if err := c.ReadAt(t.Context(), p, base+int64(off)); err != nil || !bytes.Equal(p, mirror[off:off+n]) {
						t.Errorf("read back at %d: %v", base+int64(off), err)
						return
					}
				}
				d.mu.RLock()
				defer d.mu.RUnlock()
				if !bytes.Equal(d.data[base:base+512<<10], mirror) {
					t.Error("the disk differs")
				}
			})
		}
		wg.Wait()
	}
}

func TestACancelledReadLeavesItsBufferAlone(t *testing.T) {
	d := &disk{data: bytes.Repeat([]byte{9}, 1<<20), gate: make(chan struct{})}
	c := dial(t, serve(t, d, 0))
	ctx, cancel := context.WithCancel(t.Context())
	p := make([]byte, 4096)
	ended := make(chan error, 1)
	go func() { ended <- c.ReadAt(ctx, p, 0) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(d.gate)
	q := make([]byte, 4096)
	if err := c.ReadAt(t.Context(), q, 0); err != nil || q[0] != 9 { // the stream has kept its place
		t.Fatal(err)
	}
	if !bytes.Equal(p, make([]byte, 4096)) {
		t.Error("the buffer was written to after the method had returned")
	}
}

func TestBadServers(t *testing.T) {
	for name, greeting := range map[string]string{
		"nothing":  "",
		"oldstyle": "NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\x00\x00",
		"too long": "NBDMAGICIHAVEOPT\x00\x03" + "\x00\x03\xe8\x89\x04\x55\x65\xa9\x00\x00\x00\x07\x00\x00\x00\x03\xff\xff\xff\xff",
		"early ack": "NBDMAGICIHAVEOPT\x00\x03" +
			"\x00\x03\xe8\x89\x04\x55\x65\xa9\x00\x00\x00\x07\x00\x00\x00\x01\x00\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, far) }()
			go func() { fmt.Fprint(far, greeting); far.Close() }()
			if c, err := nbdclient.New(t.Context(), near, "disk"); err == nil {
				c.Close()
				t.Error("accepted")
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := nbdclient.New(ctx, near, "disk"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("unknown export", func(t *testing.T) {
		path := serve(t, &disk{data: make([]byte, 4096)}, 0)
		if _, err := nbdclient.Dial(t.Context(), "unix", path, "other"); err == nil {
			t.Error("accepted")
		}
	})
}
