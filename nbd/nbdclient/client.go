// Package nbdclient is a small NBD client: it opens one export of a server
// and reads, writes, flushes, trims and zeroes it.
//
//	c, err := nbdclient.Dial(ctx, "unix", "/run/disk.sock", "disk")
//	err = c.WriteAt(ctx, data, 0, nbdclient.FUA)
//	err = c.Close()
//
// All methods may be called from many goroutines: their requests are in flight
// at the same time, and the server may answer them in any order. It speaks the
// fixed newstyle handshake with GO, and simple replies.
package nbdclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"flotilla/nbd/internal/proto"
)

var (
	// ErrClosed is returned by requests on a client that has been closed.
	ErrClosed = errors.New("NBD client closed")

	// ErrProtocol is returned when the server broke the protocol. The
	// connection is of no use afterwards.
	ErrProtocol = errors.New("NBD server violated the protocol")
)

// Flags change how a request is carried out.
type Flags uint16

// The flags of requests that change the export.
const (
	FUA      = Flags(proto.CmdFlagFUA)      // reply only once it is durable
	NoHole   = Flags(proto.CmdFlagNoHole)   // zeroes: keep the range allocated
	FastZero = Flags(proto.CmdFlagFastZero) // zeroes: be fast or fail with ENOTSUP
)

// Info describes the export, as the server told in the handshake.
type Info struct {
	Size           int64  // bytes
	Flags          uint16 // transmission flags
	MinBlock       uint32 // bytes
	PreferredBlock uint32 // bytes
	MaxPayload     uint32 // bytes of one read or write
}

// maxInflight bounds the requests of one client that wait for their reply.
const maxInflight = 256

// Client is one connection to one export.
type Client struct {
	nc   net.Conn
	info Info

	slots chan struct{} // one token for each request in flight
	done  chan struct{} // closed when the receiver has ended

	sendMu sync.Mutex // a request's header and data go out together
	head   []byte     // guarded by sendMu

	mu      sync.Mutex
	pending map[uint64]*call
	cookie  uint64
	err     error // why the connection is of no use any more
}

// call is one request that waits for its reply.
type call struct {
	dst      []byte        // read: where the data go
	claimed  bool          // the receiver is filling dst; guarded by Client.mu
	finished chan struct{} // closed when err and dst are final
	err      error
}

// Dial connects to a server and opens the export of the name.
func Dial(ctx context.Context, network, address, export string) (*Client, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("dial NBD server: %w", err)
	}
	return New(ctx, nc, export)
}

// New opens the export over an existing connection, which it closes in case of
// an error. ctx bounds the handshake only.
func New(ctx context.Context, nc net.Conn, export string) (*Client, error) {
	info, err := handshake(ctx, nc, export)
	if err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("open NBD export %q: %w", export, err)
	}
	c := &Client{
		nc:      nc,
		info:    info,
		slots:   make(chan struct{}, maxInflight),
		done:    make(chan struct{}),
		pending: map[uint64]*call{},
	}
	go c.receive() // ends with the connection; Close waits for it
	return c, nil
}

// Info returns what the server told about the export.
func (c *Client) Info() Info { return c.info }

// ReadAt fills p with the bytes at offset. If ctx ends first, p is not touched
// afterwards.
func (c *Client) ReadAt(ctx context.Context, p []byte, offset int64) error {
	if err := c.checkPayload(p); err != nil {
		return err
	}
	return c.do(ctx, proto.Request{Type: proto.CmdRead, Offset: uint64(offset), Length: uint32(len(p))}, nil, p)
}

// WriteAt writes p at offset. FUA is the only flag.
func (c *Client) WriteAt(ctx context.Context, p []byte, offset int64, flags Flags) error {
	if err := c.checkPayload(p); err != nil {
		return err
	}
	q := proto.Request{Type: proto.CmdWrite, Flags: uint16(flags), Offset: uint64(offset), Length: uint32(len(p))}
	return c.do(ctx, q, p, nil)
}

// Flush makes all writes whose methods have returned durable.
func (c *Client) Flush(ctx context.Context) error {
	return c.do(ctx, proto.Request{Type: proto.CmdFlush}, nil, nil)
}

// Trim tells that length bytes at offset are not needed any more.
func (c *Client) Trim(ctx context.Context, offset int64, length uint32, flags Flags) error {
	q := proto.Request{Type: proto.CmdTrim, Flags: uint16(flags), Offset: uint64(offset), Length: length}
	return c.do(ctx, q, nil, nil)
}

// WriteZeroes zeroes length bytes at offset.
func (c *Client) WriteZeroes(ctx context.Context, offset int64, length uint32, flags Flags) error {
	q := proto.Request{Type: proto.CmdWriteZeroes, Flags: uint16(flags), Offset: uint64(offset), Length: length}
	return c.do(ctx, q, nil, nil)
}

// Close disconnects and waits until the connection has ended. Requests in
// flight fail with ErrClosed unless their replies come first.
func (c *Client) Close() error {
	c.mu.Lock()
	already := c.err != nil
	if !already {
		c.err = ErrClosed
	}
	idle := len(c.pending) == 0
	c.mu.Unlock()
	if !already && idle {
		c.sendMu.Lock()
		_, _ = c.nc.Write(proto.Request{Type: proto.CmdDisc}.Append(nil))
		c.sendMu.Unlock()
	}
	err := c.nc.Close()
	<-c.done
	if already || errors.Is(err, net.ErrClosed) { // the server's end came first
		return nil
	}
	return err
}

func (c *Client) checkPayload(p []byte) error {
	if uint64(len(p)) > uint64(c.info.MaxPayload) {
		return fmt.Errorf("transfer %d bytes by NBD: the server takes at most %d at a time", len(p), c.info.MaxPayload)
	}
	return nil
}
