package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Type tells the messages of a connection apart.
type Type uint8

// The types that this package gives a meaning. From TypeControl upward payloads are opaque to it.
const (
	TypeFrame   Type = 1
	TypeAck     Type = 2
	TypeNack    Type = 3
	TypeControl Type = 16
)

// String returns the type's name, or its number where it has none here.
func (t Type) String() string {
	switch t {
	case TypeFrame:
		return "frame"
	case TypeAck:
		return "ack"
	case TypeNack:
		return "nack"
	}
	return fmt.Sprintf("type(%d)", uint8(t))
}

// Message is one typed message of a connection.
type Message struct {
	Type    Type
	Flags   uint8
	Route   Route  // of a frame; else zero
	Payload []byte // of a frame: the encoded body
}

// messageHeaderLength is the length of what precedes each message:
//
//	0        4      5       6      8
//	| length | type | flags | zero | payload, length bytes; a frame's begins with its route …
//
// The length is little-endian and does not count these eight bytes.
const messageHeaderLength = 8

// DefaultControlLimit bounds the payloads of control messages unless Limits say otherwise, in bytes.
const DefaultControlLimit = 1 << 20

// ErrMessage says that a message is of a type or length that the connection does not take.
var ErrMessage = errors.New("message not allowed")

// Limits bounds the payload of each type in bytes; 0 refuses the type.
type Limits [256]uint32

// DefaultLimits allows everything that this package encodes, and control messages up to DefaultControlLimit.
func DefaultLimits() Limits {
	var l Limits
	l[TypeFrame] = RouteLength + MaxBodyLength
	l[TypeAck] = MaxAckLength
	l[TypeNack] = NackLength
	for t := int(TypeControl); t < len(l); t++ {
		l[t] = DefaultControlLimit
	}
	return l
}

// length returns the payload's length on the wire.
func (m *Message) length() int {
	if m.Type == TypeFrame {
		return RouteLength + len(m.Payload)
	}
	return len(m.Payload)
}

// appendHead encodes the header and, for a frame, the route.
func (m *Message) appendHead(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(m.length()))
	dst = append(dst, byte(m.Type), m.Flags, 0, 0)
	if m.Type == TypeFrame {
		dst = m.Route.Append(dst)
	}
	return dst
}

// check bounds a message by the limit of its type.
func (l *Limits) check(t Type, n uint64) error {
	limit := l[t]
	switch {
	case limit == 0:
		return fmt.Errorf("%v is not taken on this connection: %w", t, ErrMessage)
	case n > uint64(limit):
		return fmt.Errorf("%v of %d bytes is longer than %d: %w", t, n, limit, ErrMessage)
	case t == TypeFrame && n < RouteLength:
		return fmt.Errorf("%v of %d bytes is shorter than its route: %w", t, n, ErrMessage)
	}
	return nil
}

// parseHeader reads a message header and bounds the length that it names.
func (l *Limits) parseHeader(h []byte) (t Type, flags uint8, n int, err error) {
	length := binary.LittleEndian.Uint32(h)
	t, flags = Type(h[4]), h[5]
	if h[6] != 0 || h[7] != 0 {
		return 0, 0, 0, fmt.Errorf("message header % x: reserved bytes are not zero: %w", h[:messageHeaderLength], ErrCorrupt)
	}
	if err := l.check(t, uint64(length)); err != nil {
		return 0, 0, 0, err
	}
	return t, flags, int(length), nil
}
