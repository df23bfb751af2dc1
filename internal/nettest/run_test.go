//go:build nettest

package nettest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
	"flotilla/internal/workload"
)

// built is the program, and interrupted ends when somebody wants the tests to end.
var (
	built       string
	interrupted context.Context
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	var stop context.CancelFunc
	interrupted, stop = signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	spawn := fleet.NewSpawner()
	defer spawn.Close()
	if why := unable(interrupted, spawn); why != "" {
		if os.Getenv("FLOTILLA_REQUIRE_TOOLS") == "1" {
			fmt.Println("nettest:", why)
			return 1
		}
		fmt.Println("nettest: skipped:", why)
		return 0
	}
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", leftPrefix, os.Getpid()))
	if err != nil {
		fmt.Println("nettest:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	built = filepath.Join(dir, "flotilla")
	if _, err = spawn.Run(interrupted, nil, "env", "CGO_ENABLED=0", "go", "build", "-o", built, "flotilla/cmd/flotilla"); err == nil {
		err = sweep()
	}
	if err != nil {
		fmt.Println("nettest:", err)
		return 1
	}
	return m.Run()
}

// unable says why the tests cannot run here. What the kernel can do is tried, not read off its version.
func unable(ctx context.Context, spawn *fleet.Spawner) string {
	for program, pkg := range map[string]string{"ip": "iproute2", "tc": "iproute2", "nft": "nftables"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Sprintf("%s is missing: install the Debian package %s, or run scripts/test-deps.sh", program, pkg)
		}
	}
	if err := tryNetwork(ctx, spawn); err != nil {
		return err.Error()
	}
	return ""
}

// tryNetwork makes a network with a slow link and a cut.
func tryNetwork(ctx context.Context, spawn *fleet.Spawner) (err error) {
	n, err := newNetwork(ctx, spawn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	x, err := n.Attach(ctx, "x", mainLAN)
	if err != nil {
		return err
	}
	return errors.Join(n.Shape(ctx, x, mainLAN, slowLinkBits), n.cut(ctx, x, x, true))
}

// run is one cluster's test.
type run struct {
	*cluster
	t     *testing.T
	ctx   context.Context
	began time.Time
}

// newRun starts a cluster with clients that write.
func newRun(t *testing.T, c cast) *run {
	t.Helper()
	ctx, fail := context.WithCancelCause(interrupted)
	r := &run{t: t, ctx: ctx, began: time.Now()}
	var err error
	r.cluster, err = newCluster(ctx, built, c, fail)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range r.all() {
				fmt.Printf("--- end of the log of %s\n%s\n", h.Name, h.Tail())
			}
		}
		fail(nil)
		if err := r.close(); err != nil {
			t.Error(err)
		}
	})
	r.must(r.replicate(ctx))
	r.say("%d components, %d primaries and a secondary, %d network(s); clients write to two volumes in mode %s", c.components, c.primaries, c.lans, c.mode)
	return r
}

// say writes a line of the timeline.
func (r *run) say(format string, args ...any) {
	fmt.Printf("%7.1f s  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

// must ends the test with what went wrong: with the first cause, where a client or an agent has failed.
func (r *run) must(err error) {
	r.t.Helper()
	if cause := context.Cause(r.ctx); cause != nil && !errors.Is(err, cause) {
		err = errors.Join(cause, err)
	}
	if err != nil {
		r.say("FAILED: %v", err)
		r.t.Fatal(err)
	}
}

// until waits for the cluster, and returns how long that took.
func (r *run) until(limit time.Duration, what string, ok func(s *api.Status, g *api.Group) bool) time.Duration {
	r.t.Helper()
	at := time.Now()
	var last string
	err := fleet.Until(r.ctx, limit, what, func(ctx context.Context) (bool, error) {
		s, g, err := r.status(ctx)
		if ctx.Err() != nil {
			return false, nil
		}
		if s == nil || g == nil {
			last = "no captain answers"
			return false, err
		}
		last = describe(s, g)
		return ok(s, g), err
	})
	if err != nil {
		err = fmt.Errorf("%w; last: %s", err, last)
	}
	r.must(err)
	return time.Since(at)
}

// describe is a status in a line.
func describe(s *api.Status, g *api.Group) string {
	text := fmt.Sprintf("captain %s, view %d (settled %v), open %d, committed %d, applied %d, waiting %q, members", s.Captain, s.View, s.Settled, g.Open, g.Committed, g.Applied, g.Waiting)
	for i := range s.Components {
		if c := &s.Components[i]; c.Member {
			text += " " + c.Agent
		}
	}
	for _, p := range g.Primaries {
		text += fmt.Sprintf("; %s queues %d bytes, copies %d", p.Agent, p.Queued, p.CopyLeft)
	}
	return text
}

// commits waits until sets are committed that were opened from now on.
func (r *run) commits(limit time.Duration) time.Duration {
	r.t.Helper()
	open := uint64(0)
	return r.until(limit, "sets are committed that were opened later", func(_ *api.Status, g *api.Group) bool {
		if open == 0 {
			open = g.Open // 0 while there is no captain, or it has not heard of one
		}
		return open != 0 && g.Committed > open
	})
}

// applies waits until sets are applied that were opened from now on.
func (r *run) applies(limit time.Duration) time.Duration {
	r.t.Helper()
	open := uint64(0)
	return r.until(limit, "sets are applied that were opened later", func(_ *api.Status, g *api.Group) bool {
		if open == 0 {
			open = g.Open
		}
		return open != 0 && g.Applied > open
	})
}

// member waits until a component is a member, or is none.
func (r *run) member(limit time.Duration, name string, want bool) time.Duration {
	r.t.Helper()
	return r.until(limit, fmt.Sprintf("%s is a member: %v", name, want), func(s *api.Status, _ *api.Group) bool {
		c := s.Component(name)
		return c != nil && c.Member == want
	})
}

// calm waits until all components are members again with nothing left to copy, and what is committed is applied.
func (r *run) calm(limit time.Duration) time.Duration {
	r.t.Helper()
	committed := uint64(0)
	return r.until(limit, "all is as before", func(s *api.Status, g *api.Group) bool {
		if committed == 0 {
			committed = g.Committed
		}
		return calm(s, len(r.components)) && g.Applied >= committed && g.Committed > committed
	})
}

// pass lets time pass, in which a fault lasts.
func (r *run) pass(d time.Duration) {
	r.t.Helper()
	end := time.Now().Add(d)
	r.must(fleet.Until(r.ctx, d+stepTime, "time passes", func(context.Context) (bool, error) { return time.Now().After(end), nil }))
}

// slowest says how long a client had to wait at most since it was asked last.
func (r *run) slowest() string {
	return fmt.Sprintf("no write failed, the slowest took %v", r.clients.TakeSlowest().Round(time.Millisecond))
}

// finish lets the clients stop in order and waits until everything is committed and applied.
func (r *run) finish() {
	r.t.Helper()
	ctx, cancel := context.WithTimeoutCause(r.ctx, stepTime, fleet.ErrTooLong)
	defer cancel()
	err := r.clients.Finish(ctx)
	if err != nil {
		if s, g, serr := r.status(r.ctx); serr == nil && s != nil && g != nil {
			err = fmt.Errorf("%w; last: %s", err, describe(s, g))
		}
	}
	r.must(err)
	open := uint64(0)
	r.until(stepTime, "everything that was written is applied", func(_ *api.Status, g *api.Group) bool {
		if open == 0 {
			open = g.Open
		}
		return open != 0 && g.Applied >= open && len(g.Primaries) == len(r.primaries) &&
			!slices.ContainsFunc(g.Primaries, func(p api.Source) bool { return p.Queued != 0 })
	})
	r.say("the clients have stopped, and all of it is applied")
}

// strike kills the primaries in the middle of the writing.
func (r *run) strike() {
	r.t.Helper()
	r.clients.Doom()
	for _, h := range r.primaries {
		r.must(h.Doom()) // all of them, before one is waited for
	}
	for _, h := range r.primaries {
		r.must(h.Kill())
	}
	r.clients.Close()
	r.say("every primary is killed in the middle of the writing")
}

// promote promotes the group and compares what is served: all that was written, or a prefix of it, which in a sync group has
// everything that was acknowledged.
func (r *run) promote(all bool) {
	r.t.Helper()
	at := time.Now()
	text, err := r.command(r.ctx, r.secondary, "promote", groupName, "--json", "--wait", stepTime.String())
	r.must(err)
	var answer struct {
		Group api.Group `json:"group"`
	}
	r.must(json.Unmarshal([]byte(text), &answer))
	r.say("promoted in %v", time.Since(at).Round(time.Millisecond))
	proof := &workload.Proof{Run: r.seed}
	var prefixes []workload.Prefix
	for _, v := range r.volumes {
		ctx, cancel := context.WithTimeout(r.ctx, stepTime)
		d, err := r.secondary.Dial(ctx, groupName+"/"+v.Name)
		cancel()
		r.must(err)
		found, err := proof.Volume(r.ctx, v, d)
		r.must(errors.Join(err, d.Close()))
		prefixes = append(prefixes, found...)
	}
	_, err = workload.Chain(prefixes[1], prefixes[3])
	r.must(err)
	there, err := workload.Causes(prefixes)
	r.must(err)
	issued := int64(0)
	for _, p := range prefixes {
		issued += int64(p.N)
		if lost := workload.Acknowledged(p.Stream.All(), p.K); r.mode == "sync" && lost.Updates > 0 {
			r.must(fmt.Errorf("%w: %d acknowledged updates of the %s are missing, and the group is sync", workload.ErrDiffers, lost.Updates, p.Stream.Name))
		}
		if all && p.K != p.N {
			r.must(fmt.Errorf("%w: %d of %d updates of the %s are there, though the clients had stopped and all was applied", workload.ErrDiffers, p.K, p.N, p.Stream.Name))
		}
	}
	if there == 0 {
		r.must(fmt.Errorf("%w: nothing was recovered", workload.ErrDiffers))
	}
	r.say("proven: both volumes are byte for byte the first %d of %d updates", there, issued)
}
