package main

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"flotilla/agent"
)

// systemd listens as systemd does, and asks for a watchdog.
func systemd(t *testing.T, limit time.Duration) (heard chan string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(limit.Microseconds(), 10))
	heard = make(chan string, 100)
	go func() {
		defer close(heard)
		b := make([]byte, 1024)
		for {
			n, err := l.Read(b)
			if err != nil {
				return
			}
			heard <- string(b[:n])
		}
	}()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		for range heard {
		}
	})
	return heard
}

// TestNotify: what systemd hears of an agent, in its order; and that it is the loop's beats that feed the watchdog: none, no
// word.
func TestNotify(t *testing.T) {
	const limit = 40 * time.Millisecond
	heard := systemd(t, limit)
	n, err := newNotifier(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if n.every == 0 || n.every > limit/2 {
		t.Fatalf("the watchdog is fed every %v, with a limit of %v", n.every, limit)
	}
	var o agent.Options
	n.attach(&o)
	want := func(word string) {
		t.Helper()
		select {
		case got := <-heard:
			if got != word {
				t.Fatalf("systemd hears %q, want %q", got, word)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("systemd hears nothing, want %q", word)
		}
	}
	err = n.with(t.Context(), func(context.Context) error {
		o.Ready()
		want("READY=1")
		for range 3 {
			n.last = time.Time{} // the last word is long ago
			o.Beat()
			want("WATCHDOG=1")
		}
		// Beats too close to the last word are not passed on, however many.
		n.last = time.Now().Add(time.Hour)
		for range 1000 {
			o.Beat()
		}
		// Nor is time alone.
		select {
		case got := <-heard:
			t.Errorf("systemd hears %q without a beat", got)
		case <-time.After(5 * limit):
		}
		o.Stopping()
		want("STOPPING=1")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestNotifyUnasked: without systemd nothing is said and nothing fails.
func TestNotifyUnasked(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	n, err := newNotifier(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	n.beat()
	if len(n.due) != 0 {
		t.Error("a word for a watchdog that does not exist")
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if _, err := newNotifier(n.log); err == nil {
		t.Error(`WATCHDOG_USEC "soon" is taken`)
	}
}
