package wire

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	readBufferLength  = 256 << 10
	stageLength       = 64 << 10 // what one write to a stream without vectored writes carries at least, if there is so much
	maxCopiedPayload  = 4 << 10  // shorter payloads are copied beside their headers instead of having an own vector
	maxMessagesAtOnce = 512      // bounds the vectors of one system call; the kernel takes 1024
)

// ConnOptions configures a Conn.
type ConnOptions struct {
	// Limits bounds messages in both directions; nil for DefaultLimits.
	Limits *Limits
	// Alloc makes the buffers for the payloads that are read, which then belong to the caller; nil for make. It is
	// asked for lengths within Limits only.
	Alloc func(n int) []byte
}

// Conn sends and receives typed messages on a stream. At most one goroutine reads, and at most one writes; deadlines and
// Close may come from any. After an error its direction is unusable.
type Conn struct {
	conn   net.Conn
	limits Limits
	alloc  func(n int) []byte

	// Owned by the reader.
	reader  *bufio.Reader
	readErr error

	// Owned by the writer.
	vectored bool // conn takes many buffers in one system call
	cork     corker
	heads    []byte
	buffers  net.Buffers
	stage    []byte
	writeErr error
}

// corker is a stream below TLS that can hold back its writes, see Corked.
type corker interface {
	Cork()
	Uncork() error
}

// NewConn returns a Conn on a stream whose hellos have been exchanged. It starts nothing.
func NewConn(c net.Conn, o ConnOptions) *Conn {
	limits := DefaultLimits()
	if o.Limits != nil {
		limits = *o.Limits
	}
	if o.Alloc == nil {
		o.Alloc = func(n int) []byte { return make([]byte, n) }
	}
	conn := &Conn{conn: c, limits: limits, alloc: o.Alloc, reader: bufio.NewReaderSize(c, readBufferLength)}
	switch c := c.(type) {
	case *net.TCPConn, *net.UnixConn:
		conn.vectored = true
	case interface{ NetConn() net.Conn }:
		conn.cork, _ = c.NetConn().(corker)
	}
	return conn
}

// ReadMessage waits for the next message. Its payload belongs to the caller. It returns io.EOF alone when the peer
// closed the stream between two messages.
func (c *Conn) ReadMessage() (Message, error) {
	if c.readErr != nil {
		return Message{}, c.readErr
	}
	m, err := c.read()
	if err != nil {
		if err != io.EOF {
			err = fmt.Errorf("read message from %v: %w", c.conn.RemoteAddr(), err)
		}
		c.readErr = err
		return Message{}, err
	}
	return m, nil
}

func (c *Conn) read() (Message, error) {
	head, err := c.reader.Peek(messageHeaderLength)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return Message{}, err
	}
	t, flags, n, err := c.limits.parseHeader(head)
	if err != nil {
		return Message{}, err
	}
	if _, err := c.reader.Discard(messageHeaderLength); err != nil {
		return Message{}, err
	}
	m := Message{Type: t, Flags: flags}
	if t == TypeFrame {
		raw, err := c.reader.Peek(RouteLength)
		if err != nil {
			return Message{}, unexpected(err)
		}
		if m.Route, err = ParseRoute(raw); err != nil {
			return Message{}, err
		}
		if _, err := c.reader.Discard(RouteLength); err != nil {
			return Message{}, err
		}
		n -= RouteLength
	}
	m.Payload = c.alloc(n)[:n]
	if _, err := io.ReadFull(c.reader, m.Payload); err != nil {
		return Message{}, unexpected(err)
	}
	return m, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Buffered reports whether bytes of a further message are here already, so that a reader can put off its acks until
// it has seen that too.
func (c *Conn) Buffered() bool { return c.reader.Buffered() > 0 }

// WriteMessages sends messages in few system calls: on TCP and Unix sockets in one vectored write for all of them, below
// TLS in writes of many records. It keeps none of the payloads. A message outside the limits is refused before
// anything is sent.
func (c *Conn) WriteMessages(msgs ...Message) error {
	if c.writeErr != nil {
		return c.writeErr
	}
	for i := range msgs {
		if err := c.limits.check(msgs[i].Type, uint64(msgs[i].length())); err != nil {
			return fmt.Errorf("write message: %w", err)
		}
	}
	for len(msgs) > 0 {
		n := min(len(msgs), maxMessagesAtOnce)
		if err := c.write(msgs[:n]); err != nil {
			c.writeErr = fmt.Errorf("write messages to %v: %w", c.conn.RemoteAddr(), err)
			return c.writeErr
		}
		msgs = msgs[n:]
	}
	return nil
}

func (c *Conn) write(msgs []Message) error {
	if c.vectored {
		return c.writeVectored(msgs)
	}
	if c.cork == nil {
		return c.writeStaged(msgs)
	}
	c.cork.Cork()
	err := c.writeStaged(msgs)
	return errors.Join(err, c.cork.Uncork())
}

// writeVectored lays headers and short payloads side by side in one buffer, with the long payloads between its parts.
func (c *Conn) writeVectored(msgs []Message) error {
	need := 0
	for i := range msgs {
		need += messageHeaderLength + RouteLength
		if len(msgs[i].Payload) <= maxCopiedPayload {
			need += len(msgs[i].Payload)
		}
	}
	if cap(c.heads) < need {
		c.heads = make([]byte, 0, need)
	}
	heads, from, vectors := c.heads[:0], 0, c.buffers[:0]
	for i := range msgs {
		m := &msgs[i]
		heads = m.appendHead(heads)
		if len(m.Payload) <= maxCopiedPayload {
			heads = append(heads, m.Payload...)
			continue
		}
		vectors = append(vectors, heads[from:len(heads):len(heads)], m.Payload)
		from = len(heads)
	}
	if from < len(heads) {
		vectors = append(vectors, heads[from:])
	}
	c.buffers = vectors
	_, err := c.buffers.WriteTo(c.conn) // consumes c.buffers
	clear(vectors)                      // keeps no payload alive
	c.buffers = vectors[:0]
	return err
}

// writeStaged copies messages together, for streams that make a record or a system call of every write.
func (c *Conn) writeStaged(msgs []Message) error {
	if c.stage == nil {
		c.stage = make([]byte, 0, stageLength+messageHeaderLength+RouteLength)
	}
	stage := c.stage[:0]
	for i := range msgs {
		stage = msgs[i].appendHead(stage)
		payload := msgs[i].Payload
		for len(stage)+len(payload) >= stageLength {
			n := max(0, stageLength-len(stage))
			stage = append(stage, payload[:n]...)
			payload = payload[n:]
			if _, err := c.conn.Write(stage); err != nil {
				return err
			}
			stage = stage[:0]
		}
		stage = append(stage, payload...)
	}
	if len(stage) == 0 {
		return nil
	}
	_, err := c.conn.Write(stage)
	return err
}

// SetReadDeadline bounds the reads from now on; the zero time lifts the bound.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.conn.SetReadDeadline(t) }

// SetWriteDeadline bounds the writes from now on; the zero time lifts the bound.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.conn.SetWriteDeadline(t) }

// NetConn returns the stream.
func (c *Conn) NetConn() net.Conn { return c.conn }

// Close closes the stream; it ends a read and a write under way with an error.
func (c *Conn) Close() error { return c.conn.Close() }
