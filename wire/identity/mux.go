package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"flotilla/wire"
)

// MuxOptions bounds a Mux. Zero values stand for the defaults.
type MuxOptions struct {
	HandshakeTimeout time.Duration // from accepting to the end of the handshake; 10 s
	MaxHandshakes    int           // at the same time; more wait in the kernel's queue; 64
	Backlog          int           // connections of one protocol that wait to be accepted; more are closed; 64
	// Refused hears of connections that were closed unused; nil for nobody. Calls may come at the same time.
	Refused func(remote net.Addr, err error)
}

const (
	defaultHandshakeTimeout = 10 * time.Second
	defaultMaxHandshakes    = 64
	defaultBacklog          = 64
	minAcceptPause          = 5 * time.Millisecond
	maxAcceptPause          = time.Second
)

// Mux shares one port among protocols. It finishes the TLS handshake of each connection, a bounded number of them at the
// same time, and hands the *Conn to the listener of the protocol that ALPN chose.
//
// Listen, then Serve on one goroutine, then Close, which waits for Serve and every handshake.
type Mux struct {
	ln     net.Listener
	config *tls.Config
	opts   MuxOptions

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	slots  chan struct{}  // one taken for each handshake
	active sync.WaitGroup // Serve, and each handshake

	mu        sync.Mutex
	listeners map[string]*muxListener
	closed    bool
	closeErr  error
}

// NewMux returns a Mux on a TCP listener, which it owns from then on, with a config made by ServerConfig.
func NewMux(ln net.Listener, config *tls.Config, o MuxOptions) *Mux {
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = defaultHandshakeTimeout
	}
	if o.MaxHandshakes <= 0 {
		o.MaxHandshakes = defaultMaxHandshakes
	}
	if o.Backlog <= 0 {
		o.Backlog = defaultBacklog
	}
	if o.Refused == nil {
		o.Refused = func(net.Addr, error) {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Mux{
		ln: ln, config: config, opts: o, ctx: ctx, cancel: cancel,
		slots: make(chan struct{}, o.MaxHandshakes), listeners: map[string]*muxListener{},
	}
}

// Listen returns the listener of one protocol of the config. Its connections are *Conn. Closing it refuses the
// protocol's connections from then on, and leaves the others alone.
func (m *Mux) Listen(protocol string) (net.Listener, error) {
	if !slices.Contains(m.config.NextProtos, protocol) {
		return nil, fmt.Errorf("listen for %q: the port's TLS config has only %q", protocol, m.config.NextProtos)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("listen for %q: %w", protocol, net.ErrClosed)
	}
	if l := m.listeners[protocol]; l != nil && !l.isClosed() {
		return nil, fmt.Errorf("listen for %q: it has a listener already", protocol)
	}
	l := &muxListener{addr: m.ln.Addr(), conns: make(chan *Conn, m.opts.Backlog), done: make(chan struct{})}
	m.listeners[protocol] = l
	return l, nil
}

// Serve accepts until Close, and then returns nil, or until the port fails for good. A shortage (of file descriptors,
// say) is waited out.
func (m *Mux) Serve() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return fmt.Errorf("serve %v: %w", m.ln.Addr(), net.ErrClosed)
	}
	m.active.Add(1)
	m.mu.Unlock()
	defer m.active.Done()

	pause := time.Duration(0)
	for {
		select {
		case m.slots <- struct{}{}:
		case <-m.ctx.Done():
			return nil
		}
		c, err := m.ln.Accept()
		if err != nil {
			<-m.slots
			if m.ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept on %v: %w", m.ln.Addr(), err)
			}
			m.opts.Refused(m.ln.Addr(), fmt.Errorf("accept: %w", err))
			pause = min(max(2*pause, minAcceptPause), maxAcceptPause)
			select {
			case <-time.After(pause):
			case <-m.ctx.Done():
				return nil
			}
			continue
		}
		pause = 0
		m.active.Go(func() {
			defer func() { <-m.slots }()
			if err := m.greet(c); err != nil {
				m.opts.Refused(c.RemoteAddr(), errors.Join(err, c.Close()))
			}
		})
	}
}

// greet finishes the handshake of a connection and hands it on. On an error the caller closes the connection.
func (m *Mux) greet(raw net.Conn) error {
	ctx, cancel := context.WithTimeout(m.ctx, m.opts.HandshakeTimeout)
	defer cancel()
	c := tls.Server(wire.NewCorked(raw), m.config)
	if err := c.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("shake hands: %w", err)
	}
	protocol := c.ConnectionState().NegotiatedProtocol
	m.mu.Lock()
	l := m.listeners[protocol]
	m.mu.Unlock()
	if l == nil {
		return fmt.Errorf("nobody listens for protocol %q", protocol)
	}
	return l.put(&Conn{c})
}

// Close closes the port and all listeners with the connections that nobody accepted, and waits for Serve and for the
// handshakes under way, which it ends. Connections that were accepted go on.
func (m *Mux) Close() error {
	m.mu.Lock()
	if !m.closed {
		m.closed = true
		m.cancel()
		m.closeErr = m.ln.Close()
	}
	listeners, err := m.listeners, m.closeErr
	m.listeners = nil
	m.mu.Unlock()
	m.active.Wait()
	for _, l := range listeners {
		l.shut()
	}
	return err
}

// muxListener is the net.Listener of one protocol.
type muxListener struct {
	addr  net.Addr
	conns chan *Conn
	done  chan struct{}

	mu     sync.Mutex // guards closed, and puts against Close
	closed bool
}

func (l *muxListener) put(c *Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.New("the protocol's listener is closed")
	}
	select {
	case l.conns <- c:
		return nil
	default:
		return fmt.Errorf("%d connections wait to be accepted already", cap(l.conns))
	}
}

func (l *muxListener) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// Accept waits for the next connection; after Close it fails with net.ErrClosed.
func (l *muxListener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, fmt.Errorf("accept on %v: %w", l.addr, net.ErrClosed)
	default:
	}
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, fmt.Errorf("accept on %v: %w", l.addr, net.ErrClosed)
	}
}

// Close closes the connections that nobody accepted.
func (l *muxListener) Close() error {
	l.shut()
	return nil
}

func (l *muxListener) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	close(l.done)
	for {
		select {
		case c := <-l.conns:
			_ = c.NetConn().Close() // nobody is owed a farewell that could block
		default:
			return
		}
	}
}

// Addr returns the port's address.
func (l *muxListener) Addr() net.Addr { return l.addr }
