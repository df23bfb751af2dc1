package nbd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flotilla/nbd"
	"flotilla/nbd/internal/proto"
	"flotilla/nbd/nbdclient"
)

// heldBack makes e hand its requests to the channel instead of doing them.
func heldBack(e *memory) chan *nbd.Request {
	ch := make(chan *nbd.Request, 1024)
	e.hold = func(r *nbd.Request) bool { ch <- r; return true }
	return ch
}

func TestRepliesComeInTheOrderOfCompletion(t *testing.T) {
	e := newMemory(mib, inline)
	held := heldBack(e)
	s := start(t, nbd.Limits{}, one(e))
	r := enter(t, s, false)
	for i := range uint64(8) {
		r.send(proto.Request{Type: proto.CmdWrite, Cookie: i, Length: 512}, make([]byte, 512))
	}
	var all []*nbd.Request
	for range 8 {
		all = append(all, <-held)
	}
	for i := 7; i >= 0; i-- {
		e.apply(all[i])
		if code, cookie := r.simple(); code != 0 || cookie != uint64(i) {
			t.Fatalf("reply %v to cookie %d, want %d", code, cookie, i)
		}
	}
}

func TestSlowRequestsDoNotHoldUpOthers(t *testing.T) {
	// Workers 2: one blocked worker leaves the other for the rest.
	e := newMemory(mib, worker)
	block := make(chan struct{})
	d := nbd.NewDeviceExport(blockingDevice{e, block}, nbd.Info{Size: mib}, 0)
	s := start(t, nbd.Limits{Workers: 2}, one(d))
	r := enter(t, s, false)
	r.send(proto.Request{Type: proto.CmdFlush, Cookie: 1}, nil)
	for i := range uint64(20) {
		r.send(proto.Request{Type: proto.CmdRead, Cookie: 10 + i, Length: 512}, nil)
		if code, cookie := r.simple(); code != 0 || cookie != 10+i {
			t.Fatalf("reply %v to %d", code, cookie)
		}
		r.read(512)
	}
	close(block)
	if code, cookie := r.simple(); code != 0 || cookie != 1 {
		t.Fatalf("reply %v to %d", code, cookie)
	}
}

// blockingDevice is a Device over a memory's bytes whose Sync waits.
type blockingDevice struct {
	e     *memory
	block chan struct{}
}

func (d blockingDevice) ReadAt(p []byte, off int64) (int, error) {
	d.e.mu.RLock()
	defer d.e.mu.RUnlock()
	return copy(p, d.e.data[off:]), nil
}

func (d blockingDevice) WriteAt(p []byte, off int64) (int, error) {
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	return copy(d.e.data[off:], p), nil
}

func (d blockingDevice) Sync() error { <-d.block; return nil }

func TestRequestsInFlightAreBounded(t *testing.T) {
	e := newMemory(mib, inline)
	held := heldBack(e)
	s := start(t, nbd.Limits{Requests: 4}, one(e))
	r := enter(t, s, false)
	for i := range uint64(10) {
		r.send(proto.Request{Type: proto.CmdRead, Cookie: i, Length: 512}, nil)
	}
	first := []*nbd.Request{<-held, <-held, <-held, <-held}
	if n := s.Stats().BufferBytes; n != 4*4096 {
		t.Errorf("%d bytes in use, want 4 buffers", n)
	}
	select {
	case <-held:
		t.Fatal("a fifth request in flight")
	case <-time.After(20 * time.Millisecond): // that nothing comes takes a while to see
	}
	e.apply(first[0])
	e.apply(<-held)
	for _, q := range first[1:] {
		e.apply(q)
	}
	for range 5 {
		e.apply(<-held)
	}
	for range 10 {
		if code, _ := r.simple(); code != 0 {
			t.Fatal(code)
		}
		r.read(512)
	}
}

// TestWaitingForRoomSendsReplies has more requests in one piece than may be in
// flight, all answered at once: room comes only by sending the replies.
func TestWaitingForRoomSendsReplies(t *testing.T) {
	for name, limits := range map[string]nbd.Limits{
		"requests": {Requests: 2},
		"bytes":    {Payload: mib, ConnBytes: mib, MemoryBytes: mib},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, limits, one(newMemory(mib, inline)))
			r := enter(t, s, false)
			r.write(bytes.Repeat(proto.Request{Type: proto.CmdRead, Length: 600 << 10}.Append(nil), 10))
			for range 10 {
				if code, _ := r.simple(); code != 0 {
					t.Fatal(code)
				}
				r.read(600 << 10)
			}
			r.write(bytes.Repeat(proto.Request{Type: proto.CmdFlush}.Append(nil), 10))
			for range 10 {
				if code, _ := r.simple(); code != 0 {
					t.Fatal(code)
				}
			}
		})
	}
}

func TestMemoryOfAllConnectionsIsBounded(t *testing.T) {
	e := newMemory(8*mib, inline)
	held := heldBack(e)
	s := start(t, nbd.Limits{Payload: mib, ConnBytes: 2 * mib, MemoryBytes: 3 * mib}, one(e))
	var readers sync.WaitGroup
	for range 3 {
		r := enter(t, s, false)
		for i := range uint64(3) {
			r.send(proto.Request{Type: proto.CmdRead, Cookie: i, Length: mib}, nil)
		}
		readers.Go(func() {
			if n, err := io.CopyN(io.Discard, r.nc, 3*(mib+16)); err != nil {
				t.Errorf("replies end after %d bytes: %v", n, err)
			}
		})
	}
	// Nine requests want 9 MiB; three are let in.
	all := []*nbd.Request{<-held, <-held, <-held}
	select {
	case <-held:
		t.Error("a fourth request got memory")
	case <-time.After(20 * time.Millisecond): // that nothing comes takes a while to see
	}
	for i := range 9 {
		if n := s.Stats().BufferBytes; n > 3*mib {
			t.Errorf("%d bytes in use, the limit is %d", n, 3*mib)
		}
		e.apply(all[i])
		if len(all) < 9 {
			all = append(all, <-held)
		}
	}
	readers.Wait()
}

func TestAFloodWithoutReadingStallsOnlyItself(t *testing.T) {
	e := newMemory(mib, inline)
	s := start(t, nbd.Limits{Payload: mib, ConnBytes: mib, MemoryBytes: 4 * mib, Stall: 300 * time.Millisecond}, one(e))
	flood := enter(t, s, false)
	wrote := make(chan error, 1)
	go func() {
		b := bytes.Repeat(proto.Request{Type: proto.CmdRead, Length: 64 << 10}.Append(nil), 1000)
		for {
			if _, err := flood.nc.Write(b); err != nil {
				wrote <- err
				return
			}
		}
	}()
	other := enter(t, s, false)
	for i := range uint64(50) {
		other.send(proto.Request{Type: proto.CmdRead, Cookie: i, Length: 4096}, nil)
		if code, cookie := other.simple(); code != 0 || cookie != i {
			t.Fatal(code, cookie)
		}
		other.read(4096)
		if n := s.Stats().BufferBytes; n > 2*mib {
			t.Fatalf("%d bytes in use", n)
		}
	}
	if err := <-wrote; err == nil { // cut off after the stall time
		t.Error("the flood was not cut off")
	}
	eventually(t, "the flood's connection to end", func() bool { return s.Stats().Connections == 1 })
}

func TestHalfARequestIsCutOff(t *testing.T) {
	for name, b := range map[string][]byte{
		"half a header":  proto.Request{Type: proto.CmdRead, Length: 512}.Append(nil)[:13],
		"half a payload": append(proto.Request{Type: proto.CmdWrite, Length: 32 << 10}.Append(nil), make([]byte, 100)...),
		"half of a refused payload": append(proto.Request{Type: proto.CmdWrite, Offset: 1 << 60, Length: 32 << 10}.Append(nil),
			make([]byte, 100)...),
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, nbd.Limits{Stall: 100 * time.Millisecond}, one(newMemory(mib, inline)))
			r := enter(t, s, false)
			r.write(b)
			r.wantEnd()

			r = enter(t, s, false) // and one that hangs up instead
			r.write(b)
			r.nc.Close()
			eventually(t, "the connection to end", func() bool { return s.Stats().Connections == 0 })
		})
	}
}

func TestBrokenStreamsEnd(t *testing.T) {
	s := start(t, nbd.Limits{}, one(newMemory(mib, inline)))
	bad := proto.Request{Type: proto.CmdRead, Length: 512}.Append(nil)
	bad[3]++
	for name, b := range map[string][]byte{
		"request magic":  bad,
		"write of 4 GiB": proto.Request{Type: proto.CmdWrite, Length: 1<<32 - 1}.Append(nil),
	} {
		t.Run(name, func(t *testing.T) {
			r := enter(t, s, false)
			r.write(b)
			r.wantEnd()
		})
	}
}

func TestDisconnectAnswersWhatIsInFlight(t *testing.T) {
	e := newMemory(mib, inline)
	held := heldBack(e)
	s := start(t, nbd.Limits{}, one(e))
	r := enter(t, s, false)
	r.send(proto.Request{Type: proto.CmdFlush, Cookie: 3}, nil)
	r.send(proto.Request{Type: proto.CmdDisc}, nil)
	e.apply(<-held)
	if code, cookie := r.simple(); code != 0 || cookie != 3 {
		t.Error(code, cookie)
	}
	r.wantEnd()
}

func TestShutdownAnswersWhatIsInFlight(t *testing.T) {
	e := newMemory(mib, inline)
	held := make(chan *nbd.Request, 1)
	e.hold = func(r *nbd.Request) bool {
		if r.Op == nbd.OpFlush {
			held <- r
		}
		return r.Op == nbd.OpFlush
	}
	s := start(t, nbd.Limits{}, one(e))
	r, idle, shaking := enter(t, s, false), enter(t, s, false), dial(t, s).greet(bothFlags)
	r.send(proto.Request{Type: proto.CmdFlush, Cookie: 1}, nil)
	q := <-held
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	idle.wantEnd()
	shaking.wantEnd()
	eventually(t, "new requests to be refused", func() bool { // connections drain one by one
		r.send(proto.Request{Type: proto.CmdWrite, Cookie: 2, Length: 512}, make([]byte, 512))
		code, cookie := r.simple()
		if cookie != 2 || (code != 0 && code != nbd.ESHUTDOWN) {
			t.Fatalf("new request: %v, cookie %d", code, cookie)
		}
		return code == nbd.ESHUTDOWN
	})
	select {
	case <-stopped:
		t.Fatal("Serve returned with a request in flight")
	default:
	}
	e.apply(q)
	if code, cookie := r.simple(); code != 0 || cookie != 1 {
		t.Errorf("old request: %v, cookie %d", code, cookie)
	}
	r.wantEnd()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestShutdownAbandonsWhatTakesTooLong(t *testing.T) {
	for _, m := range []mode{inline, worker} {
		e := newMemory(mib, m)
		held := make(chan *nbd.Request, 2)
		release := make(chan struct{})
		var served atomic.Bool
		if m == inline {
			e.hold = func(r *nbd.Request) bool { held <- r; return true }
		}
		var exp nbd.Export = e
		if m == worker {
			exp = stuck{e, held, release, &served}
		}
		s := start(t, nbd.Limits{Drain: 50 * time.Millisecond}, one(exp))
		r := enter(t, s, false)
		r.send(proto.Request{Type: proto.CmdRead, Cookie: 1, Length: 4096}, nil)
		q := <-held
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		r.wantEnd()
		if m == inline {
			q.Done(nil) // late: dropped, and the buffer comes back (checked at cleanup)
		} else {
			close(release)
			eventually(t, "the worker to end", func() bool { return served.Load() && s.Stats().BufferBytes == 0 })
		}
	}
}

// stuck is an export whose Serve waits.
type stuck struct {
	*memory
	held    chan *nbd.Request
	release chan struct{}
	served  *atomic.Bool
}

func (e stuck) Serve(r *nbd.Request) {
	e.held <- r
	<-e.release
	e.apply(r)
	e.served.Store(true)
}

func TestRemoveExport(t *testing.T) {
	e := newMemory(mib, inline)
	held := heldBack(e)
	other := newMemory(mib, inline)
	s := start(t, nbd.Limits{}, map[string]nbd.Export{"disk": e, "other": other})
	r := enter(t, s, false)
	r.send(proto.Request{Type: proto.CmdFlush, Cookie: 1}, nil)
	q := <-held
	removed := make(chan error, 1)
	go func() { removed <- s.RemoveExport(context.Background(), "disk") }()
	eventually(t, "the export to vanish", func() bool {
		return dial(t, s).greet(bothFlags).final(proto.OptInfo, goData("disk")) == proto.RepErrUnknown
	})
	select {
	case <-removed:
		t.Fatal("removed with a request in flight")
	default:
	}
	e.apply(q)
	if err := <-removed; err != nil {
		t.Error(err)
	}
	if err := s.RemoveExport(context.Background(), "disk"); !errors.Is(err, nbd.ErrUnknownExport) {
		t.Errorf("second removal: %v", err)
	}
	if err := s.AddExport("other", e); !errors.Is(err, nbd.ErrExportExists) {
		t.Errorf("name taken: %v", err)
	}
	// The name is free again; a removal whose time is over does not wait.
	if err := s.AddExport("disk", e); err != nil {
		t.Fatal(err)
	}
	r = enter(t, s, false)
	r.send(proto.Request{Type: proto.CmdFlush, Cookie: 1}, nil)
	q = <-held
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.RemoveExport(ctx, "disk"); err != nil {
		t.Error(err)
	}
	r.wantEnd()
	q.Done(nil)
}

func TestExportsMayRetainData(t *testing.T) {
	e := newMemory(mib, inline)
	kept := make(chan *nbd.Buffer, 20)
	e.hold = func(r *nbd.Request) bool {
		if r.Op == nbd.OpWrite {
			r.Buffer().Retain()
			kept <- r.Buffer()
		}
		return false
	}
	s := start(t, nbd.Limits{}, one(e))
	r := enter(t, s, false)
	for i := range 20 {
		r.send(proto.Request{Type: proto.CmdWrite, Length: 4096}, bytes.Repeat([]byte{byte(i)}, 4096))
		r.simple()
	}
	for i := range 20 {
		b := <-kept
		if !bytes.Equal(b.Bytes(), bytes.Repeat([]byte{byte(i)}, 4096)) {
			t.Errorf("retained data %d were overwritten", i)
		}
		b.Release()
	}
}

func TestServeTransmissionNeedsNoHandshake(t *testing.T) {
	e := newMemory(mib, inline)
	srv, err := nbd.New(nbd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe() // not a socket: the way without vectored calls
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTransmission(context.Background(), far, e) }()
	r := &raw{t, near}
	payload := bytes.Repeat([]byte{5}, 40000)
	r.send(proto.Request{Type: proto.CmdWrite, Cookie: 1, Length: 40000}, payload)
	if code, _ := r.simple(); code != 0 {
		t.Fatal(code)
	}
	r.send(proto.Request{Type: proto.CmdRead, Cookie: 1, Length: 40000}, nil)
	if code, _ := r.simple(); code != 0 || !bytes.Equal(r.read(40000), payload) {
		t.Fatal(code)
	}
	r.send(proto.Request{Type: proto.CmdDisc}, nil)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestServeOverTCP(t *testing.T) {
	s := start(t, nbd.Limits{}, one(newMemory(8*mib, async))) // a second listener beside the Unix one
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	c, err := nbdclient.Dial(ctx, "tcp", l.Addr().String(), "disk")
	if err != nil {
		t.Fatal(err)
	}
	want, got := bytes.Repeat([]byte("flotilla"), mib/2), make([]byte, 4*mib)
	if err := errors.Join(c.WriteAt(ctx, want, 4096, nbdclient.FUA), c.ReadAt(ctx, got, 4096), c.Close()); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("wrong data")
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestCompletingTwicePanics(t *testing.T) {
	e := newMemory(mib, inline)
	held := heldBack(e)
	s := start(t, nbd.Limits{}, one(e))
	r := enter(t, s, false)
	r.send(proto.Request{Type: proto.CmdFlush}, nil)
	q := <-held
	q.Done(nil)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	q.Done(nil)
}
