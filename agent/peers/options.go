package peers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"flotilla/agent/apply"
	"flotilla/agent/core"
	"flotilla/wire"
	"flotilla/wire/identity"

	"go.etcd.io/raft/v3/raftpb"
)

// Options configures Peers. Credentials, Resolve and the callbacks that begin with On have no default.
//
// Callbacks run on goroutines of Peers, those of different peers and kinds at the same time; none is called from
// inside a Send. They may call any method but Close, which waits for them: close whatever they wait for first.
type Options struct {
	// Credentials returns what this agent shows now. It is asked at each dial, so that a renewal needs no restart; the
	// agent and its cluster are those of the first answer.
	Credentials func() *identity.Credentials
	// Policy decides about peers besides their certificates. Who revokes one also calls Drop.
	Policy identity.Policy
	// Resolve returns the addresses (host:port) at which an agent of the cluster may be reached for a kind of traffic, the
	// best first; none when it is not known. It is asked again and again, and must not block for long.
	Resolve func(wire.AgentID, Kind) []string

	// Address is where this agent is reached, for peers that do not know it yet. What is longer than wire.MaxAddress is not said.
	Address string
	// OnAddress is told where a peer that has connected says that it is reached; it is checked for nothing. Default: nobody.
	OnAddress func(peer wire.AgentID, address string)

	// Generation returns the cluster's generation as this agent knows it, and the one that it has promised, for its
	// hellos. Default: 0 and 0.
	Generation func() (generation, promised uint64)
	// OnGeneration is told of a peer that was refused because it is of another one. Default: nobody.
	OnGeneration func(e *wire.GenerationError)
	// Behind reports whether this generation began without an agent: it is refused though it says that it is of it.
	// Default: nobody is.
	Behind func(wire.AgentID) bool

	// OnMessage takes a message of an authenticated peer.
	OnMessage func(from wire.AgentID, m core.Message)
	// OnFrame takes a frame. The body is the receiver's, to be read only, until it calls release, once. Blocking
	// holds back the sender; but two agents that each wait for the other to take frames would wait for good, so a
	// receiver that is full must refuse instead.
	OnFrame func(from wire.AgentID, r wire.Route, body []byte, release func())
	// OnRaft takes a Raft message whose From is the authenticated peer and whose To is this agent.
	OnRaft func(from wire.AgentID, m *raftpb.Message)
	// OnApply performs a request. Up to Limits.ApplyCalls of a peer are performed at the same time. The request and its
	// data are valid until it returns; the context ends when nobody waits for the answer any more.
	OnApply func(ctx context.Context, from wire.AgentID, r *apply.Request) error
	// OnDisconnect says that a data connection to a peer has failed, or could not be opened while frames waited for it,
	// after every frame that was queued has been dropped: once for each time. A connection that is closed for being idle
	// loses nothing, so nothing is said.
	OnDisconnect func(peer wire.AgentID)
	// OnRaftUnreachable says that Raft messages to a peer were dropped.
	OnRaftUnreachable func(peer wire.AgentID)
	// OnRaftSnapshotSent says whether a MsgSnap was written to its peer's connection.
	OnRaftSnapshotSent func(peer wire.AgentID, ok bool)

	Logger *slog.Logger // nil for none
	Limits Limits       // zero fields stand for the defaults
}

// Limits bounds what Peers use and wait for. Bytes are those of payloads.
type Limits struct {
	FrameQueue   int64 // bytes of frames that wait for one peer; default 32 MiB
	MessageQueue int64 // bytes of messages that wait for one peer; default 16 MiB
	RaftQueue    int64 // bytes of Raft messages that wait for one peer, besides one snapshot; default 64 MiB
	ApplyCalls   int   // apply requests of one caller to one peer at the same time; default 4; the same on all agents

	Connections int // incoming, of all peers; default 1024
	PeerLimit   int // incoming, of one peer, with those that are still saying hello; default 16

	DialTimeout time.Duration // TCP, TLS and hellos; default 3 s
	BackoffMin  time.Duration // after a first failure; default 50 ms
	BackoffMax  time.Duration // default 2 s
	PathWait    time.Duration // without an answer, or a word, until another address of the peer is tried; default 1 s
	PathRetry   time.Duration // longest time between tries of the best address while another serves; default 30 s
	Beat        time.Duration // default 250 ms
	Silence     time.Duration // default 5 s
	Stall       time.Duration // for each write to a peer that lives; default 30 s
	Idle        time.Duration // without payload until an outgoing connection is closed; default 5 min
}

// Limits of single messages, in bytes.
const (
	MaxMessage  = 4 << 20  // a core message or Raft message
	MaxSnapshot = 64 << 20 // a Raft message with a snapshot
)

// DefaultLimits returns the limits that the daemon runs with.
func DefaultLimits() Limits {
	return Limits{
		FrameQueue: 32 << 20, MessageQueue: 16 << 20, RaftQueue: 64 << 20, ApplyCalls: 4,
		Connections: 1024, PeerLimit: 16,
		DialTimeout: 3 * time.Second, BackoffMin: 50 * time.Millisecond, BackoffMax: 2 * time.Second,
		PathWait: time.Second, PathRetry: 30 * time.Second,
		Beat: 250 * time.Millisecond, Silence: 5 * time.Second, Stall: 30 * time.Second, Idle: 5 * time.Minute,
	}
}

func orDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

func (l Limits) withDefaults() (Limits, error) {
	d := DefaultLimits()
	orDefault(&l.FrameQueue, d.FrameQueue)
	orDefault(&l.MessageQueue, d.MessageQueue)
	orDefault(&l.RaftQueue, d.RaftQueue)
	orDefault(&l.ApplyCalls, d.ApplyCalls)
	orDefault(&l.Connections, d.Connections)
	orDefault(&l.PeerLimit, d.PeerLimit)
	orDefault(&l.DialTimeout, d.DialTimeout)
	orDefault(&l.BackoffMin, d.BackoffMin)
	orDefault(&l.BackoffMax, d.BackoffMax)
	orDefault(&l.PathWait, d.PathWait)
	orDefault(&l.PathRetry, d.PathRetry)
	orDefault(&l.Beat, d.Beat)
	orDefault(&l.Silence, d.Silence)
	orDefault(&l.Stall, d.Stall)
	orDefault(&l.Idle, d.Idle)
	for _, v := range []int64{
		l.FrameQueue, l.MessageQueue, l.RaftQueue, int64(l.ApplyCalls), int64(l.Connections), int64(l.PeerLimit),
		int64(l.DialTimeout), int64(l.BackoffMin), int64(l.PathRetry), int64(l.Beat), int64(l.Stall), int64(l.Idle),
	} {
		if v < 0 {
			return l, fmt.Errorf("limit %d is negative", v)
		}
	}
	if l.BackoffMax < l.BackoffMin {
		return l, fmt.Errorf("longest back-off %v is below the shortest, %v", l.BackoffMax, l.BackoffMin)
	}
	if l.Silence < 2*l.Beat {
		return l, fmt.Errorf("silence of %v leaves no room for a beat every %v: at least twice that is needed", l.Silence, l.Beat)
	}
	if l.PathWait < 2*l.Beat {
		return l, fmt.Errorf("waiting %v for a word on one path leaves no room for a beat every %v: at least twice that is needed", l.PathWait, l.Beat)
	}
	return l, nil
}

func (o *Options) check() error {
	switch {
	case o.Credentials == nil, o.Resolve == nil:
		return errors.New("credentials and resolve are needed")
	case o.OnMessage == nil, o.OnFrame == nil, o.OnRaft == nil, o.OnApply == nil,
		o.OnDisconnect == nil, o.OnRaftUnreachable == nil, o.OnRaftSnapshotSent == nil:
		return errors.New("all callbacks are needed")
	case o.Credentials() == nil:
		return errors.New("this agent has no certificate yet: join it to a cluster first")
	}
	return nil
}
