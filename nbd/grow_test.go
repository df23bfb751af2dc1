package nbd_test

import (
	"testing"

	"flotilla/nbd"
	"flotilla/nbd/internal/proto"
)

// growing is an export whose size is said to be another from some time on.
type growing struct {
	*memory
	size chan int64 // capacity 1: what is said
}

func (g growing) Info() nbd.Info {
	i := g.memory.Info()
	size := <-g.size
	g.size <- size
	i.Size = size
	return i
}

// TestExportGrows: a connection from before may go where the export has grown, and no further.
func TestExportGrows(t *testing.T) {
	g := growing{newMemory(2*mib, inline), make(chan int64, 1)}
	g.size <- mib
	s := start(t, nbd.Limits{}, one(g))
	r := enter(t, s, false)
	ask := func(off uint64, want nbd.Errno) {
		t.Helper()
		r.send(proto.Request{Type: proto.CmdWriteZeroes, Cookie: off, Offset: off, Length: 4096}, nil)
		if got, cookie := r.simple(); got != want || cookie != off {
			t.Errorf("4096 bytes at %d: error %v of %d, want %v", off, got, cookie, want)
		}
	}
	ask(mib-4096, 0)
	ask(mib, nbd.ENOSPC)
	<-g.size
	g.size <- mib + 8192
	ask(mib-2048, 0)
	ask(mib+4096, 0)
	ask(mib+8192, nbd.ENOSPC)
	ask(mib+6144, nbd.ENOSPC)
	<-g.size
	g.size <- mib / 2 // never to be
	ask(mib-4096, 0)
}
