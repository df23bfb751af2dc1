package nbd

import (
	"fmt"
	"sync/atomic"

	"flotilla/nbd/internal/proto"
)

// Op is the kind of a request.
type Op uint8

// The kinds of requests an export can be handed.
const (
	OpRead Op = iota
	OpWrite
	OpFlush
	OpTrim
	OpWriteZeroes
	OpCache
	OpBlockStatus
)

// String names the operation.
func (o Op) String() string {
	names := [...]string{"read", "write", "flush", "trim", "write-zeroes", "cache", "block-status"}
	if int(o) < len(names) {
		return names[o]
	}
	return fmt.Sprintf("op(%d)", uint8(o))
}

// Request is one request of a client. An export may use it until it calls
// Done or DoneHole, and never afterwards: the server reuses it.
type Request struct {
	Op       Op
	FUA      bool  // complete only once the change is on stable storage
	NoHole   bool  // write-zeroes: leave the range allocated
	FastZero bool  // write-zeroes: be faster than a write, or fail with ENOTSUP
	Offset   int64 // bytes
	Length   int64 // bytes

	buf     *Buffer // data of a read or write, else nil
	extents extentList
	hole    bool // read: everything is zero

	sink   sink
	cookie uint64
	cost   int64 // bytes counted in the server's budget
	phase  atomic.Uint32
}

// sink is where a completed request goes.
type sink interface{ complete(r *Request, err error) }

// The phases of a request. While it is starting, whoever handed it to the
// export will send the replies that have gathered; afterwards Done must wake
// the writer. The second of Done and the end of the hand-over recycles it.
const (
	phaseStarting uint32 = iota
	phaseDetached        // the export has kept it
	phaseDone
)

// Data returns the payload: of a write the bytes to be written, which must
// not be changed; of a read the space to be filled before Done. It is nil for
// other requests.
func (r *Request) Data() []byte {
	if r.buf == nil {
		return nil
	}
	return r.buf.Bytes()
}

// Buffer returns the memory behind Data, for exports that Retain it.
func (r *Request) Buffer() *Buffer { return r.buf }

// Done completes the request. A nil err means success. The error's text goes
// to clients that can show it, its value as an Errno: an Errno in err's chain
// as it is, a syscall.Errno mapped, anything else as EIO.
func (r *Request) Done(err error) { r.sink.complete(r, err) }

// DoneHole completes a read of a range that is all zeroes, without the caller
// filling Data.
func (r *Request) DoneHole() {
	r.hole = true
	r.Done(nil)
}

// ExtentFlags describe a range in the base:allocation context.
type ExtentFlags uint32

// The states of a range; neither of them is allocated data.
const (
	ExtentHole ExtentFlags = 1 << 0 // not allocated
	ExtentZero ExtentFlags = 1 << 1 // reads as zeroes
)

// Extent is a range with one state. Extents follow each other without gaps.
type Extent struct {
	Length int64 // bytes
	Flags  ExtentFlags
}

// AddExtent tells, for a block-status request, the state of the next length
// bytes, from Offset on. It reports whether more is wanted; further calls are
// ignored. At least one extent must be given before Done(nil).
func (r *Request) AddExtent(length int64, flags ExtentFlags) (more bool) {
	return r.extents.add(length, flags)
}

// Extents returns what AddExtent gathered: neighbours of equal state merged,
// nothing past the end of the request.
func (r *Request) Extents() []Extent { return r.extents.list }

// extentList gathers extents up to a number of bytes and of entries.
type extentList struct {
	list []Extent
	left int64 // bytes of the request not described yet
	max  int   // entries
}

func (l *extentList) reset(length int64, reqOne bool) {
	l.list, l.left, l.max = l.list[:0], length, maxExtents
	if reqOne {
		l.max = 1
	}
}

func (l *extentList) add(length int64, flags ExtentFlags) (more bool) {
	length = min(length, l.left)
	if length <= 0 {
		return l.left > 0
	}
	if k := len(l.list); k > 0 && l.list[k-1].Flags == flags {
		l.list[k-1].Length += length
	} else if k == l.max {
		l.left = 0
		return false
	} else {
		l.list = append(l.list, Extent{Length: length, Flags: flags})
	}
	l.left -= length
	return l.left > 0
}

// maxExtents bounds the reply to one block-status request to 64 KiB, far
// below what the protocol allows; the client asks again for the rest.
const maxExtents = 8192

// NewRequest makes a request outside of any connection, to drive an Export
// directly: data is the payload of a write or the space for a read, and its
// length the request's; others take length. done is called by Done, on its
// goroutine.
func NewRequest(op Op, offset, length int64, data *Buffer, done func(*Request, error)) *Request {
	if data != nil {
		length = int64(data.Len())
	}
	r := &Request{Op: op, Offset: offset, Length: length, buf: data, sink: sinkFunc(done)}
	r.extents.reset(length, false)
	return r
}

type sinkFunc func(*Request, error)

func (f sinkFunc) complete(r *Request, err error) {
	if r.phase.Swap(phaseDone) == phaseDone {
		panic("nbd: request completed twice")
	}
	if r.hole {
		clear(r.Data())
	}
	f(r, err)
}

// requestOp maps commands to operations; commands without an entry are
// unknown or handled by the connection.
func requestOp(cmd uint16) (Op, bool) {
	switch cmd {
	case proto.CmdRead:
		return OpRead, true
	case proto.CmdWrite:
		return OpWrite, true
	case proto.CmdFlush:
		return OpFlush, true
	case proto.CmdTrim:
		return OpTrim, true
	case proto.CmdWriteZeroes:
		return OpWriteZeroes, true
	case proto.CmdCache:
		return OpCache, true
	case proto.CmdBlockStatus:
		return OpBlockStatus, true
	}
	return 0, false
}
