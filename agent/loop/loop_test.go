package loop_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/loop"
	"flotilla/wire"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitTime bounds the waits of these tests; an election takes about a second of it.
const waitTime = 30 * time.Second

// alone returns the node of a cluster of one agent with all roles.
func alone(t *testing.T) *core.Node {
	t.Helper()
	st := cluster.New("test")
	if _, err := st.Apply(1, &cluster.Command{AddAgent: &cluster.AddAgent{
		Name: "one", Address: "one:1", Primary: true, Backup: true, Secondary: true,
	}}); err != nil {
		t.Fatal(err)
	}
	n, err := core.New(core.DefaultConfig(1, 1), core.Bootstrap(st, []wire.AgentID{1}), 0)
	if err != nil {
		t.Fatal(err)
	}
	n.Restored()
	return n
}

// start runs a loop until the test ends.
func start(t *testing.T, l *loop.Loop) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the loop ended with: %v", err)
		}
	})
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(waitTime); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", waitTime, what)
		}
	}
}

var createGroup = cluster.Command{CreateGroup: &cluster.CreateGroup{
	Name: "g", PeriodMS: 1000, PortionSize: 1 << 20, SetBytes: cluster.MinSetBytes,
}}

// TestNothingCountsBeforeItIsSaved: the node must not act on what its control log could still lose.
func TestNothingCountsBeforeItIsSaved(t *testing.T) {
	var mu sync.Mutex // held by the test while nothing can be saved
	proposed := make(chan struct{})
	var once sync.Once
	l := loop.New(alone(t), loop.Sinks{
		SaveRaft: func(rd core.Ready) error {
			for _, e := range rd.Entries {
				if b, err := cluster.DecodeBatch(e.GetData()); err == nil && slices.ContainsFunc(b.Commands, func(c cluster.Command) bool { return c.CreateGroup != nil }) {
					once.Do(func() { close(proposed) })
				}
			}
			mu.Lock()
			defer mu.Unlock()
			return nil
		},
	})
	start(t, l)
	captain := func() (is bool) {
		l.View(func(n *core.Node) { is = n.Heard() != nil })
		return is
	}
	groups := func() (k int) {
		l.View(func(n *core.Node) { k = len(n.State().Groups) })
		return k
	}
	eventually(t, "a captain", captain)
	mu.Lock()
	// Raft may drop a proposal, as in the moment after an election; a second group of the name is refused.
	again := time.NewTicker(100 * loop.TickEvery)
	defer again.Stop()
	for late, saved := time.After(waitTime), false; !saved; {
		l.Do(func(n *core.Node, _ time.Duration) { n.Propose(createGroup) })
		select {
		case <-proposed:
			saved = true
		case <-again.C:
		case <-late:
			mu.Unlock()
			t.Fatal("the proposal is not saved")
		}
	}
	time.Sleep(20 * loop.TickEvery)
	if k := groups(); k != 0 {
		t.Errorf("%d groups while the entry is not saved", k)
	}
	mu.Unlock()
	eventually(t, "the group", func() bool { return groups() == 1 })
}

// TestSelf: what an agent says to itself arrives, and not at the transport.
func TestSelf(t *testing.T) {
	l := loop.New(alone(t), loop.Sinks{
		SaveRaft: func(core.Ready) error { return nil },
		Send: func(out []core.Envelope) {
			for _, e := range out {
				if e.To == 1 {
					t.Errorf("%T to itself was sent", e.Msg)
				}
			}
		},
	})
	start(t, l)
	eventually(t, "the captain hears of itself", func() (heard bool) {
		l.View(func(n *core.Node) { _, heard = n.Heard()[1] })
		return heard
	})
}

// TestControlLogFails: without it nothing is safe, so the agent ends.
func TestControlLogFails(t *testing.T) {
	broken := errors.New("the disk is gone")
	l := loop.New(alone(t), loop.Sinks{SaveRaft: func(core.Ready) error { return broken }})
	err := l.Run(t.Context())
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "control log") {
		t.Errorf("the loop ended with: %v", err)
	}
}

// TestOrder: effects are handed out in the order of the calls that made them. The node says suspended and resumed in
// turn, so they must arrive so.
func TestOrder(t *testing.T) {
	var seen []string // guarded by the loop
	l := loop.New(alone(t), loop.Sinks{
		SaveRaft: func(core.Ready) error { return nil },
		Events: func(es []core.Event) {
			for _, e := range es {
				if strings.HasPrefix(e.Name, "group.") {
					seen = append(seen, e.Name)
				}
			}
		},
	})
	l.Do(func(n *core.Node, now time.Duration) { n.AddSource(now, 1) })
	var wg sync.WaitGroup
	for k := range 8 {
		wg.Go(func() {
			for range 2000 {
				l.Do(func(n *core.Node, now time.Duration) {
					if k%2 == 0 {
						n.Suspend(now, 1)
					} else {
						n.Unsuspend(now, 1)
					}
				})
			}
		})
	}
	wg.Wait()
	if len(seen) < 2 {
		t.Fatalf("events: %v", seen)
	}
	for i, name := range seen {
		if want := []string{"group.suspended", "group.resumed"}[i%2]; name != want {
			t.Fatalf("event %d of %d is %s, want %s", i, len(seen), name, want)
		}
	}
}

// TestBeat: a loop that hangs does not beat, one that gets on does. Here it hangs in whoever performs what the node wants.
func TestBeat(t *testing.T) {
	beats := make(chan struct{}, 1)
	var hang sync.Mutex // held by the test while the loop hangs
	l := loop.New(alone(t), loop.Sinks{
		SaveRaft: func(core.Ready) error { return nil },
		Events:   func([]core.Event) { hang.Lock(); defer hang.Unlock() },
		Beat: func() {
			select {
			case beats <- struct{}{}:
			default:
			}
		},
	})
	start(t, l)
	wait := func() {
		t.Helper()
		select {
		case <-beats:
		case <-time.After(waitTime):
			t.Fatal("no beat")
		}
	}
	wait()
	hang.Lock()
	goOn := sync.OnceFunc(hang.Unlock)
	defer goOn() // also when the test fails
	var stuck sync.WaitGroup
	stuck.Go(func() {
		l.Do(func(n *core.Node, now time.Duration) { n.AddSource(now, 1); n.Suspend(now, 1) }) // has an event
	})
	quiet := 0
	eventually(t, "the beats end", func() bool { // a beat that was under way when it began to hang may still come
		select {
		case <-beats:
			quiet = 0
		case <-time.After(20 * loop.TickEvery):
			quiet++
		}
		return quiet == 2
	})
	goOn()
	stuck.Wait()
	wait()
}
