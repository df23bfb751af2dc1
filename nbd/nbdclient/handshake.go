package nbdclient

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net"
	"time"

	"flotilla/nbd/internal/proto"
)

// maxReply bounds the data of one reply in the handshake.
const maxReply = 64 << 10

// handshake opens the export by GO, asking for the block sizes.
func handshake(ctx context.Context, nc net.Conn, export string) (Info, error) {
	if len(export) > proto.MaxString {
		return Info{}, fmt.Errorf("check name: %d bytes are more than %d", len(export), proto.MaxString)
	}
	// The connection knows deadlines, not contexts: its end interrupts reads.
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	info, err := negotiate(nc, export)
	if !stop() && ctx.Err() != nil {
		return Info{}, ctx.Err()
	}
	return info, err
}

func negotiate(nc net.Conn, export string) (Info, error) {
	var greeting [18]byte
	if _, err := io.ReadFull(nc, greeting[:]); err != nil {
		return Info{}, fmt.Errorf("read greeting: %w", err)
	}
	flags := binary.BigEndian.Uint16(greeting[16:])
	if binary.BigEndian.Uint64(greeting[:]) != proto.InitMagic ||
		binary.BigEndian.Uint64(greeting[8:]) != proto.OptionMagic || flags&proto.FlagFixedNewstyle == 0 {
		return Info{}, fmt.Errorf("%w: it does not offer the fixed newstyle handshake", ErrProtocol)
	}
	b := binary.BigEndian.AppendUint32(nil, proto.ClientFixedNewstyle|uint32(flags&proto.FlagNoZeroes))
	b = proto.AppendOption(b, proto.OptGo, uint32(4+len(export)+4))
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint16(b, 1)
	b = binary.BigEndian.AppendUint16(b, proto.InfoBlockSize)
	if _, err := nc.Write(b); err != nil {
		return Info{}, fmt.Errorf("send GO: %w", err)
	}
	info := Info{MinBlock: 1, PreferredBlock: 4096, MaxPayload: proto.DefaultMaxLength}
	told := false
	for range 64 { // far more than there are kinds of information
		kind, data, err := readOptionReply(nc)
		switch {
		case err != nil:
			return Info{}, err
		case kind == proto.RepAck && told:
			return info, nil
		case kind&proto.RepErrFlag != 0:
			return Info{}, fmt.Errorf("server refused (%#x): %q", kind, data)
		case kind != proto.RepInfo:
			return Info{}, fmt.Errorf("%w: reply of type %d to GO", ErrProtocol, kind)
		}
		isExport, err := info.take(data)
		if err != nil {
			return Info{}, err
		}
		told = told || isExport
	}
	return Info{}, fmt.Errorf("%w: endless reply to GO", ErrProtocol)
}

// take stores one piece of information, and reports whether it was the one
// that must come.
func (i *Info) take(data []byte) (isExport bool, err error) {
	if len(data) < 2 {
		return false, fmt.Errorf("%w: information of %d bytes", ErrProtocol, len(data))
	}
	body := data[2:]
	switch binary.BigEndian.Uint16(data) {
	case proto.InfoExport:
		if len(body) != 10 || binary.BigEndian.Uint64(body) > math.MaxInt64 {
			return false, fmt.Errorf("%w: bad export information %x", ErrProtocol, body)
		}
		i.Size = int64(binary.BigEndian.Uint64(body))
		i.Flags = binary.BigEndian.Uint16(body[8:])
		return true, nil
	case proto.InfoBlockSize:
		if len(body) != 12 {
			return false, fmt.Errorf("%w: bad block sizes %x", ErrProtocol, body)
		}
		i.MinBlock = binary.BigEndian.Uint32(body)
		i.PreferredBlock = binary.BigEndian.Uint32(body[4:])
		i.MaxPayload = binary.BigEndian.Uint32(body[8:])
	}
	return false, nil
}

func readOptionReply(nc net.Conn) (kind uint32, data []byte, err error) {
	var head [20]byte
	if _, err := io.ReadFull(nc, head[:]); err != nil {
		return 0, nil, fmt.Errorf("read reply to GO: %w", err)
	}
	n := binary.BigEndian.Uint32(head[16:])
	if binary.BigEndian.Uint64(head[:]) != proto.OptionReplyMagic || n > maxReply {
		return 0, nil, fmt.Errorf("%w: bad header %x in the handshake", ErrProtocol, head)
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(nc, data); err != nil {
		return 0, nil, fmt.Errorf("read reply to GO: %w", err)
	}
	return binary.BigEndian.Uint32(head[12:]), data, nil
}
