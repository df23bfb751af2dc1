package nbd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Options configure a Server. The zero value is usable.
type Options struct {
	Logger *slog.Logger // nil: nothing is logged
	Limits Limits
}

// Server offers exports to NBD clients. Its methods may be called from many
// goroutines.
//
// Locks are taken in this order: Server.mu, conn.mu, then those of the
// stream and the buffer pool. None is held while an export is called.
type Server struct {
	log    *slog.Logger
	limits Limits
	pool   *bufferPool
	budget *budget

	answered atomic.Int64

	mu      sync.Mutex
	exports map[string]*exportEntry
	open    int // connections
}

// New returns a server without exports.
func New(o Options) (*Server, error) {
	limits, err := o.Limits.withDefaults()
	if err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{
		log:     o.Logger,
		limits:  limits,
		pool:    newBufferPool(int(limits.Payload), limits.MemoryBytes/4),
		budget:  newBudget(limits.MemoryBytes),
		exports: map[string]*exportEntry{},
	}, nil
}

// Stats are figures of a server at one moment.
type Stats struct {
	Connections int
	Answered    int64 // requests since the start
	BufferBytes int64 // memory of payload buffers in use, those retained by exports included
	IdleBytes   int64 // memory of payload buffers kept for reuse
}

// Stats returns the current figures.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Connections: s.open,
		Answered:    s.answered.Load(),
		BufferBytes: s.pool.inUse.Load(),
		IdleBytes:   s.pool.idle.Load(),
	}
}

// Serve accepts connections from l until ctx ends or accepting fails, then
// closes l, drains the connections and returns when the last has ended: after
// ctx's end, requests in flight are answered, new ones get ESHUTDOWN, and what
// is not done after Limits.Drain is abandoned. It returns nil if ctx ended.
//
// Several listeners, say a Unix and a TCP one, can be served at the same time.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	var conns sync.WaitGroup
	defer func() {
		stop()
		_ = l.Close()
		cancel()
		conns.Wait()
	}()
	var pause time.Duration
	for {
		nc, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = nc.Close()
			}
			return nil
		case err == nil:
			pause = 0
			conns.Go(func() { _ = s.ServeConn(ctx, nc) })
		case isTemporary(err):
			// Out of file descriptors or the like: others may free some.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.log.Warn("nbd accept failed, trying again", "err", err, "pause", pause)
			waitFor(ctx, pause)
		default:
			return fmt.Errorf("accept NBD connection on %v: %w", l.Addr(), err)
		}
	}
}

func isTemporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary() && !errors.Is(err, net.ErrClosed)
}

func waitFor(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// ServeConn serves one connection, handshake included, and closes it. It
// returns nil when the client has disconnected in the proper way, or the
// connection was drained because ctx ended or the export was removed.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) error {
	return s.serve(ctx, newConn(s, nc), func(c *conn) (*exportEntry, error) {
		h, err := c.negotiate(s.limits.Handshake)
		if err != nil {
			return nil, err
		}
		c.use(h.entry.export, h.info)
		c.structured = h.structured
		c.flags = h.transmissionFlags(h.info)
		c.allocation = h.structured && h.metaExport == h.entry && h.metaExport != nil
		return h.entry, nil
	})
}

// ServeTransmission serves one connection that needs no handshake, as the
// kernel's own client uses it, and closes it. info must be what the client has
// been told; Info.TransmissionFlags are the flags for it.
func (s *Server) ServeTransmission(ctx context.Context, nc net.Conn, e Export) error {
	return s.serve(ctx, newConn(s, nc), s.withoutHandshake(e))
}

// withoutHandshake prepares a connection whose client has been told what the export is.
func (s *Server) withoutHandshake(e Export) func(c *conn) (*exportEntry, error) {
	return func(c *conn) (*exportEntry, error) {
		info, err := e.Info().normalize(s.limits.Payload)
		if err != nil {
			return nil, fmt.Errorf("serve transmission: %w", err)
		}
		c.use(e, info)
		c.flags = info.TransmissionFlags()
		return nil, nil
	}
}

// use fixes the export of the connection.
func (c *conn) use(e Export, info Info) { c.export, c.info = e, info }

// serve runs a connection: prepare gets it to the transmission phase.
func (s *Server) serve(ctx context.Context, c *conn, prepare func(*conn) (*exportEntry, error)) error {
	defer c.abandon() // closes it on every path; a second time does nothing
	if !s.enter() {
		c.log.Warn("nbd connection refused: too many", "limit", s.limits.Connections)
		return fmt.Errorf("refuse NBD connection: the limit of %d is reached", s.limits.Connections)
	}
	defer s.leave()
	stop := context.AfterFunc(ctx, func() { c.stop(s.limits.Drain) })
	defer stop()

	entry, err := prepare(c)
	if err == nil && entry != nil {
		if !s.attach(entry, c) {
			return nil // removed between the choice and now
		}
		defer s.detachConn(entry, c)
	}
	if err == nil {
		err = c.run()
	}
	if errors.Is(err, errDrained) || errors.Is(err, errParked) || errors.Is(err, errAborted) || (err != nil && c.isDraining()) {
		return nil
	}
	c.logEnd("serve", err)
	return err
}

func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= s.limits.Connections {
		return false
	}
	s.open++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
}
