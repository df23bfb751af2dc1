package nbd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"flotilla/nbd"
	"flotilla/nbd/internal/proto"
)

const mib = 1 << 20

// TestRefusals sends each bad request in both reply styles, and a good one
// after it: the stream must not lose its place.
func TestRefusals(t *testing.T) {
	rw := newMemory(mib, inline)
	rw.info.MinBlock = 512
	rw.info.MaxPayload = 64 << 10
	ro := newMemory(mib, inline)
	ro.info.ReadOnly = true
	bare := newMemory(mib, inline)
	bare.info.Features = 0
	tests := []struct {
		name       string
		e          *memory
		q          proto.Request
		data       int
		want       nbd.Errno
		structured nbd.Errno // if another
	}{
		{"unknown command", rw, proto.Request{Type: 99, Length: 4096}, 0, nbd.EINVAL, 0},
		{"resize", rw, proto.Request{Type: 8, Length: 4096}, 0, nbd.EINVAL, 0},
		{"read past the end", rw, proto.Request{Type: proto.CmdRead, Offset: mib - 512, Length: 1024}, 0, nbd.EINVAL, 0},
		{"read at 2^64-512", rw, proto.Request{Type: proto.CmdRead, Offset: 1<<64 - 512, Length: 1024}, 0, nbd.EINVAL, 0},
		{"read at 2^63", rw, proto.Request{Type: proto.CmdRead, Offset: 1 << 63, Length: 512}, 0, nbd.EINVAL, 0},
		{"read too long", rw, proto.Request{Type: proto.CmdRead, Length: 65<<10 - 512}, 0, nbd.EINVAL, nbd.EOVERFLOW},
		{"read 4 GiB", rw, proto.Request{Type: proto.CmdRead, Length: 1<<32 - 512}, 0, nbd.EINVAL, nbd.EOVERFLOW},
		{"read unaligned", rw, proto.Request{Type: proto.CmdRead, Offset: 1, Length: 512}, 0, nbd.EINVAL, 0},
		{"read odd length", rw, proto.Request{Type: proto.CmdRead, Length: 511}, 0, nbd.EINVAL, 0},
		{"read with NO_HOLE", rw, proto.Request{Type: proto.CmdRead, Flags: proto.CmdFlagNoHole, Length: 512}, 0, nbd.EINVAL, 0},
		{"write past the end", rw, proto.Request{Type: proto.CmdWrite, Offset: mib, Length: 512}, 512, nbd.ENOSPC, 0},
		{"write too long", rw, proto.Request{Type: proto.CmdWrite, Length: 512 << 10}, 512 << 10, nbd.EINVAL, 0},
		{"write unknown flag", rw, proto.Request{Type: proto.CmdWrite, Flags: 1 << 12, Length: 4096}, 4096, nbd.EINVAL, 0},
		{"write payload flag", rw, proto.Request{Type: proto.CmdWrite, Flags: 1 << 5, Length: 4096}, 4096, nbd.EINVAL, 0},
		{"write read-only", ro, proto.Request{Type: proto.CmdWrite, Length: 4096}, 4096, nbd.EPERM, 0},
		{"trim read-only", ro, proto.Request{Type: proto.CmdTrim, Length: 4096}, 0, nbd.EPERM, 0},
		{"zero read-only", ro, proto.Request{Type: proto.CmdWriteZeroes, Length: 4096}, 0, nbd.EPERM, 0},
		{"zero past the end", rw, proto.Request{Type: proto.CmdWriteZeroes, Offset: 512, Length: mib}, 0, nbd.ENOSPC, 0},
		{"trim past the end", rw, proto.Request{Type: proto.CmdTrim, Offset: 512, Length: mib}, 0, nbd.EINVAL, 0},
		{"trim with REQ_ONE", rw, proto.Request{Type: proto.CmdTrim, Flags: proto.CmdFlagReqOne, Length: 512}, 0, nbd.EINVAL, 0},
		{"cache past the end", rw, proto.Request{Type: proto.CmdCache, Offset: 512, Length: mib}, 0, nbd.EINVAL, 0},
		{"flush with length", rw, proto.Request{Type: proto.CmdFlush, Length: 512}, 0, nbd.EINVAL, 0},
		{"flush with offset", rw, proto.Request{Type: proto.CmdFlush, Offset: 512}, 0, nbd.EINVAL, 0},
		{"status past the end", rw, proto.Request{Type: proto.CmdBlockStatus, Offset: mib, Length: 512}, 0, nbd.EINVAL, 0},
		{"status of nothing", rw, proto.Request{Type: proto.CmdBlockStatus}, 0, nbd.EINVAL, 0},
		{"flush not offered", bare, proto.Request{Type: proto.CmdFlush}, 0, nbd.EINVAL, 0},
		{"trim not offered", bare, proto.Request{Type: proto.CmdTrim, Length: 512}, 0, nbd.EINVAL, 0},
		{"zero not offered", bare, proto.Request{Type: proto.CmdWriteZeroes, Length: 512}, 0, nbd.EINVAL, 0},
		{"cache not offered", bare, proto.Request{Type: proto.CmdCache, Length: 512}, 0, nbd.EINVAL, 0},
		{"FUA not offered", bare, proto.Request{Type: proto.CmdWrite, Flags: proto.CmdFlagFUA, Length: 512}, 512, nbd.EINVAL, 0},
		{"status not offered", bare, proto.Request{Type: proto.CmdBlockStatus, Length: 512}, 0, nbd.EINVAL, 0},
	}
	for i, tt := range tests {
		for _, structured := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/structured=%v", tt.name, structured), func(t *testing.T) {
				s := start(t, nbd.Limits{}, one(tt.e))
				r := enter(t, s, structured)
				tt.q.Cookie = uint64(i) + 100
				r.send(tt.q, bytes.Repeat([]byte{0xee}, tt.data))
				want := tt.want
				if structured && tt.structured != 0 {
					want = tt.structured
				}
				if structured {
					c := r.chunk()
					if c.errno() != want || c.cookie != tt.q.Cookie || c.flags != proto.ReplyFlagDone || len(c.data) <= 6 {
						t.Errorf("chunk %+v, want %v with a message", c, want)
					}
				} else if code, cookie := r.simple(); code != want || cookie != tt.q.Cookie {
					t.Errorf("got %v for cookie %d, want %v", code, cookie, want)
				}
				r.send(proto.Request{Type: proto.CmdRead, Cookie: 7, Length: 1024}, nil)
				if structured {
					if c := r.chunk(); c.errno() != 0 || c.cookie != 7 || !bytes.Equal(c.data[8:], make([]byte, 1024)) {
						t.Errorf("read afterwards: %v", c)
					}
				} else if code, cookie := r.simple(); code != 0 || cookie != 7 || !bytes.Equal(r.read(1024), make([]byte, 1024)) {
					t.Errorf("read afterwards: %v, %d", code, cookie)
				}
			})
		}
	}
}

func TestEmptyRequestsSucceed(t *testing.T) {
	s := start(t, nbd.Limits{}, one(newMemory(mib, inline)))
	for _, structured := range []bool{false, true} {
		r := enter(t, s, structured)
		for _, cmd := range []uint16{proto.CmdRead, proto.CmdWrite, proto.CmdTrim, proto.CmdWriteZeroes, proto.CmdCache} {
			r.send(proto.Request{Type: cmd, Cookie: uint64(cmd)}, nil)
			if structured && cmd == proto.CmdRead {
				if c := r.chunk(); c.kind != proto.ReplyNone || c.flags != proto.ReplyFlagDone || len(c.data) != 0 {
					t.Errorf("empty read: %+v", c)
				}
			} else if code, cookie := r.simple(); code != 0 || cookie != uint64(cmd) {
				t.Errorf("command %d: %v, cookie %d", cmd, code, cookie)
			}
		}
	}
}

// TestDataOfAllSizes writes and reads back around the limits between the
// input's ways of taking data in, in all modes and reply styles, many requests
// at a time.
func TestDataOfAllSizes(t *testing.T) {
	sizes := []int{1, 511, 4096, 16<<10 - 1, 16 << 10, 16<<10 + 1, 256<<10 - 29, 256 << 10, 256<<10 + 1, mib, 3*mib + 5}
	for _, m := range []mode{inline, worker, async} {
		for _, structured := range []bool{false, true} {
			e := newMemory(32*mib, m)
			s := start(t, nbd.Limits{}, one(e))
			r := enter(t, s, structured)
			want := map[uint64][]byte{}
			var stream []byte
			at := uint64(3)
			for i, n := range append(sizes, sizes...) {
				data := bytes.Repeat([]byte{byte(i + 1)}, n)
				want[at] = data
				stream = append(proto.Request{Type: proto.CmdWrite, Cookie: at, Offset: at, Length: uint32(n)}.Append(stream), data...)
				at += uint64(n)
			}
			r.write(stream) // all at once
			for range want {
				if code, _ := r.simple(); code != 0 {
					t.Fatalf("write: %v", code)
				}
			}
			stream = stream[:0]
			for off, data := range want {
				stream = proto.Request{Type: proto.CmdRead, Cookie: off, Offset: off, Length: uint32(len(data))}.Append(stream)
			}
			r.write(stream)
			for range want {
				var cookie uint64
				var got []byte
				if structured {
					c := r.chunk()
					if c.kind != proto.ReplyOffsetData || binary.BigEndian.Uint64(c.data) != c.cookie {
						t.Fatalf("chunk of type %d", c.kind)
					}
					cookie, got = c.cookie, c.data[8:]
				} else {
					_, cookie = r.simple()
					got = r.read(len(want[cookie]))
				}
				if !bytes.Equal(got, want[cookie]) {
					t.Errorf("mode %d: wrong data at %d (%d bytes)", m, cookie, len(got))
				}
			}
			r.send(proto.Request{Type: proto.CmdDisc}, nil)
			r.wantEnd()
		}
	}
}

func TestBlockStatus(t *testing.T) {
	e := newMemory(mib, inline)
	s := start(t, nbd.Limits{}, one(e))
	r := enter(t, s, true)
	r.send(proto.Request{Type: proto.CmdWrite, Offset: 8192, Length: 4096}, make([]byte, 4096))
	r.simple()
	ask := func(flags uint16, off uint64, n uint32) (list []nbd.Extent) {
		r.send(proto.Request{Type: proto.CmdBlockStatus, Flags: flags, Cookie: 9, Offset: off, Length: n}, nil)
		c := r.chunk()
		if c.kind != proto.ReplyBlockStatus || c.flags != proto.ReplyFlagDone || binary.BigEndian.Uint32(c.data) != 1 {
			t.Fatalf("chunk %+v", c)
		}
		for b := c.data[4:]; len(b) > 0; b = b[8:] {
			list = append(list, nbd.Extent{Length: int64(binary.BigEndian.Uint32(b)), Flags: nbd.ExtentFlags(binary.BigEndian.Uint32(b[4:]))})
		}
		return list
	}
	if got, want := fmt.Sprint(ask(0, 0, mib)), "[{8192 3} {4096 0} {1036288 3}]"; got != want {
		t.Errorf("whole: %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(ask(proto.CmdFlagReqOne, 100, 20000)), "[{8092 3}]"; got != want {
		t.Errorf("one: %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(ask(0, 8193, 4096)), "[{4095 0} {1 3}]"; got != want {
		t.Errorf("inside: %s, want %s", got, want)
	}
}

func TestFlagsReachTheExport(t *testing.T) {
	e := newMemory(mib, inline)
	type seen struct {
		op                     nbd.Op
		fua, noHole, fast, nil bool
		off, n                 int64
	}
	requests := make(chan seen, 1)
	e.hold = func(r *nbd.Request) bool {
		requests <- seen{r.Op, r.FUA, r.NoHole, r.FastZero, r.Data() == nil, r.Offset, r.Length}
		return false
	}
	s := start(t, nbd.Limits{}, one(e))
	r := enter(t, s, false)
	tests := []struct {
		q    proto.Request
		want seen
	}{
		{proto.Request{Type: proto.CmdWrite, Flags: proto.CmdFlagFUA, Offset: 5, Length: 6}, seen{nbd.OpWrite, true, false, false, false, 5, 6}},
		{proto.Request{Type: proto.CmdWriteZeroes, Flags: proto.CmdFlagNoHole | proto.CmdFlagFastZero, Offset: 5, Length: 6}, seen{nbd.OpWriteZeroes, false, true, true, true, 5, 6}},
		{proto.Request{Type: proto.CmdTrim, Flags: proto.CmdFlagFUA, Offset: 0, Length: mib}, seen{nbd.OpTrim, true, false, false, true, 0, mib}},
		{proto.Request{Type: proto.CmdFlush, Flags: proto.CmdFlagFUA}, seen{nbd.OpFlush, true, false, false, true, 0, 0}},
		{proto.Request{Type: proto.CmdCache, Offset: 1, Length: 2}, seen{nbd.OpCache, false, false, false, true, 1, 2}},
	}
	for _, tt := range tests {
		var data []byte
		if tt.q.Type == proto.CmdWrite {
			data = make([]byte, tt.q.Length)
		}
		r.send(tt.q, data)
		if code, _ := r.simple(); code != 0 {
			t.Errorf("%v: %v", tt.want.op, code)
		}
		if got := <-requests; got != tt.want {
			t.Errorf("export saw %+v, want %+v", got, tt.want)
		}
	}
}

func TestErrorsOfTheExport(t *testing.T) {
	e := newMemory(mib, inline)
	results := make(chan error, 2)
	e.hold = func(r *nbd.Request) bool { r.Done(<-results); return true }
	s := start(t, nbd.Limits{}, one(e))
	plain, structured := enter(t, s, false), enter(t, s, true)
	tests := []struct {
		err  error
		fast bool
		want nbd.Errno
	}{
		{errors.New("odd"), false, nbd.EIO},
		{fmt.Errorf("write: %w", nbd.ENOSPC), false, nbd.ENOSPC},
		{fmt.Errorf("write: %w", syscall.EDQUOT), false, nbd.ENOSPC},
		{syscall.EFBIG, false, nbd.ENOSPC},
		{syscall.EROFS, false, nbd.EPERM},
		{syscall.EACCES, false, nbd.EPERM},
		{syscall.EINVAL, false, nbd.EINVAL},
		{nbd.ENOTSUP, true, nbd.ENOTSUP},
		{syscall.EOPNOTSUPP, true, nbd.ENOTSUP},
		{nbd.ENOTSUP, false, nbd.EINVAL},
		{nbd.ESHUTDOWN, false, nbd.ESHUTDOWN},
		{nbd.Errno(0), false, nbd.EIO},
	}
	for _, tt := range tests {
		results <- tt.err
		results <- tt.err
		q := proto.Request{Type: proto.CmdWriteZeroes, Length: 512}
		if tt.fast {
			q.Flags = proto.CmdFlagFastZero
		}
		plain.send(q, nil)
		if code, _ := plain.simple(); code != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, code, tt.want)
		}
		structured.send(q, nil)
		if c := structured.chunk(); c.errno() != tt.want || !bytes.Contains(c.data[6:], []byte(tt.err.Error())) {
			t.Errorf("%v: chunk %v %q", tt.err, c.errno(), c.data)
		}
	}
	// A failed read carries no data in either style, and gives its buffer back.
	results <- errors.New("bad sector")
	results <- errors.New("bad sector")
	plain.send(proto.Request{Type: proto.CmdRead, Length: 512}, nil)
	if code, _ := plain.simple(); code != nbd.EIO {
		t.Error(code)
	}
	structured.send(proto.Request{Type: proto.CmdRead, Length: 512}, nil)
	if c := structured.chunk(); c.errno() != nbd.EIO {
		t.Error(c)
	}
	// An export that reports no extents must not make an empty chunk.
	results <- nil
	structured.send(proto.Request{Type: proto.CmdBlockStatus, Length: 512}, nil)
	if c := structured.chunk(); c.errno() != nbd.EIO {
		t.Error(c)
	}
}

func TestReadOfAHole(t *testing.T) {
	e := newMemory(mib, inline)
	e.hold = func(r *nbd.Request) bool {
		for i := range r.Data() {
			r.Data()[i] = 0xff // must not be seen
		}
		if r.Offset == 0 { // no hole
			r.Done(nil)
			return true
		}
		r.DoneHole()
		return true
	}
	s := start(t, nbd.Limits{}, one(e))
	plain, structured := enter(t, s, false), enter(t, s, true)
	q := proto.Request{Type: proto.CmdRead, Offset: 4096, Length: 8192}
	plain.send(q, nil)
	if code, _ := plain.simple(); code != 0 || !bytes.Equal(plain.read(8192), make([]byte, 8192)) {
		t.Error("simple reply is not zero")
	}
	structured.send(q, nil)
	want := []byte{0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 32, 0}
	if c := structured.chunk(); c.kind != proto.ReplyOffsetHole || !bytes.Equal(c.data, want) {
		t.Errorf("chunk %+v", c)
	}
	// The next read is served by the same, reused request.
	structured.send(proto.Request{Type: proto.CmdRead, Length: 512}, nil)
	if c := structured.chunk(); c.kind != proto.ReplyOffsetData || c.data[8] != 0xff {
		t.Errorf("chunk %+v", c)
	}
	// DF allows one content chunk; a pure hole is one.
	q.Flags = proto.CmdFlagDF
	structured.send(q, nil)
	if c := structured.chunk(); c.kind != proto.ReplyOffsetHole || c.flags != proto.ReplyFlagDone {
		t.Errorf("chunk %+v", c)
	}
}
