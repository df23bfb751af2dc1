package kernel

import (
	"fmt"
	"math"
	"time"

	"github.com/vishvananda/netlink/nl"
)

// The family's numbers, from include/uapi/linux/nbd-netlink.h.
const (
	familyName    = "nbd"
	familyVersion = 1
	groupName     = "nbd_mc_group"

	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3
	cmdLinkDead    = 4
	cmdStatus      = 5

	attrIndex       = 1
	attrSize        = 2
	attrBlockSize   = 3
	attrTimeout     = 4
	attrServerFlags = 5
	attrClientFlags = 6
	attrSockets     = 7
	attrDeadTimeout = 8
	attrDeviceList  = 9
	attrIdentifier  = 10

	sockItem = 1
	sockFD   = 1

	deviceItem      = 1
	deviceIndex     = 1
	deviceConnected = 2
)

// The header of a generic-netlink message, after that of netlink: command u8, version u8, reserved u16.
const genericHeader = 4

// request is the body of a message to the family: the generic header and the attributes.
//
//	INDEX u32 │ SIZE_BYTES u64 │ … │ SOCKETS{ SOCK_ITEM{ SOCK_FD u32 } … } │ BACKEND_IDENTIFIER string, no final zero
type request struct {
	command uint8
	attrs   []*nl.RtAttr
}

func (r *request) u32(kind int, v uint32) {
	r.attrs = append(r.attrs, nl.NewRtAttr(kind, nl.Uint32Attr(v)))
}

func (r *request) u64(kind int, v uint64) {
	r.attrs = append(r.attrs, nl.NewRtAttr(kind, nl.Uint64Attr(v)))
}

// positive adds a number that the driver keeps as it is when it is not given.
func (r *request) positive(kind int, v int64) {
	if v > 0 {
		r.u64(kind, uint64(v))
	}
}

func (r *request) text(kind int, v string) {
	if v != "" {
		r.attrs = append(r.attrs, nl.NewRtAttr(kind, append([]byte(v), 0)))
	}
}

func (r *request) sockets(fds []int) {
	if len(fds) == 0 {
		return
	}
	list := nl.NewRtAttr(attrSockets|nestedFlag, nil)
	for _, fd := range fds {
		list.AddRtAttr(sockItem|nestedFlag, nil).AddRtAttr(sockFD, nl.Uint32Attr(uint32(fd)))
	}
	r.attrs = append(r.attrs, list)
}

// nestedFlag marks an attribute that holds others (NLA_F_NESTED).
const nestedFlag = 1 << 15

func connectRequest(c *Config, fds []int) *request {
	r := &request{command: cmdConnect}
	if c.Index != AnyIndex {
		r.u32(attrIndex, uint32(c.Index))
	}
	r.u64(attrSize, uint64(c.Size))
	r.u64(attrBlockSize, uint64(c.BlockSize))
	r.u64(attrTimeout, seconds(c.Timeout))
	r.u64(attrDeadTimeout, seconds(c.DeadTimeout))
	r.u64(attrServerFlags, uint64(c.ServerFlags))
	r.u64(attrClientFlags, uint64(c.ClientFlags))
	r.text(attrIdentifier, c.Identifier)
	r.sockets(fds)
	return r
}

func reconfigureRequest(index int, c *Change, fds []int) *request {
	r := &request{command: cmdReconfigure}
	r.u32(attrIndex, uint32(index))
	r.positive(attrSize, c.Size)
	r.positive(attrBlockSize, int64(c.BlockSize))
	r.positive(attrTimeout, int64(seconds(c.Timeout)))
	r.positive(attrDeadTimeout, int64(seconds(c.DeadTimeout)))
	r.text(attrIdentifier, c.Identifier)
	r.sockets(fds)
	return r
}

func seconds(d time.Duration) uint64 { return uint64(d / time.Second) }

// indexRequest is a command that names a device and nothing else; AnyIndex names none.
func indexRequest(command uint8, index int) *request {
	r := &request{command: command}
	if index != AnyIndex {
		r.u32(attrIndex, uint32(index))
	}
	return r
}

// message is what the family has sent.
type message struct {
	command uint8
	index   int // -1 when it names none
	devices []State
}

// parseMessage reads a generic-netlink message of the family.
func parseMessage(b []byte) (message, error) {
	m := message{index: -1}
	if len(b) < genericHeader {
		return m, fmt.Errorf("read NBD netlink message: %d bytes are too short", len(b))
	}
	m.command = b[0]
	err := eachAttr(b[genericHeader:], func(kind int, value []byte) error {
		switch kind {
		case attrIndex:
			i, err := parseIndex(value)
			m.index = i
			return err
		case attrDeviceList:
			return eachAttr(value, func(kind int, value []byte) error {
				if kind != deviceItem {
					return nil
				}
				s, err := parseDevice(value)
				m.devices = append(m.devices, s)
				return err
			})
		}
		return nil // newer kernels may say more
	})
	return m, err
}

func parseDevice(b []byte) (State, error) {
	s := State{Index: -1}
	err := eachAttr(b, func(kind int, value []byte) (err error) {
		switch {
		case kind == deviceIndex:
			s.Index, err = parseIndex(value)
		case kind == deviceConnected && len(value) == 1:
			s.Connected = value[0] != 0
		}
		return err
	})
	if err == nil && s.Index < 0 {
		err = fmt.Errorf("read NBD netlink message: a device without an index")
	}
	return s, err
}

func parseIndex(value []byte) (int, error) {
	if len(value) != 4 {
		return -1, fmt.Errorf("read NBD netlink message: an index of %d bytes", len(value))
	}
	v := nl.NativeEndian().Uint32(value)
	if v > math.MaxInt32 {
		return -1, fmt.Errorf("read NBD netlink message: index %d", v)
	}
	return int(v), nil
}

// eachAttr calls f for each attribute of b: length u16 with the header, kind u16, value, padding to 4 bytes.
func eachAttr(b []byte, f func(kind int, value []byte) error) error {
	for len(b) >= 4 {
		n := int(nl.NativeEndian().Uint16(b))
		kind := int(nl.NativeEndian().Uint16(b[2:])) &^ nestedFlag
		if n < 4 || n > len(b) {
			return fmt.Errorf("read NBD netlink message: attribute %d of %d bytes, %d are left", kind, n, len(b))
		}
		if err := f(kind, b[4:n]); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}
