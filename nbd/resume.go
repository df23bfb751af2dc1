package nbd

import (
	"context"
	"errors"
	"net"
	"os"
	"time"
)

// errParked ends a resumable connection that may be gone on with.
var errParked = errors.New("nbd connection parked")

// ServeResumable serves one connection, without a handshake, whose peer sends a request again when its connection ends
// before the answer, as the kernel does for a device that waits for a new socket. Nothing that has to do with the end of this
// server reaches it as an error:
//
//   - When ctx ends, no further request is read; those that were are answered. What is not done within Limits.Park remains
//     without an answer.
//   - A request that the export completes with ESHUTDOWN is not answered: the connection is cut.
//
// If ctx has ended and every request that was read is answered, the socket stands between two requests, and parked is a copy
// of it for whoever goes on with it: also another process, by ServeResumable. Requests that wait in it are not lost. Otherwise
// parked is nil and the connection is closed. The caller closes parked.
func (s *Server) ServeResumable(ctx context.Context, nc *net.UnixConn, e Export) (parked *os.File, err error) {
	c := newConn(s, nc)
	c.resumable = true
	err = s.serve(ctx, c, s.withoutHandshake(e))
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept, err
}

// stop ends the connection in the way that its peer bears.
func (c *conn) stop(limit time.Duration) {
	if c.resumable {
		c.park(c.srv.limits.Park)
	} else {
		c.drain(limit)
	}
}

// park makes the connection end between two requests, once everything that was read is answered, or limit has passed.
func (c *conn) park(limit time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parking {
		return
	}
	c.parking = true
	if c.in != nil {
		c.in.parked.Store(true)
		c.stream.stopReads()
	}
	c.limit = time.AfterFunc(limit, c.abandon)
}

// keepLocked keeps the socket beyond the connection. A socket that cannot be kept is closed, which its peer bears, too.
func (c *conn) keepLocked() {
	if u, ok := c.nc.(*net.UnixConn); ok {
		c.kept, _ = u.File()
	}
}
