package nbd

import (
	"errors"
	"fmt"
	"math"

	"flotilla/nbd/internal/proto"
)

// Export is what the server asks of a block device. All methods may be called
// from many goroutines at once.
//
// Every request handed over is completed by exactly one call of Request.Done
// (or DoneHole), by the call itself or later from any goroutine, in any order.
// The server has checked range, alignment, read-only state and flags before.
//
// A FLUSH covers every write completed before the request was handed over, on
// whatever connection.
type Export interface {
	// Info describes the device. It is asked once a connection; its size may rise meanwhile, and is asked for again when a
	// request goes past the end.
	Info() Info

	// Try starts r on the goroutine that reads the connection, so it must not
	// wait: what takes a few microseconds is done at once, what completes
	// elsewhere is started. It reports whether it took r over. If not, it has
	// left r alone, and the server calls Serve.
	Try(r *Request) (taken bool)

	// Serve takes r over on a goroutine of its own; it may block. At most
	// Limits.Workers of a connection do so at a time.
	Serve(r *Request)
}

// Features says which optional commands and flags an export supports.
type Features uint16

// The optional features of an export.
const (
	CanFlush       Features = 1 << iota // FLUSH
	CanFUA                              // the FUA flag is honoured
	CanTrim                             // TRIM
	CanWriteZeroes                      // WRITE_ZEROES, with NoHole
	CanFastZero                         // FastZero: done quickly, or refused with ENOTSUP at once
	CanCache                            // CACHE
	CanExtents                          // BLOCK_STATUS with base:allocation
	CanMultiConn                        // a flush on one connection covers the writes of all
)

// Info describes an export. Zero block sizes stand for the protocol's
// defaults (1, 4096 and the server's limit).
type Info struct {
	Size           int64  // bytes
	MinBlock       uint32 // bytes, a power of two up to 64 KiB; finer requests are refused
	PreferredBlock uint32 // bytes, a power of two, at least 512
	MaxPayload     uint32 // bytes of one read or write; the server may lower it
	ReadOnly       bool
	Rotational     bool
	Features       Features
	Description    string // shown to people, up to 4096 bytes
}

// ErrExportInvalid is returned when an export describes itself in a way that
// the protocol cannot express.
var ErrExportInvalid = errors.New("invalid NBD export")

// normalize fills in the defaults and checks what is left.
func (i Info) normalize(limit uint32) (Info, error) {
	if i.MinBlock == 0 {
		i.MinBlock = 1
	}
	if i.PreferredBlock == 0 {
		i.PreferredBlock = max(4096, i.MinBlock)
	}
	if i.MaxPayload == 0 || i.MaxPayload > limit {
		i.MaxPayload = limit
	}
	switch {
	case i.Size < 0:
		return i, fmt.Errorf("%w: size %d is negative", ErrExportInvalid, i.Size)
	case !powerOfTwo(i.MinBlock) || i.MinBlock > 1<<16:
		return i, fmt.Errorf("%w: minimum block %d is not a power of two up to 65536", ErrExportInvalid, i.MinBlock)
	case i.Size%int64(i.MinBlock) != 0:
		return i, fmt.Errorf("%w: size %d is no multiple of the minimum block %d", ErrExportInvalid, i.Size, i.MinBlock)
	case !powerOfTwo(i.PreferredBlock) || i.PreferredBlock < max(i.MinBlock, 512):
		return i, fmt.Errorf("%w: preferred block %d is not a power of two of at least %d",
			ErrExportInvalid, i.PreferredBlock, max(i.MinBlock, 512))
	case i.MaxPayload < i.PreferredBlock:
		return i, fmt.Errorf("%w: maximum payload %d is below the preferred block %d",
			ErrExportInvalid, i.MaxPayload, i.PreferredBlock)
	case len(i.Description) > proto.MaxString:
		return i, fmt.Errorf("%w: description of %d bytes is longer than %d",
			ErrExportInvalid, len(i.Description), proto.MaxString)
	}
	return i, nil
}

func powerOfTwo(n uint32) bool { return n != 0 && n&(n-1) == 0 }

// TransmissionFlags returns the 16 flags that tell a client, or the kernel,
// what the export can do when simple replies are used.
func (i Info) TransmissionFlags() uint16 {
	flags := proto.FlagHasFlags
	set := func(on bool, flag uint16) {
		if on {
			flags |= flag
		}
	}
	has := func(f Features) bool { return i.Features&f == f }
	set(i.ReadOnly, proto.FlagReadOnly)
	set(i.Rotational, proto.FlagRotational)
	set(has(CanFlush), proto.FlagSendFlush)
	set(has(CanFUA), proto.FlagSendFUA)
	set(has(CanTrim) && !i.ReadOnly, proto.FlagSendTrim)
	set(has(CanWriteZeroes) && !i.ReadOnly, proto.FlagSendWriteZeroes)
	set(has(CanWriteZeroes|CanFastZero) && !i.ReadOnly, proto.FlagSendFastZero)
	set(has(CanCache), proto.FlagSendCache)
	// Without FLUSH a client has no means to make the writes of its other
	// connections durable, so several connections would promise too much.
	set(has(CanMultiConn|CanFlush), proto.FlagCanMultiConn)
	return flags
}

// checkRange reports whether [offset, offset+length) lies in the export.
func (i *Info) checkRange(offset uint64, length uint32) bool {
	return offset <= math.MaxInt64 && int64(offset) <= i.Size && int64(length) <= i.Size-int64(offset)
}

func (i *Info) aligned(offset uint64, length uint32) bool {
	mask := i.MinBlock - 1
	return uint32(offset)&mask == 0 && length&mask == 0
}
