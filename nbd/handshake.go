package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"flotilla/nbd/internal/proto"
)

// Bounds of a handshake. A client that goes beyond them is cut off.
const (
	maxOptions    = 1024     // options of one handshake
	maxOptionData = 64 << 10 // bytes of one option's data that are looked at
	maxOptionSkip = 32 << 20 // bytes of one option's data that are skipped
)

// errAborted ends a handshake that the client has given up politely.
var errAborted = errors.New("client aborted the handshake")

// handshake is the fixed newstyle negotiation of one connection. It ends with
// an export chosen, or an error.
//
//	server: InitMagic u64 │ OptionMagic u64 │ handshake flags u16
//	client: client flags u32
//	client: option …                 server: reply …           (repeated)
type handshake struct {
	c        *conn
	noZeroes bool

	structured bool
	// metaExport is the entry for which the last SET_META_CONTEXT selected
	// base:allocation; nil if it selected nothing.
	metaExport *exportEntry

	// Set when the client has chosen.
	entry *exportEntry
	info  Info
}

// allocationContext is the number that stands for base:allocation in block
// status replies.
const allocationContext = 1

// negotiate runs the handshake within limit.
func (c *conn) negotiate(limit time.Duration) (*handshake, error) {
	if err := c.nc.SetDeadline(time.Now().Add(limit)); err != nil {
		return nil, fmt.Errorf("set handshake deadline: %w", err)
	}
	h := &handshake{c: c}
	if err := h.greet(); err != nil {
		return nil, err
	}
	for range maxOptions {
		chosen, err := h.option()
		if err != nil {
			return nil, err
		}
		if chosen {
			return h, c.nc.SetDeadline(time.Time{})
		}
	}
	return nil, fmt.Errorf("%w: more than %d options", ErrProtocol, maxOptions)
}

func (h *handshake) greet() error {
	var b []byte
	b = binary.BigEndian.AppendUint64(b, proto.InitMagic)
	b = binary.BigEndian.AppendUint64(b, proto.OptionMagic)
	b = binary.BigEndian.AppendUint16(b, proto.FlagFixedNewstyle|proto.FlagNoZeroes)
	if _, err := h.c.nc.Write(b); err != nil {
		return fmt.Errorf("send greeting: %w", err)
	}
	var flags [4]byte
	if _, err := io.ReadFull(h.c.nc, flags[:]); err != nil {
		return fmt.Errorf("read client flags: %w", err)
	}
	f := binary.BigEndian.Uint32(flags[:])
	if unknown := f &^ (proto.ClientFixedNewstyle | proto.ClientNoZeroes); unknown != 0 {
		return fmt.Errorf("%w: unknown client flags %#x", ErrProtocol, unknown)
	}
	h.noZeroes = f&proto.ClientNoZeroes != 0
	return nil
}

// option reads one option and answers it. It reports whether the client has
// entered the transmission phase.
func (h *handshake) option() (chosen bool, err error) {
	var head [16]byte
	if _, err := io.ReadFull(h.c.nc, head[:]); err != nil {
		return false, fmt.Errorf("read option: %w", err)
	}
	if magic := binary.BigEndian.Uint64(head[:]); magic != proto.OptionMagic {
		return false, fmt.Errorf("%w: option starts with %#x instead of the magic number", ErrProtocol, magic)
	}
	opt := binary.BigEndian.Uint32(head[8:])
	length := binary.BigEndian.Uint32(head[12:])
	if length > maxOptionData {
		return false, h.skipOption(opt, length)
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(h.c.nc, data); err != nil {
		return false, fmt.Errorf("read data of option %d: %w", opt, err)
	}

	var out optionReplies
	out.opt = opt
	switch opt {
	case proto.OptExportName:
		return true, h.exportName(data)
	case proto.OptAbort:
		out.ack()
		err = errAborted
	case proto.OptList:
		h.list(&out, data)
	case proto.OptInfo, proto.OptGo:
		chosen = h.infoOrGo(&out, opt, data)
	case proto.OptStructuredReply:
		if len(data) > 0 {
			out.fail(proto.RepErrInvalid, "structured replies take no data")
			break
		}
		h.structured = true
		out.ack()
	case proto.OptListMetaContext, proto.OptSetMetaContext:
		h.metaContext(&out, opt, data)
	default: // STARTTLS among them: TLS is not known to this server at all
		out.fail(proto.RepErrUnsup, fmt.Sprintf("option %d is not supported", opt))
	}
	if _, werr := h.c.nc.Write(out.b); werr != nil && err == nil {
		err = fmt.Errorf("answer option %d: %w", opt, werr)
	}
	return chosen && err == nil, err
}

// skipOption refuses an option whose data are too long to be meant.
func (h *handshake) skipOption(opt, length uint32) error {
	if length > maxOptionSkip || opt == proto.OptExportName {
		return fmt.Errorf("%w: option %d with %d bytes of data", ErrProtocol, opt, length)
	}
	if _, err := io.CopyN(io.Discard, h.c.nc, int64(length)); err != nil {
		return fmt.Errorf("skip data of option %d: %w", opt, err)
	}
	if opt == proto.OptSetMetaContext {
		h.metaExport = nil // a failed SET also clears what was selected
	}
	var out optionReplies
	out.opt = opt
	out.fail(proto.RepErrTooBig, fmt.Sprintf("%d bytes of option data, the limit is %d", length, maxOptionData))
	if _, err := h.c.nc.Write(out.b); err != nil {
		return fmt.Errorf("answer option %d: %w", opt, err)
	}
	return nil
}

// optionReplies gathers the replies to one option.
type optionReplies struct {
	opt uint32
	b   []byte
}

func (o *optionReplies) add(kind uint32, data []byte) {
	o.b = proto.AppendOptionReply(o.b, o.opt, kind, data)
}

func (o *optionReplies) ack() { o.add(proto.RepAck, nil) }

func (o *optionReplies) fail(kind uint32, text string) { o.add(kind, []byte(clip(text))) }
