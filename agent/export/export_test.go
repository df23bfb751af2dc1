package export_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"flotilla/agent/export"
	"flotilla/blockdev"
	"flotilla/blockdev/faulty"
	"flotilla/nbd"
	"flotilla/nbd/nbdclient"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dial serves an export and returns a client of it.
func dial(t *testing.T, e nbd.Export) (context.Context, *nbdclient.Client) {
	t.Helper()
	srv, err := nbd.New(nbd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.AddExport("db/data", e); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "nbd")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(ctx, l); err != nil && ctx.Err() == nil {
			t.Errorf("serve: %v", err)
		}
	}()
	c, err := nbdclient.Dial(ctx, "unix", path, "db/data")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		cancel()
		<-done
	})
	return ctx, c
}

func TestExportDoesWhatTheDeviceDoes(t *testing.T) {
	dev := faulty.New(blockdev.NewMemory(1<<20 + 4096))
	ctx, c := dial(t, export.New(dev, export.Options{Size: 1 << 20, Description: "test"}))
	data := bytes.Repeat([]byte("abcdefgh"), 1024)
	if err := c.WriteAt(ctx, data, 4096, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Trim(ctx, 4096, 1024, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteZeroes(ctx, 5120, 1024, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	want := append(make([]byte, 2048), data[2048:]...)
	have := make([]byte, len(data))
	if err := c.ReadAt(ctx, have, 4096); err != nil || !bytes.Equal(have, want) {
		t.Errorf("read back: %v, equal %v", err, bytes.Equal(have, want))
	}
	for op, n := range map[faulty.Op]int{faulty.Trim: 1, faulty.WriteZeroes: 1, faulty.Flush: 1} {
		if got := dev.Calls(op); got != n {
			t.Errorf("the device saw %d of %v, want %d", got, op, n)
		}
	}
	if err := c.ReadAt(ctx, have, 1<<20); err == nil {
		t.Error("what lies behind the volume can be read")
	}
}

func TestExportTellsErrors(t *testing.T) {
	dev := faulty.New(blockdev.NewMemory(1 << 20))
	ctx, c := dial(t, export.New(dev, export.Options{}))
	for err, want := range map[error]nbd.Errno{
		nil:                    nbd.EIO, // what faulty makes of it
		blockdev.ErrReadOnly:   nbd.EPERM,
		blockdev.ErrClosed:     nbd.ESHUTDOWN,
		blockdev.ErrOutOfRange: nbd.EINVAL,
	} {
		dev.Inject(faulty.Fault{Op: faulty.Write, Err: err})
		if got := c.WriteAt(ctx, make([]byte, 512), 0, 0); !errors.Is(got, want) {
			t.Errorf("a write that fails with %v: the client sees %v, want %v", err, got, want)
		}
	}
}

func TestReadOnlyExport(t *testing.T) {
	ctx, c := dial(t, export.New(blockdev.NewMemory(1<<20), export.Options{ReadOnly: true}))
	if err := c.WriteAt(ctx, make([]byte, 512), 0, 0); err == nil {
		t.Error("a read-only export was written")
	}
}
