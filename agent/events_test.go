package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/agent/loop"
	"flotilla/wire"
)

func TestEventLogForgetsTheOldest(t *testing.T) {
	l := newEventLog(slog.New(slog.DiscardHandler), time.Unix(1000, 0))
	for i := range maxEvents + 10 {
		l.one(core.Event{At: time.Duration(i) * time.Second, Name: "n", Group: 3, Attrs: []any{"i", i, "error", errors.New("bad"), "d", 1500 * time.Millisecond}})
	}
	events, missed, next := l.after(t.Context(), 0)
	if len(events) != maxEvents || missed != 10 || next != maxEvents+10 || events[0].seq != 11 {
		t.Fatalf("%d events from %d, missed %d, next %d", len(events), events[0].seq, missed, next)
	}
	e := events[0]
	if e.attrs["i"] != 10 || e.attrs["error"] != "bad" || e.attrs["d"] != 1.5 || !e.at.Equal(time.Unix(1010, 0)) {
		t.Errorf("event %+v", e)
	}
	if events, missed, _ := l.after(t.Context(), next-2); len(events) != 2 || missed != 0 {
		t.Errorf("the last two: %d, missed %d", len(events), missed)
	}
	// A number above the newest is of an earlier run.
	if events, _, _ := l.after(t.Context(), next+100); len(events) != maxEvents {
		t.Errorf("after a restart: %d", len(events))
	}
	l.eachCount(func(name string, n uint64) {
		if name != "n" || n != maxEvents+10 {
			t.Errorf("%d of %s", n, name)
		}
	})
}

func TestEventLogWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newEventLog(slog.New(slog.DiscardHandler), time.Now())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		got := make(chan int, 1)
		go func() {
			events, _, _ := l.after(ctx, 0)
			got <- len(events)
		}()
		synctest.Wait()
		select {
		case <-got:
			t.Fatal("it did not wait")
		default:
		}
		l.one(core.Event{Name: "x"})
		if n := <-got; n != 1 {
			t.Errorf("%d events", n)
		}
		if events, _, next := l.after(ctx, 1); len(events) != 0 || next != 1 {
			t.Errorf("at the end of the wait: %d, next %d", len(events), next)
		}
	})
}

// A captain whose commands are not committed cannot say what became of one.
func TestProposeOutcomeUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := cluster.New("00")
		if _, err := st.Apply(1, &cluster.Command{AddAgent: &cluster.AddAgent{Name: "a", Address: "x:1", Backup: true}}); err != nil {
			t.Fatal(err)
		}
		node, err := core.New(core.DefaultConfig(1, 1), core.Bootstrap(st, []wire.AgentID{1}), 0)
		if err != nil {
			t.Fatal(err)
		}
		var w watch
		// Nobody runs the loop, so nothing is saved.
		p := proposer{loop: loop.New(node, loop.Sinks{Wake: w.wake}), watch: &w}
		begin := time.Now()
		_, err = p.propose(t.Context(), func(*core.Node) (cluster.Command, error) {
			return cluster.Command{CreateGroup: &cluster.CreateGroup{Name: "g"}}, nil
		})
		if api.CodeOf(err) != api.Unknown || time.Since(begin) != proposeWait {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		begin = time.Now()
		if _, _, err := p.captain(t.Context()); api.CodeOf(err) != api.Unavailable || time.Since(begin) != captainWait {
			t.Errorf("captain after %v: %v", time.Since(begin), err)
		}
		refused := errors.New("no")
		if _, err := p.propose(t.Context(), func(*core.Node) (cluster.Command, error) { return cluster.Command{}, refused }); err != refused {
			t.Errorf("a command that was not made: %v", err)
		}
	})
}
