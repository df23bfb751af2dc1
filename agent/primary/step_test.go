package primary

import (
	"testing"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/vfs/crashfs"
)

// newStepGroup returns a group with a spool of 1 MiB and the default limits.
func newStepGroup(t *testing.T) *group {
	l, err := Limits{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return &group{p: &Primary{limits: l}, spool: newSpool(crashfs.New(1), 1<<20, 16*kib, 1<<30)}
}

// TestSteps: each step is taken and left where it is stated, and no two follow each other for ever.
func TestSteps(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct {
		name    string
		from    step
		queue   int64
		spilled int64
		room    spoolRoom
		want    step
	}{
		{"short", stepNone, 64 * mib, 0, spoolRoom{set: mib, limit: mib}, stepNone},
		{"long", stepNone, 64*mib + 1, 0, spoolRoom{set: mib, limit: mib}, stepPace},
		{"very long", stepNone, 113 * mib, 0, spoolRoom{set: mib, limit: mib}, stepSpill},
		{"without a spool", stepPace, 200 * mib, 0, spoolRoom{}, stepPace},
		{"full from the beginning", stepPace, 200 * mib, 0, spoolRoom{set: mib, full: true}, stepPace},
		{"full of what is not needed", stepPace, 200 * mib, 0, spoolRoom{set: mib, limit: mib, taken: mib}, stepPace},
		{"spills", stepSpill, 40 * mib, 100, spoolRoom{set: mib, limit: mib, taken: mib / 2}, stepSpill},
		{"nearly full", stepSpill, 70 * mib, 100, spoolRoom{set: mib, limit: mib, taken: mib * 7 / 8}, stepEnd},
		{"the disk has no more", stepSpill, 70 * mib, 100, spoolRoom{set: mib, limit: mib / 4, taken: mib / 4, full: true}, stepEnd},
		{"less full", stepEnd, 70 * mib, 100, spoolRoom{set: mib, limit: mib, taken: mib * 13 / 16}, stepEnd},
		{"far from full", stepEnd, 70 * mib, 100, spoolRoom{set: mib, limit: mib, taken: mib / 2}, stepSpill},
		{"switched off", stepSpill, 70 * mib, 100, spoolRoom{limit: 0, taken: mib / 2}, stepEnd},
		{"short, but something is spilled", stepSpill, 1, 100, spoolRoom{set: mib, limit: mib, taken: mib / 4}, stepSpill},
		{"short again", stepSpill, 31 * mib, 0, spoolRoom{set: mib, limit: mib, taken: mib / 4}, stepNone},
		{"over at its end", stepEnd, 40 * mib, 0, spoolRoom{set: mib, limit: mib, taken: mib}, stepPace},
	} {
		g := newStepGroup(t)
		g.over.step = tc.from
		g.view = core.GroupView{Spilled: tc.spilled}
		for range 5 {
			g.over.step = g.nextStepLocked(time.Second, tc.queue, &tc.room)
		}
		if got := g.over.step; got != tc.want {
			t.Errorf("%s: step %d, want %d", tc.name, got, tc.want)
		}
		if next := g.nextStepLocked(time.Second, tc.queue, &tc.room); next != tc.want {
			t.Errorf("%s: step %d does not last, %d follows", tc.name, tc.want, next)
		}
	}
}

// TestDelayFallsAway: while the spool has room nothing is delayed that was before; near its end it is, whatever the queue is; and
// never more than is stated.
func TestDelayFallsAway(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct {
		name      string
		step      step
		load      int64
		fill      float64
		low, high time.Duration
	}{
		{"paced", stepPace, 100 * mib, 0, 100 * time.Millisecond, 300 * time.Millisecond},
		{"spilled", stepSpill, 100 * mib, 0.5, 0, 0},
		{"spilled, and the disk is slow", stepSpill, 180 * mib, 0.5, 100 * time.Millisecond, 600 * time.Millisecond},
		{"near the end", stepEnd, 10 * mib, 15.0 / 16, 200 * time.Millisecond, 300 * time.Millisecond},
		{"at the end", stepEnd, 10 * mib, 1, 500 * time.Millisecond, 500 * time.Millisecond},
		{"at the end of both", stepEnd, 600 * mib, 1, time.Second, time.Second},
		{"over", stepNone, 10 * mib, 0, 0, 0},
	} {
		g := newStepGroup(t)
		g.over.step, g.view.Spilled = tc.step, 1
		g.load.Store(tc.load)
		g.applyStepLocked(tc.fill)
		if d := g.delay(); d < tc.low || d > tc.high {
			t.Errorf("%s: delayed by %v, want %v to %v", tc.name, d, tc.low, tc.high)
		}
	}
}

// TestFullIn: the guess follows the last seconds, and there is none where nothing grows.
func TestFullIn(t *testing.T) {
	var g growth
	if _, ok := g.fullIn(100); ok {
		t.Error("it knows before it has seen anything")
	}
	for now := time.Duration(0); now <= 20*time.Second; now += 50 * time.Millisecond {
		g.note(now, int64(now/time.Millisecond)) // 1000 bytes a second
	}
	if in, ok := g.fullIn(30_000); !ok || in != 30*time.Second {
		t.Errorf("full in %v, %v, want 30 s", in, ok)
	}
	if len(g.seen) > 25 {
		t.Errorf("%d moments are kept", len(g.seen))
	}
	for now := 20 * time.Second; now <= 26*time.Second; now += 50 * time.Millisecond {
		g.note(now, 20_000+10*int64((now-20*time.Second)/time.Millisecond))
	}
	if in, ok := g.fullIn(30_000); !ok || in < 2900*time.Millisecond || in > 3100*time.Millisecond {
		t.Errorf("full in %v, %v, want 3 s", in, ok)
	}
	if in, ok := g.fullIn(-1); !ok || in != 0 {
		t.Errorf("a full one is full in %v, %v", in, ok)
	}
	for now := 26 * time.Second; now <= 32*time.Second; now += 50 * time.Millisecond {
		g.note(now, 80_000)
	}
	if in, ok := g.fullIn(30_000); ok {
		t.Errorf("what does not grow is full in %v", in)
	}
}
