package nbd_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"flotilla/nbd"
	"flotilla/nbd/internal/proto"
)

func TestOptionsAnswerWhatTheProtocolNames(t *testing.T) {
	s := start(t, nbd.Limits{}, one(newMemory(1<<20, inline)))
	long := strings.Repeat("x", 4097)
	tests := []struct {
		name string
		opt  uint32
		data []byte
		want uint32
	}{
		{"unknown option", 77, []byte("data"), proto.RepErrUnsup},
		{"option of an experiment", 11, nil, proto.RepErrUnsup},
		{"STARTTLS", proto.OptStartTLS, nil, proto.RepErrUnsup},
		{"LIST with data", proto.OptList, []byte{1}, proto.RepErrInvalid},
		{"STRUCTURED_REPLY with data", proto.OptStructuredReply, []byte{1}, proto.RepErrInvalid},
		{"INFO unknown export", proto.OptInfo, goData("nope"), proto.RepErrUnknown},
		{"GO unknown export", proto.OptGo, goData("nope"), proto.RepErrUnknown},
		{"GO too long a name", proto.OptGo, goData(long), proto.RepErrInvalid},
		{"GO no UTF-8", proto.OptGo, goData("\xff"), proto.RepErrInvalid},
		{"GO NUL in name", proto.OptGo, goData("a\x00b"), proto.RepErrInvalid},
		{"GO without data", proto.OptGo, nil, proto.RepErrInvalid},
		{"GO name past the end", proto.OptGo, []byte{0, 0, 0, 9, 'x', 0, 0}, proto.RepErrInvalid},
		{"GO name length 2^32-1", proto.OptGo, []byte{255, 255, 255, 255, 'x', 0, 0}, proto.RepErrInvalid},
		{"GO more infos than data", proto.OptGo, append(str("disk"), 0, 2, 0, 1), proto.RepErrInvalid},
		{"INFO trailing data", proto.OptInfo, append(goData("disk"), 7), proto.RepErrInvalid},
		{"too big", 6, make([]byte, 70<<10), proto.RepErrTooBig},
		{"too big and unknown", 99, make([]byte, 1<<20), proto.RepErrTooBig},
		{"LIST_META before structured", proto.OptListMetaContext, metaData("disk"), proto.RepErrInvalid},
		{"SET_META before structured", proto.OptSetMetaContext, metaData("disk", "base:allocation"), proto.RepErrInvalid},
	}
	r := dial(t, s).greet(bothFlags) // one connection: no refusal may lose the place in the stream
	for _, tt := range tests {
		if got := r.final(tt.opt, tt.data); got != tt.want {
			t.Errorf("%s: final reply %#x, want %#x", tt.name, got, tt.want)
		}
	}
	if got := r.final(proto.OptGo, goData("disk")); got != proto.RepAck {
		t.Fatalf("GO after the refusals: %#x", got)
	}
}

func TestInfoDescribesTheExport(t *testing.T) {
	e := newMemory(1<<20, inline)
	e.info.MinBlock, e.info.PreferredBlock, e.info.MaxPayload = 512, 8192, 1<<20
	s := start(t, nbd.Limits{}, one(e))
	r := dial(t, s).greet(bothFlags)
	got := map[uint16][]byte{}
	for _, rep := range r.option(proto.OptInfo, goData("", proto.InfoName, proto.InfoDescription, proto.InfoBlockSize, 999)) {
		if rep.kind == proto.RepInfo {
			got[binary.BigEndian.Uint16(rep.data)] = rep.data[2:]
		}
	}
	want := map[uint16][]byte{
		proto.InfoExport:      {0, 0, 0, 0, 0, 16, 0, 0, 0x0d, 0x6d},
		proto.InfoName:        []byte("disk"),
		proto.InfoDescription: []byte("a test"),
		proto.InfoBlockSize:   {0, 0, 2, 0, 0, 0, 32, 0, 0, 16, 0, 0},
	}
	if len(got) != len(want) {
		t.Errorf("kinds of information: %v", got)
	}
	for k, w := range want {
		if !bytes.Equal(got[k], w) {
			t.Errorf("information %d: %x, want %x", k, got[k], w)
		}
	}
}

func TestMultiConnNeedsFlush(t *testing.T) {
	i := nbd.Info{Features: nbd.CanMultiConn}
	if i.TransmissionFlags()&proto.FlagCanMultiConn != 0 {
		t.Error("CAN_MULTI_CONN without FLUSH")
	}
	i.Features |= nbd.CanFlush
	if i.TransmissionFlags()&proto.FlagCanMultiConn == 0 {
		t.Error("no CAN_MULTI_CONN with FLUSH")
	}
	i.Features = nbd.CanFastZero
	if i.TransmissionFlags()&proto.FlagSendFastZero != 0 {
		t.Error("FAST_ZERO without WRITE_ZEROES")
	}
}

func TestListNamesAllExports(t *testing.T) {
	s := start(t, nbd.Limits{}, map[string]nbd.Export{"a": newMemory(512, inline), "b": newMemory(512, inline)})
	var names []string
	for _, rep := range dial(t, s).greet(bothFlags).option(proto.OptList, nil) {
		if rep.kind == proto.RepServer {
			n := binary.BigEndian.Uint32(rep.data)
			names = append(names, string(rep.data[4:4+n])+"|"+string(rep.data[4+n:]))
		}
	}
	if got := strings.Join(names, ","); got != "a|a test,b|a test" {
		t.Errorf("list: %q", got)
	}
}

func TestMetaContexts(t *testing.T) {
	plain := newMemory(1<<20, inline)
	plain.info.Features &^= nbd.CanExtents
	s := start(t, nbd.Limits{}, map[string]nbd.Export{"disk": newMemory(1<<20, inline), "plain": plain})
	r := dial(t, s).greet(bothFlags)
	if got := r.final(proto.OptStructuredReply, nil); got != proto.RepAck {
		t.Fatal(got)
	}
	tests := []struct {
		name    string
		opt     uint32
		data    []byte
		replies int
		final   uint32
	}{
		{"list all", proto.OptListMetaContext, metaData("disk"), 2, proto.RepAck},
		{"list wildcard", proto.OptListMetaContext, metaData("disk", "base:"), 2, proto.RepAck},
		{"list unknown", proto.OptListMetaContext, metaData("disk", "x-y:z", "base:new"), 1, proto.RepAck},
		{"list where there is none", proto.OptListMetaContext, metaData("plain"), 1, proto.RepAck},
		{"set nothing", proto.OptSetMetaContext, metaData("disk"), 1, proto.RepAck},
		{"set wildcard selects nothing", proto.OptSetMetaContext, metaData("disk", "base:"), 1, proto.RepAck},
		{"set twice the same", proto.OptSetMetaContext, metaData("disk", "base:allocation", "base:allocation"), 2, proto.RepAck},
		{"set unknown export", proto.OptSetMetaContext, metaData("nope", "base:allocation"), 1, proto.RepErrUnknown},
		{"count past the end", proto.OptSetMetaContext, append(str("disk"), 0xff, 0xff, 0xff, 0xff), 1, proto.RepErrInvalid},
		{"query past the end", proto.OptSetMetaContext, append(str("disk"), 0, 0, 0, 1, 0, 0, 1, 0, 'x'), 1, proto.RepErrInvalid},
		{"data after queries", proto.OptListMetaContext, append(metaData("disk"), 1), 1, proto.RepErrInvalid},
	}
	for _, tt := range tests {
		all := r.option(tt.opt, tt.data)
		if len(all) != tt.replies || all[len(all)-1].kind != tt.final {
			t.Errorf("%s: %d replies, final %#x", tt.name, len(all), all[len(all)-1].kind)
		}
	}
	// The last SET failed and so cleared what an earlier one selected.
	if got := r.final(proto.OptGo, goData("disk")); got != proto.RepAck {
		t.Fatal(got)
	}
	r.send(proto.Request{Type: proto.CmdBlockStatus, Cookie: 1, Length: 512}, nil)
	if c := r.chunk(); c.errno() != nbd.EINVAL {
		t.Errorf("block status without context: %+v", c)
	}
}

func TestExportName(t *testing.T) {
	s := start(t, nbd.Limits{}, one(newMemory(1<<20, inline)))
	for flags, zeroes := range map[uint32]int{bothFlags: 0, proto.ClientFixedNewstyle: 124, 0: 124} {
		r := dial(t, s).greet(flags)
		r.write(append(proto.AppendOption(nil, proto.OptExportName, 4), "disk"...))
		if b := r.read(10 + zeroes); binary.BigEndian.Uint64(b) != 1<<20 {
			t.Errorf("flags %#x: %x", flags, b)
		}
		r.send(proto.Request{Type: proto.CmdFlush, Cookie: 5}, nil)
		if code, cookie := r.simple(); code != 0 || cookie != 5 {
			t.Errorf("flags %#x: flush: %v, cookie %d", flags, code, cookie)
		}
	}
	r := dial(t, s).greet(bothFlags)
	r.write(append(proto.AppendOption(nil, proto.OptExportName, 4), "nope"...))
	r.wantEnd()
}

func TestAbort(t *testing.T) {
	s := start(t, nbd.Limits{}, one(newMemory(512, inline)))
	r := dial(t, s).greet(bothFlags)
	if got := r.final(proto.OptAbort, []byte("ignored")); got != proto.RepAck {
		t.Errorf("ABORT: %#x", got)
	}
	r.wantEnd()
}

func TestHostileHandshakesEnd(t *testing.T) {
	patient := start(t, nbd.Limits{Handshake: time.Minute}, one(newMemory(512, inline)))
	s := start(t, nbd.Limits{Handshake: 200 * time.Millisecond, Connections: 2}, one(newMemory(512, inline)))
	t.Run("unknown client flags", func(t *testing.T) {
		dial(t, patient).greet(1 << 7).wantEnd()
	})
	t.Run("bad option magic", func(t *testing.T) {
		r := dial(t, patient).greet(bothFlags)
		r.write(make([]byte, 16))
		r.wantEnd()
	})
	t.Run("option of 4 GiB", func(t *testing.T) {
		r := dial(t, patient).greet(bothFlags)
		r.write(proto.AppendOption(nil, 6, 1<<32-1))
		r.wantEnd()
	})
	t.Run("slow loris", func(t *testing.T) {
		r := dial(t, s).greet(bothFlags)
		r.write([]byte{0x49})
		r.wantEnd() // by the server's deadline
	})
	t.Run("too many options", func(t *testing.T) {
		r := dial(t, patient).greet(bothFlags)
		for range 1024 {
			r.final(77, nil)
		}
		r.wantEnd()
	})
	t.Run("too many connections", func(t *testing.T) {
		a, b := dial(t, s), dial(t, s)
		a.greet(bothFlags)
		b.greet(bothFlags)
		dial(t, s).wantEnd()
		eventually(t, "the two to time out", func() bool { return s.Stats().Connections == 0 })
		dial(t, s).greet(bothFlags)
	})
}
