package peers_test

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/peers"
	"flotilla/wire"

	"go.etcd.io/raft/v3/raftpb"
)

// networks dials for an agent. The network of an address can be cut: then its connections carry nothing any more, for good
// and without a word, as when a cable is pulled; new ones wait until it is mended.
type networks struct {
	mu    sync.Mutex
	cut   map[string]chan struct{} // closed when mended
	conns map[string][]*cable
}

func newNetworks() *networks {
	return &networks{cut: map[string]chan struct{}{}, conns: map[string][]*cable{}}
}

func (n *networks) dial(ctx context.Context, network, address string) (net.Conn, error) {
	for {
		n.mu.Lock()
		mended := n.cut[address]
		n.mu.Unlock()
		if mended == nil {
			break
		}
		select {
		case <-mended:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &cable{Conn: conn, pulled: make(chan struct{}), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[address] = append(n.conns[address], c)
	return c, nil
}

func (n *networks) pull(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[address] = make(chan struct{})
	for _, c := range n.conns[address] {
		close(c.pulled)
	}
	n.conns[address] = nil
}

func (n *networks) mend(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.cut[address])
	delete(n.cut, address)
}

type cable struct {
	net.Conn
	pulled, closed chan struct{}
	once           sync.Once
}

func (c *cable) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		select {
		case <-c.pulled:
		default:
			return n, err
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			<-c.closed
		}
		return 0, err
	}
}

func (c *cable) Write(p []byte) (int, error) {
	select {
	case <-c.pulled: // as when the kernel's buffer is full
		<-c.closed
		return 0, net.ErrClosed
	default:
		return c.Conn.Write(p)
	}
}

func (c *cable) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// twoPaths starts agents 1, which dials through networks, and 2, which has two addresses.
func twoPaths(t *testing.T) (a, b *node, nets *networks, first, second string) {
	c := newCluster(t)
	ln, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	c.better[2] = ln.Addr().String()
	nets = newNetworks()
	brisk := func(o *peers.Options) {
		o.Limits.PathWait, o.Limits.PathRetry, o.Limits.DialTimeout = 500*time.Millisecond, time.Second, 10*time.Second
		o.Limits.Silence = patience // who hangs on to a dead path does so for longer than the test waits
	}
	a = c.start(1, func(o *peers.Options) { brisk(o); o.Policy.Dial = nets.dial })
	b = c.startAt(2, ln, brisk)
	return a, b, nets, c.addresses[2], c.better[2]
}

// The best address is used; while it does not answer, the other one; and the best again when it is back. Connections are
// lost by it, and the peer never is.
func TestPathFallsBack(t *testing.T) {
	a, b, nets, first, second := twoPaths(t)
	ctx := testContext(t)
	round := uint64(0)
	said := func(address string) {
		t.Helper()
		before := round
		eventually(t, "messages arrive by "+address, func() bool {
			round++
			a.SendMessage(2, status(round))
			for {
				select {
				case g := <-b.messages:
					if g.message.(*core.Status).Round > before && a.lane(2, peers.Control).Address == address {
						return true
					}
				default:
					return false
				}
			}
		})
		if err := a.WaitRoom(ctx, 2); err != nil {
			t.Fatal(err)
		}
		eventually(t, "frames go by "+address, func() bool { return a.lane(2, peers.Data).Address == address })
	}
	raftTo := func(address string) {
		t.Helper()
		eventually(t, "raft goes by "+address, func() bool {
			a.SendRaft([]*raftpb.Message{{Type: raftpb.MessageType_MsgHeartbeat.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: new(uint64(1))}})
			return a.lane(2, peers.Raft).Address == address
		})
	}
	said(second)
	raftTo(first)

	nets.pull(second)
	said(first)
	if peer := within(t, "the core hears that frames may be lost", a.disconnected); peer != 2 {
		t.Errorf("agent %d is disconnected", peer)
	}
	if l := a.lane(2, peers.Data); l.Moves != 1 || l.Failures != 0 {
		t.Errorf("after the cut: %+v", l)
	}
	if l := a.lane(2, peers.Raft); l.Moves != 0 {
		t.Errorf("raft has moved, too: %+v", l)
	}
	nets.mend(second)
	said(second)
	if l := a.lane(2, peers.Data); l.Moves != 2 || l.Failures != 0 {
		t.Errorf("after it was mended: %+v", l)
	}
	nets.pull(first)
	raftTo(second)
	nets.mend(first)
	raftTo(first)
}

// An address that does not answer from the start costs a moment.
func TestPathThatNeverAnswers(t *testing.T) {
	a, b, nets, first, second := twoPaths(t)
	nets.pull(second)
	if err := a.SendFrame(2, wire.Route{No: 7}, body(1, 100), nil); err != nil {
		t.Fatal(err)
	}
	if g := within(t, "frame", b.frames); g.route.No != 7 {
		t.Errorf("frame %+v", g.route)
	}
	if l := a.lane(2, peers.Data); l.Address != first || l.Failures != 0 || l.Dropped != 0 {
		t.Errorf("%+v", l)
	}
	nets.pull(first)
	nets.mend(second)
	eventually(t, "the best address serves", func() bool { return a.lane(2, peers.Data).Address == second })
	if l := a.lane(2, peers.Data); l.Failures != 0 {
		t.Errorf("%+v", l)
	}
}

// A dead link is noticed by its silence, also by who is in the middle of a write.
func TestSilenceEndsAWrite(t *testing.T) {
	c := newCluster(t)
	nets := newNetworks()
	b := c.start(2, nil)
	a := c.start(1, func(o *peers.Options) {
		o.Policy.Dial = nets.dial
		o.Limits.Beat, o.Limits.PathWait, o.Limits.Silence, o.Limits.Stall = 50*time.Millisecond, 100*time.Millisecond, 500*time.Millisecond, 10*patience
	})
	if err := a.SendFrame(2, wire.Route{}, body(1, 100), nil); err != nil {
		t.Fatal(err)
	}
	within(t, "frame", b.frames).release()
	nets.pull(c.addresses[2])
	if err := a.SendFrame(2, wire.Route{}, body(1, 100), nil); err != nil {
		t.Fatal(err)
	}
	if peer := within(t, "the dead link is noticed", a.disconnected); peer != 2 {
		t.Errorf("agent %d is disconnected", peer)
	}
	nets.mend(c.addresses[2])
	if err := a.WaitRoom(testContext(t), 2); err != nil {
		t.Fatal(err)
	}
}
