package primary

import (
	"testing"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/loop"
	"flotilla/wire"
)

// TestFirstCopiesWaitForResyncs: while a resync is under way only resyncs are copied, so that its chain is no larger than
// was said before.
func TestFirstCopiesWaitForResyncs(t *testing.T) {
	ctx := t.Context()
	g := &group{p: &Primary{loop: loop.New(nil, loop.Sinks{})}, view: core.GroupView{Inc: 5}}
	first := &volume{id: 1, ctx: ctx, inc: 5, run: copyRun{first: true}}
	resync := &volume{id: 2, ctx: ctx, inc: 5}
	g.volumes = map[wire.VolumeID]*volume{1: first, 2: resync}
	expect := func(when string, want *volume) {
		t.Helper()
		if got, _ := g.nextToCopy(); got != want {
			t.Errorf("%s: got %v, want %v", when, got, want)
		}
	}
	expect("both have something to copy", resync)
	resync.unread.until = g.p.loop.Now() + time.Hour
	expect("the resync waits for what can not be read", nil)
	resync.unread.until = 0
	resync.whole, resync.wasWhole = true, true
	expect("the resync is whole", first)
	resync.whole = false
	first.whole = true
	expect("a write failed after the resync", resync)
	first.whole = false
	expect("a write failed, and the first copy has something to do", first)
}
