package nbd_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"flotilla/nbd"
	"flotilla/nbd/internal/proto"
)

// feed gives a server input, hangs up, and fails unless the connection then
// ends in time with all its memory given back.
func feed(t *testing.T, input []byte, serve func(*nbd.Server, net.Conn)) {
	limits := nbd.Limits{Payload: mib, ConnBytes: mib, MemoryBytes: mib, Handshake: 5 * time.Second, Stall: 5 * time.Second}
	srv, err := nbd.New(nbd.Options{Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.AddExport("disk", newMemory(mib, inline)); err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	ended := make(chan struct{})
	go func() { serve(srv, far); close(ended) }()
	drained := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, near); close(drained) }()
	_ = near.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_, _ = near.Write(input)
	_ = near.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the connection does not end")
	}
	<-drained
	if n := srv.Stats().BufferBytes; n != 0 {
		t.Fatalf("%d bytes of buffers in use", n)
	}
}

func FuzzHandshake(f *testing.F) {
	flags := []byte{0, 0, 0, 3}
	option := func(opt uint32, data []byte) []byte {
		return append(proto.AppendOption(nil, opt, uint32(len(data))), data...)
	}
	join := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	read := proto.Request{Type: proto.CmdRead, Length: 4096}.Append(nil)
	f.Add(join(flags, option(proto.OptGo, goData("disk", 3)), read))
	f.Add(join(flags, option(proto.OptExportName, []byte("disk")), read))
	f.Add(join(flags, option(proto.OptList, nil), option(proto.OptAbort, nil)))
	f.Add(join(flags, option(proto.OptStructuredReply, nil), option(proto.OptListMetaContext, metaData("disk", "base:")),
		option(proto.OptSetMetaContext, metaData("disk", "base:allocation")), option(proto.OptGo, goData("")), read,
		proto.Request{Type: proto.CmdBlockStatus, Length: 8192}.Append(nil)))
	f.Fuzz(func(t *testing.T, input []byte) {
		feed(t, input, func(s *nbd.Server, nc net.Conn) { _ = s.ServeConn(context.Background(), nc) })
	})
}

func FuzzTransmission(f *testing.F) {
	var all []byte
	for cmd := range uint16(10) {
		all = proto.Request{Type: cmd, Flags: cmd, Cookie: uint64(cmd), Offset: 512, Length: 16}.Append(all)
		if cmd == proto.CmdWrite {
			all = append(all, make([]byte, 16)...)
		}
		f.Add(all)
	}
	f.Add(append(proto.Request{Type: proto.CmdWrite, Length: 70000}.Append(nil), make([]byte, 70000)...))
	f.Add(append(proto.Request{Type: proto.CmdWrite, Length: 2 * mib}.Append(nil), make([]byte, 2*mib)...))
	f.Fuzz(func(t *testing.T, input []byte) {
		feed(t, input, func(s *nbd.Server, nc net.Conn) {
			_ = s.ServeTransmission(context.Background(), nc, newMemory(mib, inline))
		})
	})
}
