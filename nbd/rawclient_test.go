package nbd_test

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"flotilla/nbd"
	"flotilla/nbd/internal/proto"
)

// raw speaks the protocol byte by byte, so that it can also speak it wrongly.
type raw struct {
	t  testing.TB
	nc net.Conn
}

func dial(t testing.TB, s *running) *raw {
	t.Helper()
	nc, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	return &raw{t: t, nc: nc}
}

func (r *raw) write(b []byte) {
	r.t.Helper()
	if _, err := r.nc.Write(b); err != nil {
		r.t.Fatalf("write: %v", err)
	}
}

func (r *raw) read(n int) []byte {
	r.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r.nc, b); err != nil {
		r.t.Fatalf("read %d bytes: %v", n, err)
	}
	return b
}

// wantEnd fails unless the server closes the connection without another byte.
func (r *raw) wantEnd() {
	r.t.Helper()
	var b [1]byte
	n, err := r.nc.Read(b[:])
	if ne, ok := err.(net.Error); n > 0 || err == nil || (ok && ne.Timeout()) {
		r.t.Fatalf("read %d bytes (%v), want the end of the connection", n, err)
	}
}

// greet goes through the greeting with the given client flags.
func (r *raw) greet(flags uint32) *raw {
	r.t.Helper()
	g := r.read(18)
	if binary.BigEndian.Uint64(g) != proto.InitMagic || binary.BigEndian.Uint64(g[8:]) != proto.OptionMagic ||
		binary.BigEndian.Uint16(g[16:]) != proto.FlagFixedNewstyle|proto.FlagNoZeroes {
		r.t.Fatalf("greeting %x", g)
	}
	r.write(binary.BigEndian.AppendUint32(nil, flags))
	return r
}

const bothFlags = proto.ClientFixedNewstyle | proto.ClientNoZeroes

type optReply struct {
	kind uint32
	data []byte
}

// option sends an option and returns the replies up to the final one.
func (r *raw) option(opt uint32, data []byte) []optReply {
	r.t.Helper()
	r.write(append(proto.AppendOption(nil, opt, uint32(len(data))), data...))
	return r.optionReplies(opt)
}

func (r *raw) optionReplies(opt uint32) []optReply {
	r.t.Helper()
	var all []optReply
	for {
		h := r.read(20)
		if binary.BigEndian.Uint64(h) != proto.OptionReplyMagic || binary.BigEndian.Uint32(h[8:]) != opt {
			r.t.Fatalf("reply header %x to option %d", h, opt)
		}
		rep := optReply{binary.BigEndian.Uint32(h[12:]), r.read(int(binary.BigEndian.Uint32(h[16:])))}
		all = append(all, rep)
		if rep.kind == proto.RepAck || rep.kind&proto.RepErrFlag != 0 {
			return all
		}
	}
}

// final sends an option and returns the type of the final reply.
func (r *raw) final(opt uint32, data []byte) uint32 {
	r.t.Helper()
	all := r.option(opt, data)
	return all[len(all)-1].kind
}

func str(s string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)
}

func goData(name string, infos ...uint16) []byte {
	b := binary.BigEndian.AppendUint16(str(name), uint16(len(infos)))
	for _, i := range infos {
		b = binary.BigEndian.AppendUint16(b, i)
	}
	return b
}

func metaData(name string, queries ...string) []byte {
	b := binary.BigEndian.AppendUint32(str(name), uint32(len(queries)))
	for _, q := range queries {
		b = append(b, str(q)...)
	}
	return b
}

// enter goes to the transmission phase of the export "disk".
func enter(t testing.TB, s *running, structured bool) *raw {
	t.Helper()
	r := dial(t, s).greet(bothFlags)
	if structured {
		if got := r.final(proto.OptStructuredReply, nil); got != proto.RepAck {
			t.Fatalf("structured replies: %#x", got)
		}
		if got := r.final(proto.OptSetMetaContext, metaData("disk", "base:allocation")); got != proto.RepAck {
			t.Fatalf("set meta context: %#x", got)
		}
	}
	if got := r.final(proto.OptGo, goData("disk")); got != proto.RepAck {
		t.Fatalf("GO: %#x", got)
	}
	return r
}

func (r *raw) send(q proto.Request, data []byte) {
	r.t.Helper()
	r.write(append(q.Append(nil), data...))
}

// simple reads a simple reply.
func (r *raw) simple() (nbd.Errno, uint64) {
	r.t.Helper()
	h := r.read(proto.SimpleReplySize)
	if binary.BigEndian.Uint32(h) != proto.SimpleReplyMagic {
		r.t.Fatalf("simple reply %x", h)
	}
	return nbd.Errno(binary.BigEndian.Uint32(h[4:])), binary.BigEndian.Uint64(h[8:])
}

type chunk struct {
	flags, kind uint16
	cookie      uint64
	data        []byte
}

func (c chunk) errno() nbd.Errno {
	if c.kind != proto.ReplyError {
		return 0
	}
	return nbd.Errno(binary.BigEndian.Uint32(c.data))
}

// chunk reads a structured reply chunk.
func (r *raw) chunk() chunk {
	r.t.Helper()
	h := r.read(proto.ChunkHeaderSize)
	if binary.BigEndian.Uint32(h) != proto.StructuredReplyMagic {
		r.t.Fatalf("chunk header %x", h)
	}
	return chunk{
		flags:  binary.BigEndian.Uint16(h[4:]),
		kind:   binary.BigEndian.Uint16(h[6:]),
		cookie: binary.BigEndian.Uint64(h[8:]),
		data:   r.read(int(binary.BigEndian.Uint32(h[16:]))),
	}
}
