package main

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
	"flotilla/nbd/nbdclient"
)

// TestOverload has a client write much faster than its group may send: it is delayed, the queue goes to disk, the client is
// delayed again, and at last the group is suspended. Each step is told, in this order, with when it will be full; no write fails or
// takes longer than is stated; and when the limit is gone source and target are equal.
func TestOverload(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	const size, piece, spool = 448 << 20, 4 << 20, 64 << 20
	dir := demoDir(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancelCause(t.Context())
	defer stop(nil)
	f := fleet.New(program(t), dir, stop)
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	h, err := f.Add(fleet.Member{Name: "a", Roles: "primary, backup, secondary"})
	must(err)
	must(f.Assemble(ctx, func(*fleet.Host) {}))
	source, target := filepath.Join(dir, "source"), filepath.Join(dir, "target")
	for _, name := range []string{source, target} {
		must(os.WriteFile(name, nil, 0o600))
		must(os.Truncate(name, size))
	}
	command := func(args ...string) string {
		t.Helper()
		out, err := f.Command(ctx, append(args, "--socket", h.Socket())...)
		must(err)
		return out
	}
	command("group", "create", "db", "--spool", "64MiB")
	command("volume", "create", "db/data", "--primary", "a", "--source", source, "--secondary", "a", "--target", target)
	status := func() *api.Group {
		s, err := h.Status(ctx)
		if err != nil || s == nil || s.Group("db") == nil || len(s.Group("db").Primaries) != 1 {
			return nil
		}
		return s.Group("db")
	}
	until := func(limit time.Duration, what string, done func(g *api.Group) bool) {
		t.Helper()
		if err := fleet.Until(ctx, limit, what, func(context.Context) (bool, error) {
			g := status()
			return g != nil && done(g), nil
		}); err != nil {
			t.Fatalf("%v\n%+v\n%s", err, status(), h.Tail())
		}
	}
	until(2*fleet.StepTime, "the copy is whole", func(g *api.Group) bool { return g.Volumes[0].Copied })
	command("group", "set", "db", "--bandwidth", "64KiB")

	c, err := nbdclient.Dial(ctx, "unix", h.NBD, "db/data")
	must(err)
	suspended := func() bool {
		g := status()
		return g != nil && g.Primaries[0].Overload != nil && g.Primaries[0].Overload.Step == "suspend"
	}
	rng := rand.NewChaCha8([32]byte{1})
	data := make([]byte, piece)
	var slowest time.Duration
	var most, inSpool atomic.Int64
	for off, begun := int64(0), time.Now(); !suspended(); off = (off + piece) % size {
		if time.Since(begun) > 3*time.Minute {
			t.Fatalf("the group is not suspended\n%s", h.Tail())
		}
		_, _ = rng.Read(data) // never fails
		at := time.Now()
		must(c.WriteAt(ctx, data, off, 0))
		slowest = max(slowest, time.Since(at))
		if g := status(); g != nil {
			p := g.Primaries[0]
			if p.Overload != nil {
				inSpool.Store(max(inSpool.Load(), p.Overload.Spooled))
				most.Store(max(most.Load(), p.Queued-p.Overload.Spooled))
			}
		}
	}
	must(c.Close())
	t.Logf("the slowest write took %v; at most %d MiB were in the spool and %d MiB in memory", slowest, inSpool.Load()>>20, most.Load()>>20)
	if slowest > 10*time.Second { // a second is stated, and the machine may be busy
		t.Errorf("a write took %v", slowest)
	}
	if inSpool.Load() > spool || inSpool.Load() < spool/2 {
		t.Errorf("at most %d bytes were in a spool of %d", inSpool.Load(), spool)
	}

	var steps []string
	for _, line := range strings.Split(strings.TrimSpace(command("events", "--json")), "\n") {
		var e struct {
			Name  string
			Attrs map[string]any
		}
		must(json.Unmarshal([]byte(line), &e))
		step, ok := strings.CutPrefix(e.Name, "overload.")
		if !ok {
			continue
		}
		steps = append(steps, step)
		if _, said := e.Attrs["full_in_seconds"]; !said && step != "over" {
			t.Errorf("%s does not say when it will be full: %v", e.Name, e.Attrs)
		}
	}
	if want := []string{"pace", "spill", "pace", "suspend"}; len(steps) < len(want) || !slices.Equal(steps[:len(want)], want) {
		t.Errorf("steps %v, want %v first", steps, want)
	}

	command("group", "set", "db", "--bandwidth", "none")
	until(6*fleet.StepTime, "all is applied", func(g *api.Group) bool {
		p := g.Primaries[0]
		return p.Known && p.Incarnation != 0 && p.Overload == nil && p.CopyLeft == 0 && p.Queued < 1<<20 && g.Point != nil && time.Since(g.Point.Label) < 5*time.Second
	})
	until(2*fleet.StepTime, "source and target are equal", func(*api.Group) bool {
		a, err := os.ReadFile(source)
		must(err)
		b, err := os.ReadFile(target)
		must(err)
		return bytes.Equal(a, b)
	})
	if left, err := os.ReadDir(filepath.Join(h.Dir, "spool")); err != nil || len(left) != 0 {
		t.Errorf("the spool has files with names: %v, %v", left, err)
	}
}
