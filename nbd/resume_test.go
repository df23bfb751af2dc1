package nbd_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"testing"
	"time"

	"flotilla/nbd"
	"flotilla/nbd/internal/proto"

	"golang.org/x/sys/unix"
)

// pair returns two connected sockets.
func pair(t *testing.T) (near, far *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []*net.UnixConn
	for _, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		t.Cleanup(func() { _ = c.Close() })
		out = append(out, c.(*net.UnixConn))
	}
	return out[0], out[1]
}

type resumed struct {
	parked *os.File
	err    error
}

func resume(ctx context.Context, srv *nbd.Server, c *net.UnixConn, e nbd.Export) chan resumed {
	ended := make(chan resumed, 1)
	go func() {
		f, err := srv.ServeResumable(ctx, c, e)
		ended <- resumed{f, err}
	}()
	return ended
}

// next takes over what was parked.
func next(t *testing.T, f *os.File) *net.UnixConn {
	t.Helper()
	if f == nil {
		t.Fatal("the connection was not parked")
	}
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn)
}

func newServer(t *testing.T, limits nbd.Limits) *nbd.Server {
	t.Helper()
	srv, err := nbd.New(nbd.Options{Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	return srv
}

// What was read is answered, and what was not waits for the next server, wherever the end cuts the stream: each request is
// answered once.
func TestParkedConnectionGoesOnElsewhere(t *testing.T) {
	for _, part := range []int{0, 10, 28, 3000, 28 + 4096} { // bytes of the second request that come before the end
		e := newMemory(mib, async)
		held := make(chan *nbd.Request, 1)
		e.hold = func(r *nbd.Request) bool {
			if r.Offset == 0 {
				held <- r
			}
			return r.Offset == 0
		}
		near, far := pair(t)
		ctx, cancel := context.WithCancel(context.Background())
		ended := resume(ctx, newServer(t, nbd.Limits{}), far, e)
		r := &raw{t, near}
		block := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 4096) }
		request := func(i int) []byte {
			q := proto.Request{Type: proto.CmdWrite, Cookie: uint64(i), Offset: uint64(i-1) * 4096, Length: 4096}
			return append(q.Append(nil), block(i)...)
		}
		r.write(request(1))
		q := <-held
		r.write(request(2)[:part])
		eventually(t, "the server has read it", func() bool { return waiting(t, far) == 0 })
		cancel()
		r.write(request(2)[part:]) // read by this server if it had begun with it, otherwise by the next
		select {
		case got := <-ended:
			t.Fatalf("part %d: ended with a request in flight: %v", part, got.err)
		default:
		}
		e.apply(q)
		got := <-ended
		if got.err != nil {
			t.Fatal(got.err)
		}
		r.write(request(3)) // nobody serves
		ctx, cancel = context.WithCancel(context.Background())
		ended = resume(ctx, newServer(t, nbd.Limits{}), next(t, got.parked), e)
		answered := map[uint64]int{}
		for range 3 {
			code, cookie := r.simple()
			if code != 0 {
				t.Fatalf("part %d: answer %v of %d", part, code, cookie)
			}
			answered[cookie]++
		}
		if len(answered) != 3 {
			t.Errorf("part %d: answers %v", part, answered)
		}
		if want := bytes.Join([][]byte{block(1), block(2), block(3)}, nil); !bytes.Equal(e.snapshot()[:3*4096], want) {
			t.Errorf("part %d: wrong data", part)
		}
		cancel()
		_ = next(t, (<-ended).parked).Close()
	}
}

// waiting returns how many bytes wait to be read from a socket.
func waiting(t *testing.T, c *net.UnixConn) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A request that ends with the export's end is not answered: its peer would take the error for the device's.
func TestShutdownIsNoAnswerOnAResumableConnection(t *testing.T) {
	e := newMemory(mib, async)
	held := heldBack(e)
	near, far := pair(t)
	ended := resume(context.Background(), newServer(t, nbd.Limits{}), far, e)
	r := &raw{t, near}
	r.send(proto.Request{Type: proto.CmdFlush, Cookie: 1}, nil)
	(<-held).Done(nbd.ESHUTDOWN)
	r.wantEnd()
	if got := <-ended; got.parked != nil {
		t.Error("a connection with an unanswered request was parked")
	}
}

// What is not done in time is left without an answer.
func TestParkingIsBounded(t *testing.T) {
	e := newMemory(mib, async)
	held := heldBack(e)
	near, far := pair(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := resume(ctx, newServer(t, nbd.Limits{Park: 20 * time.Millisecond}), far, e)
	r := &raw{t, near}
	r.send(proto.Request{Type: proto.CmdFlush, Cookie: 1}, nil)
	q := <-held
	cancel()
	r.wantEnd()
	if got := <-ended; got.parked != nil {
		t.Error("a connection with an unanswered request was parked")
	}
	q.Done(nil)
}
