package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"flotilla/agent"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells systemd how the agent does, where systemd asks for it (Type=notify, WatchdogSec=): NOTIFY_SOCKET and
// WATCHDOG_USEC in the environment. Without them it says nothing.
//
// The watchdog is fed by the agent's loop: a beat is a tick that got through. Who waits for a disk does not stop it, and need
// not: a new process would wait for the same disk.
type notifier struct {
	log   *slog.Logger
	every time.Duration // between two words to the watchdog; 0: there is none
	last  time.Time     // of the last of them; only beat uses it
	due   chan struct{} // capacity 1: the loop gets on, and systemd is to hear of it
}

// newNotifier fails if the environment asks for a watchdog in words that cannot be read.
func newNotifier(log *slog.Logger) (*notifier, error) {
	limit, err := daemon.SdWatchdogEnabled(true)
	if err != nil {
		return nil, fmt.Errorf("WATCHDOG_USEC and WATCHDOG_PID: %w: leave them to systemd", err)
	}
	return &notifier{log: log, every: limit / 4, due: make(chan struct{}, 1)}, nil
}

// beat is called by the loop's own goroutine, so it only leaves word.
func (n *notifier) beat() {
	if n.every == 0 || time.Since(n.last) < n.every {
		return
	}
	n.last = time.Now()
	select {
	case n.due <- struct{}{}:
	default: // the last word has not got through to systemd yet
	}
}

// with runs an agent, and passes its beats on meanwhile, also while it stops.
func (n *notifier) with(ctx context.Context, run func(context.Context) error) error {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-n.due:
				n.say(daemon.SdNotifyWatchdog)
			}
		}
	}()
	err := run(ctx)
	close(stop)
	<-ended
	return err
}

// say never fails the agent: it serves volumes whether or not somebody listens.
func (n *notifier) say(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.log.Warn("systemd does not hear the agent", "err", err)
	}
}

// attach has an agent's options call the notifier.
func (n *notifier) attach(o *agent.Options) {
	o.Ready = func() { n.say(daemon.SdNotifyReady) }
	o.Stopping = func() { n.say(daemon.SdNotifyStopping) }
	o.Beat = n.beat
}
