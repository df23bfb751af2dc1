package wire

import (
	"bufio"
	"net"
	"sync"
)

const (
	corkedReadLength  = 64 << 10
	corkedWriteLength = 256 << 10
)

// Corked goes between TLS and its socket. TLS reads and writes record by record, at most 16 KiB at a time; Corked reads
// further ahead, and between Cork and Uncork it gathers written records into few system calls. A Conn on a *tls.Conn
// corks by itself where it finds one below.
type Corked struct {
	net.Conn
	reader *bufio.Reader

	// mu is held while the socket is written to, as TLS holds its own: it keeps records in order. A write deadline or
	// closing the socket ends the wait.
	mu     sync.Mutex
	corked bool
	held   []byte
	err    error
}

// NewCorked wraps a socket. Until it is corked, writes pass through.
func NewCorked(c net.Conn) *Corked {
	return &Corked{Conn: c, reader: bufio.NewReaderSize(c, corkedReadLength)}
}

// Read reads through a buffer.
func (c *Corked) Read(p []byte) (int, error) { return c.reader.Read(p) }

// Write sends p, or holds it back while corked. An error of a write that was held back comes with a later one.
func (c *Corked) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if !c.corked {
		return c.Conn.Write(p)
	}
	if len(c.held) > 0 && len(c.held)+len(p) > corkedWriteLength {
		if err := c.flushLocked(); err != nil {
			return 0, err
		}
	}
	c.held = append(c.held, p...)
	return len(p), nil
}

// Cork holds back writes from now on.
func (c *Corked) Cork() {
	c.mu.Lock()
	c.corked = true
	c.mu.Unlock()
}

// Uncork sends what was held back and lets writes pass through again.
func (c *Corked) Uncork() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = false
	if c.err != nil {
		return c.err
	}
	return c.flushLocked()
}

func (c *Corked) flushLocked() error {
	if len(c.held) == 0 {
		return nil
	}
	_, c.err = c.Conn.Write(c.held)
	c.held = c.held[:0]
	return c.err
}
