package nbdclient

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"flotilla/nbd/internal/proto"
)

// do sends one request and waits for its reply.
func (c *Client) do(ctx context.Context, q proto.Request, data, dst []byte) error {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.failure()
	}
	p, cookie, err := c.register(dst)
	if err != nil {
		<-c.slots
		return err
	}
	q.Cookie = cookie
	if err := c.send(q, data); err != nil {
		c.fail(fmt.Errorf("send NBD request: %w", err))
	}
	select {
	case <-p.finished:
		return p.err
	case <-ctx.Done():
	}
	if c.giveUp(p) {
		return ctx.Err()
	}
	<-p.finished // the data are arriving just now
	return p.err
}

func (c *Client) register(dst []byte) (*call, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, 0, c.err
	}
	p := &call{dst: dst, finished: make(chan struct{})}
	c.cookie++
	c.pending[c.cookie] = p
	return p, c.cookie, nil
}

// giveUp makes the receiver drop the data of a read instead of storing them;
// the request keeps its slot until it is answered. It reports false when the
// receiver is already at it.
func (c *Client) giveUp(p *call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.claimed {
		return false
	}
	if p.dst != nil {
		p.dst = make([]byte, len(p.dst))
	}
	return true
}

// send writes one request. A write cannot be cut short once begun, so it does
// not heed contexts; Close ends it.
func (c *Client) send(q proto.Request, data []byte) error {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.head = q.Append(c.head[:0])
	if len(data) == 0 {
		_, err := c.nc.Write(c.head)
		return err
	}
	bufs := net.Buffers{c.head, data}
	_, err := bufs.WriteTo(c.nc)
	return err
}

// receive takes replies off the connection until it ends, and then fails what
// is left.
func (c *Client) receive() {
	defer close(c.done)
	in := bufio.NewReaderSize(c.nc, 64<<10)
	for {
		if err := c.receiveOne(in); err != nil {
			c.fail(err)
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for cookie, p := range c.pending {
		p.err = c.err
		c.finishLocked(cookie, p)
	}
}

func (c *Client) receiveOne(in *bufio.Reader) error {
	var head [proto.SimpleReplySize]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return fmt.Errorf("read NBD reply: %w", err)
	}
	if magic := binary.BigEndian.Uint32(head[:]); magic != proto.SimpleReplyMagic {
		return fmt.Errorf("%w: reply starts with %#x", ErrProtocol, magic)
	}
	code := proto.Errno(binary.BigEndian.Uint32(head[4:]))
	cookie := binary.BigEndian.Uint64(head[8:])

	c.mu.Lock()
	p := c.pending[cookie]
	if p == nil {
		c.mu.Unlock()
		return fmt.Errorf("%w: reply to unknown cookie %d", ErrProtocol, cookie)
	}
	p.claimed = true
	c.mu.Unlock()

	if code != 0 {
		p.err = code
	} else if _, err := io.ReadFull(in, p.dst); err != nil {
		return fmt.Errorf("read NBD data: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finishLocked(cookie, p)
	return nil
}

func (c *Client) finishLocked(cookie uint64, p *call) {
	delete(c.pending, cookie)
	close(p.finished)
	<-c.slots
}

// fail notes why the connection is of no use and closes it, which ends the
// receiver.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	_ = c.nc.Close()
}

func (c *Client) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
