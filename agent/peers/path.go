package peers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"flotilla/wire"
	"flotilla/wire/identity"
)

// A peer may have several addresses, on networks that fail apart. Those that Resolve names are tried in their order, and
// the first that answers serves. While it does, seek looks for a better one: the best, where that did not answer before,
// and any other as soon as the peer falls silent on this one. A new connection takes the place of the old one; what was
// on its way counts as lost, as with any connection that ends.

// errMoved ends a connection whose place another one takes.
var errMoved = errors.New("the peer is reached on another address")

// outgoing is a connection that this side has opened.
type outgoing struct {
	*identity.Conn
	address string
	opened  time.Time
	heard   atomic.Int64 // when the peer was heard last, in nanoseconds after opened
}

func (c *outgoing) hears() { c.heard.Store(int64(time.Since(c.opened))) }

func (c *outgoing) silent() time.Duration {
	return time.Since(c.opened) - time.Duration(c.heard.Load())
}

// closeSocket closes below TLS, which owes nobody a farewell that could block.
func (c *outgoing) closeSocket() { _ = c.NetConn().Close() }

// connect tries the peer's addresses one after the other. One that does not answer within Limits.PathWait is given up for
// the next; the last has all the time that is left.
func (l *link) connect(ctx context.Context) (*outgoing, error) {
	addresses := l.p.opts.Resolve(l.peer, l.kind)
	if len(addresses) == 0 {
		l.counter.dials.Add(1)
		return nil, fmt.Errorf("connect to agent %d: its address is not known", l.peer)
	}
	ctx, cancel := context.WithTimeout(ctx, l.p.limits.DialTimeout)
	defer cancel()
	var errs []error
	for i, address := range addresses {
		once, done := ctx, func() {}
		if i < len(addresses)-1 {
			once, done = context.WithTimeout(ctx, min(l.p.limits.PathWait, l.p.limits.DialTimeout/2))
		}
		c, err := l.dial(once, address)
		done()
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// dial opens a connection at one address and says hello, within the context's time.
func (l *link) dial(ctx context.Context, address string) (*outgoing, error) {
	p := l.p
	l.counter.dials.Add(1)
	policy := p.opts.Policy
	dial := policy.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	policy.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		raw, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &paced{Conn: raw, silence: p.limits.Silence, stall: p.limits.Stall}, nil
	}
	c, err := identity.Dial(ctx, address, p.opts.Credentials(), l.kind.protocol(), l.peer, policy)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.NetConn().Close() })
	agreed, err := wire.Initiate(c, p.hello(l.kind.role()))
	err = p.agreed(l.peer, err)
	if err == nil && agreed.Peer.Agent != l.peer {
		err = fmt.Errorf("it says that it is agent %d: %w", agreed.Peer.Agent, identity.ErrPeer)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = c.NetConn().Close()
		return nil, fmt.Errorf("greet agent %d at %s: %w", l.peer, address, err)
	}
	return &outgoing{Conn: c, address: address, opened: time.Now()}, nil
}

// seek returns a connection that is to take the place of the one that serves, or nil when ended is closed. It ends within
// Limits.DialTimeout of that: the peer may have given up the old connection for the one that is being opened.
func (l *link) seek(ctx context.Context, serving *outgoing, ended <-chan struct{}) *outgoing {
	tick := time.NewTicker(l.p.limits.PathWait / 4)
	defer tick.Stop()
	pause := max(l.pause, l.p.limits.BackoffMax)
	due := time.Now().Add(l.p.jitter(pause))
	for {
		select {
		case <-ended:
			return nil
		case <-tick.C:
		}
		addresses := l.p.opts.Resolve(l.peer, l.kind)
		if len(addresses) == 0 || slices.Equal(addresses, []string{serving.address}) {
			continue // there is no other
		}
		best := addresses[0]
		switch {
		case serving.silent() >= l.p.limits.PathWait:
			for _, address := range addresses {
				if address == serving.address {
					continue
				}
				if c := l.try(ctx, address); c != nil {
					return c
				}
			}
		case best != serving.address && !time.Now().Before(due):
			if c := l.try(ctx, best); c != nil {
				return c
			}
			pause = min(2*pause, max(l.p.limits.PathRetry, l.p.limits.BackoffMax))
			due = time.Now().Add(l.p.jitter(pause))
		}
	}
}

func (l *link) try(ctx context.Context, address string) *outgoing {
	ctx, cancel := context.WithTimeout(ctx, min(l.p.limits.PathWait, l.p.limits.DialTimeout))
	defer cancel()
	c, err := l.dial(ctx, address)
	if err != nil {
		return nil // it is tried again; what serves goes on
	}
	return c
}

// moved remembers how long an address that failed while it served is left alone: longer each time, so that one that
// answers and then falls silent does not take the peer from one that works. One that has served for a while is trusted again.
func (l *link) moved(from *outgoing) {
	if time.Since(from.opened) > 2*l.p.limits.PathRetry {
		l.pause = 0
	}
	if from.silent() < l.p.limits.PathWait {
		return // it gave way to a better one
	}
	l.pause = min(max(2*l.pause, l.p.limits.BackoffMax), max(l.p.limits.PathRetry, l.p.limits.BackoffMax))
}
