package agent

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"flotilla/agent/core"
)

func TestHoldLog(t *testing.T) {
	var text bytes.Buffer
	l := newHoldLog(slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug})))
	for _, d := range []time.Duration{0, 100 * time.Microsecond, 101 * time.Microsecond, 50 * time.Millisecond, 3 * time.Second} {
		l.take([]core.Hold{{Group: 7, Set: 9, Length: d, Stood: true}, {Group: 8, Length: d}})
	}
	c := l.counts()[7]
	at := c.upTo()
	if c.count != 5 || c.seconds < 3.05 || c.seconds > 3.06 || at[.0001] != 2 || at[.0002] != 3 || at[.02] != 3 || at[.05] != 4 || at[1] != 4 {
		t.Errorf("%+v, %v", c, at)
	}
	if want := "msg=cut.hold group=7 set=9 seconds=0.05 stood=true"; !strings.Contains(text.String(), want) {
		t.Errorf("no %q in %s", want, &text)
	}
}
