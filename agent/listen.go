package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"flotilla/wire/identity"

	"golang.org/x/sys/unix"
)

// ErrAddressInUse is returned when somebody else listens where the agent should.
var ErrAddressInUse = errors.New("address is in use")

// listenTCP opens a port. key is the configuration's name for it.
//
// It is for TCP alone. Go would listen for Multipath TCP, too, which no agent speaks; and a kernel without that looks for a
// module first, in processes of its own: a restart waited for them longer than for all else.
func listenTCP(key, address string) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	l, err := c.Listen(context.Background(), "tcp", address)
	if err == nil {
		return l, nil
	}
	if errors.Is(err, unix.EADDRINUSE) {
		_, port, _ := net.SplitHostPort(address) // the configuration has been checked
		return nil, fmt.Errorf("listen on %s (%s): %w: another process has it: `ss -ltnp 'sport = :%s'` names it; stop that one, or choose another port",
			address, key, ErrAddressInUse, port)
	}
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil, fmt.Errorf("listen on %s (%s): this host does not have that address: `ip address` lists those it has: %w", address, key, err)
	}
	return nil, fmt.Errorf("listen on %s (%s): %w", address, key, err)
}

// listenUnix opens a socket that only the agent's own user may use. A socket that nobody serves any more is replaced.
func listenUnix(key, path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("listen on %s (%s): %w: another process serves it: `ss -lxp 'src %s'` names it; stop that one, or choose another path",
			path, key, ErrAddressInUse, path)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("listen on %s (%s): something that is no socket has this name: choose another path", path, key)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %s (%s): remove the old socket: %w", path, key, err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s (%s): %w", path, key, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s (%s): %w", path, key, err), l.Close())
	}
	return l, nil
}

// limited is a listener with at most a number of connections open at the same time; more wait in the queue below it.
type limited struct {
	net.Listener
	slots chan struct{}
	done  chan struct{}
	once  sync.Once
}

func newLimited(l net.Listener, n int) *limited {
	return &limited{Listener: l, slots: make(chan struct{}, n), done: make(chan struct{})}
}

// Accept waits for room and for the next connection.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	release := sync.OnceFunc(func() { <-l.slots })
	if c, ok := c.(*identity.Conn); ok {
		return &limitedTLSConn{Conn: c, release: release}, nil
	}
	return &limitedConn{Conn: c, release: release}, nil
}

// Close closes the listener below; connections go on.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	release func()
}

// Close closes the connection and makes room for another.
func (c *limitedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// limitedTLSConn keeps the methods by which net/http finds out who the peer is.
type limitedTLSConn struct {
	*identity.Conn
	release func()
}

// Close closes the connection and makes room for another.
func (c *limitedTLSConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
