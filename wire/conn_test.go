package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"flotilla/wire"
)

// recorder is a stream that keeps what is written and counts the writes.
type recorder struct {
	net.Conn
	in     io.Reader
	out    bytes.Buffer
	writes int
	fail   error
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.fail != nil {
		return 0, r.fail
	}
	r.writes++
	return r.out.Write(p)
}
func (r *recorder) Read(p []byte) (int, error) { return r.in.Read(p) }
func (r *recorder) RemoteAddr() net.Addr       { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 7} }

func tcpPair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialed := make(chan net.Conn, 1)
	go func() {
		c, _ := net.DialTimeout("tcp", ln.Addr().String(), 10*time.Second)
		dialed <- c
	}()
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	left := <-dialed
	t.Cleanup(func() { accepted.Close(); left.Close() })
	return left, accepted
}

func drawMessages(t *rapid.T) []wire.Message {
	msgs := make([]wire.Message, rapid.IntRange(0, 12).Draw(t, "messages"))
	for i := range msgs {
		m := &msgs[i]
		m.Type = rapid.SampledFrom([]wire.Type{wire.TypeFrame, wire.TypeControl, 255}).Draw(t, "type")
		m.Flags = rapid.Byte().Draw(t, "flags")
		n := rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(4000, 4200), rapid.IntRange(60_000, 150_000)).Draw(t, "length")
		m.Payload = bytes.Repeat([]byte{byte(i + 1)}, n)
		if m.Type == wire.TypeFrame {
			m.Route = wire.Route{
				No: rapid.Uint64().Draw(t, "no"), View: wire.View(rapid.Uint64().Draw(t, "view")),
				Owner: wire.AgentID(rapid.Uint64().Draw(t, "owner")), Mirror: 2, Via: 3, Flags: rapid.Uint16().Draw(t, "route flags"),
			}
		}
	}
	return msgs
}

// Both ways of writing make the same bytes, and reading them gives the messages back, over TCP and below TLS.
func TestConnRoundTrip(t *testing.T) {
	left, right := tcpPair(t)
	reader := wire.NewConn(right, wire.ConnOptions{})
	vectored := wire.NewConn(left, wire.ConnOptions{})
	rapid.Check(t, func(t *rapid.T) {
		msgs := drawMessages(t)
		rec := &recorder{}
		if err := wire.NewConn(rec, wire.ConnOptions{}).WriteMessages(msgs...); err != nil {
			t.Fatal(err)
		}
		rec.in = bytes.NewReader(rec.out.Bytes())
		staged := wire.NewConn(rec, wire.ConnOptions{})
		sent := make(chan error, 1)
		go func() { sent <- vectored.WriteMessages(msgs...) }()
		for i := range msgs {
			for _, c := range []*wire.Conn{staged, reader} {
				m, err := c.ReadMessage()
				if err != nil {
					t.Fatal(err)
				}
				if !cmp.Equal(m, msgs[i], sameBytes) {
					t.Fatalf("message %d of type %v, %d bytes came as %v, %d bytes", i, msgs[i].Type, len(msgs[i].Payload), m.Type, len(m.Payload))
				}
			}
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if _, err := staged.ReadMessage(); err != io.EOF {
			t.Fatalf("at the end: %v", err)
		}
	})
}

func TestConnWritesFewTimes(t *testing.T) {
	var msgs []wire.Message
	for range 100 {
		msgs = append(msgs, wire.Message{Type: wire.TypeControl, Payload: make([]byte, 500)})
	}
	rec := &recorder{}
	if err := wire.NewConn(rec, wire.ConnOptions{}).WriteMessages(msgs...); err != nil {
		t.Fatal(err)
	}
	if rec.writes != 1 {
		t.Errorf("100 messages of 500 bytes took %d writes", rec.writes)
	}
}

func TestConnRefusesOnWrite(t *testing.T) {
	limits := wire.DefaultLimits()
	limits[20], limits[21] = 10, 0
	rec := &recorder{}
	c := wire.NewConn(rec, wire.ConnOptions{Limits: &limits})
	ok := wire.Message{Type: 20, Payload: make([]byte, 10)}
	for _, bad := range []wire.Message{{Type: 0}, {Type: 5}, {Type: 20, Payload: make([]byte, 11)}, {Type: 21}} {
		if err := c.WriteMessages(ok, bad); !errors.Is(err, wire.ErrMessage) {
			t.Errorf("%v of %d bytes: %v", bad.Type, len(bad.Payload), err)
		}
	}
	if rec.writes != 0 {
		t.Error("something was sent before the refusal")
	}
	if err := c.WriteMessages(ok); err != nil {
		t.Error(err)
	}
}

func TestConnRefusesOnRead(t *testing.T) {
	header := func(n uint32, typ, zero byte) []byte {
		h := binary.LittleEndian.AppendUint32(nil, n)
		return append(h, typ, 0, zero, 0)
	}
	var limits wire.Limits
	limits[wire.TypeFrame], limits[wire.TypeControl] = 1000, 100
	frame := append(header(48, 1, 0), wire.Route{No: 1}.Append(nil)...)
	badRoute := slices.Clone(frame)
	badRoute[20] ^= 1
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"empty":          {nil, io.EOF},
		"half a header":  {header(0, 16, 0)[:3], io.ErrUnexpectedEOF},
		"half a payload": {header(9, 16, 0), io.ErrUnexpectedEOF},
		"half a route":   {frame[:30], io.ErrUnexpectedEOF},
		"too long":       {header(101, 16, 0), wire.ErrMessage},
		"4 GiB":          {header(1<<32-1, 1, 0), wire.ErrMessage},
		"unknown type":   {header(0, 17, 0), wire.ErrMessage},
		"short frame":    {header(47, 1, 0), wire.ErrMessage},
		"reserved":       {header(0, 16, 1), wire.ErrCorrupt},
		"route":          {badRoute, wire.ErrCorrupt},
		"whole":          {frame, nil},
	} {
		allocated := 0
		conn := wire.NewConn(&recorder{in: bytes.NewReader(c.in)}, wire.ConnOptions{Limits: &limits, Alloc: func(n int) []byte {
			allocated += n
			return make([]byte, n)
		}})
		_, err := conn.ReadMessage()
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if allocated > 1000 {
			t.Errorf("%s: allocated %d bytes", name, allocated)
		}
		if err != nil {
			if _, again := conn.ReadMessage(); again != err {
				t.Errorf("%s: then %v", name, again)
			}
		}
	}
}

func TestConnKeepsWriteError(t *testing.T) {
	rec := &recorder{fail: errors.New("link is down")}
	c := wire.NewConn(rec, wire.ConnOptions{})
	m := wire.Message{Type: wire.TypeControl, Payload: []byte("x")}
	if err := c.WriteMessages(m); !errors.Is(err, rec.fail) {
		t.Fatal(err)
	}
	want := rec.fail
	rec.fail = nil
	if err := c.WriteMessages(m); !errors.Is(err, want) {
		t.Errorf("after an error: %v", err)
	}
}

func TestCorkedGathersWrites(t *testing.T) {
	rec := &recorder{}
	c := wire.NewCorked(rec)
	write := func(n int) {
		t.Helper()
		if m, err := c.Write(make([]byte, n)); m != n || err != nil {
			t.Fatal(m, err)
		}
	}
	write(10)
	if rec.writes != 1 {
		t.Fatal("uncorked write was held back")
	}
	c.Cork()
	for range 20 {
		write(16 << 10) // 320 KiB: more than may be held
	}
	if rec.writes != 2 {
		t.Errorf("%d writes while corked, want 1 where the buffer was full", rec.writes-1)
	}
	if err := c.Uncork(); err != nil || rec.out.Len() != 10+20*16<<10 {
		t.Errorf("sent %d bytes, %v", rec.out.Len(), err)
	}
	c.Cork()
	write(10)
	rec.fail = errors.New("link is down")
	if err := c.Uncork(); !errors.Is(err, rec.fail) {
		t.Errorf("uncork: %v", err)
	}
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("write after a lost one")
	}
}

func FuzzReadMessage(f *testing.F) {
	rec := &recorder{}
	_ = wire.NewConn(rec, wire.ConnOptions{}).WriteMessages(
		wire.Message{Type: wire.TypeFrame, Route: wire.Route{No: 1, View: 2, Owner: 3}, Payload: []byte("body")},
		wire.Message{Type: wire.TypeControl, Flags: 1, Payload: []byte("vote")})
	f.Add(rec.out.Bytes())
	limits := wire.DefaultLimits()
	for i := range limits {
		limits[i] = min(limits[i], 1<<16)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := wire.NewConn(&recorder{in: bytes.NewReader(raw)}, wire.ConnOptions{Limits: &limits})
		out := &recorder{}
		w := wire.NewConn(out, wire.ConnOptions{Limits: &limits})
		for {
			m, err := c.ReadMessage()
			if err != nil {
				break
			}
			if err := w.WriteMessages(m); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(raw, out.out.Bytes()) {
			t.Fatal("messages do not encode to what they were")
		}
	})
}

func BenchmarkConnFrames(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	done := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			_, err = io.Copy(io.Discard, c)
		}
		done <- err
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	conn := wire.NewConn(c, wire.ConnOptions{})
	msgs := make([]wire.Message, 8)
	for i := range msgs {
		msgs[i] = wire.Message{Type: wire.TypeFrame, Payload: make([]byte, 64<<10)}
	}
	b.SetBytes(8 * 64 << 10)
	b.ReportAllocs()
	for b.Loop() {
		if err := conn.WriteMessages(msgs...); err != nil {
			b.Fatal(err)
		}
	}
	conn.Close()
	<-done
}
