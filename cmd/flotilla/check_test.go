package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
)

// How much TestCheckOfBits does. What is to be shown in full, on an idle machine in some twenty minutes:
//
//	go test ./cmd/flotilla -run TestCheckOfBits -check.flips 100 -check.rounds 1000 -timeout 2h -v
var (
	checkFlips  = flag.Int("check.flips", 6, "bits that TestCheckOfBits changes on the target, one after the other")
	checkRounds = flag.Int("check.rounds", 10, "checks with nothing to find before that")
)

const (
	checkSize  = 16 << 20
	checkBlock = 4096
	checkPiece = 256 << 10 // what a check lists at a time

	// checkTime bounds the waits, for machines that do much at the same time.
	checkTime = 4 * time.Minute
)

// checkRig is a cluster of real agents with one volume that is written all the time. Only blocks with an even index are.
type checkRig struct {
	t      *testing.T
	ctx    context.Context
	fleet  *fleet.Fleet
	target *os.File
	seed   uint64
	rng    *rand.Rand
}

func newCheckRig(t *testing.T, ctx context.Context, fail context.CancelCauseFunc) *checkRig {
	t.Helper()
	dir := demoDir(t)
	r := &checkRig{t: t, ctx: ctx, fleet: fleet.New(program(t), dir, fail), seed: uint64(time.Now().UnixNano())}
	r.rng = rand.New(rand.NewPCG(r.seed, 0))
	t.Logf("seed %d", r.seed)
	t.Cleanup(func() { r.do(r.fleet.Close()) })
	for _, m := range []fleet.Member{
		{Name: "one", Roles: "backup"}, {Name: "two", Roles: "backup"}, {Name: "primary", Roles: "primary"}, {Name: "secondary", Roles: "secondary"},
	} {
		_, err := r.fleet.Add(m)
		r.do(err)
	}
	r.do(r.fleet.Assemble(ctx, func(*fleet.Host) {}))
	source, target := filepath.Join(dir, "source"), filepath.Join(dir, "target")
	for _, name := range []string{source, target} {
		data := make([]byte, checkSize)
		if name == source {
			for i := range data {
				data[i] = byte(r.rng.Uint32())
			}
		}
		r.do(os.WriteFile(name, data, 0o600))
	}
	r.call(http.MethodPost, "/v1/groups", api.GroupRequest{Name: "g", PeriodMS: 200}, nil)
	r.call(http.MethodPost, "/v1/groups/g/volumes", api.VolumeRequest{
		Name: "v", Size: checkSize, Primary: "primary", Source: source, Secondary: "secondary", Target: target,
	}, nil)
	r.until("the first copy is whole", func(g *api.Group) bool { return g.Volumes[0].Copied && g.Applied > 0 })
	var err error
	r.target, err = os.OpenFile(target, os.O_RDWR, 0)
	r.do(err)
	t.Cleanup(func() { r.do(r.target.Close()) })
	return r
}

func (r *checkRig) do(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *checkRig) call(method, path string, in, out any) {
	r.t.Helper()
	r.do(fleet.Until(r.ctx, fleet.StepTime, method+" "+path, func(ctx context.Context) (bool, error) {
		err := r.fleet.Hosts[0].API.Call(ctx, method, path, in, out)
		return err == nil, fleet.IgnoreUnreached(err)
	}))
}

func (r *checkRig) until(what string, ok func(g *api.Group) bool) {
	r.t.Helper()
	var last *api.Status
	err := fleet.Until(r.ctx, checkTime, what, func(ctx context.Context) (bool, error) {
		s, err := r.fleet.Hosts[0].Status(ctx)
		if s != nil {
			last = s
		}
		return s != nil && s.Group("g") != nil && len(s.Group("g").Volumes) == 1 && ok(s.Group("g")), err
	})
	if err != nil {
		text, _ := json.Marshal(last)
		for _, h := range r.fleet.Hosts {
			r.t.Logf("the end of the log of %s:\n%s", h.Name, h.Tail())
		}
		r.t.Fatalf("%v; last: %s", err, text)
	}
}

// check runs a check to its end.
func (r *checkRig) check(repair bool) (c api.Check) {
	r.t.Helper()
	var made api.Made
	r.call(http.MethodPost, "/v1/groups/g/check", api.CheckRequest{Repair: repair}, &made)
	r.until("the check has ended", func(g *api.Group) bool {
		if g.Check == nil || g.Check.Number < made.ID || g.Check.Running {
			return false
		}
		c = *g.Check
		return true
	})
	if c.Done != checkSize || c.Total != checkSize || c.Unknown != 0 {
		r.t.Fatalf("check %+v", c)
	}
	return c
}

// load writes until the context ends: what a few clients of a database might.
func (r *checkRig) load(ctx context.Context, done *sync.WaitGroup) {
	for k := range 3 {
		c, err := r.fleet.Hosts[2].Dial(ctx, "g/v")
		r.do(err)
		rng := rand.New(rand.NewPCG(r.seed, uint64(k+1)))
		done.Go(func() {
			defer c.Close()
			data, tick := make([]byte, checkBlock), time.NewTicker(20*time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				for i := range data {
					data[i] = byte(rng.Uint32())
				}
				block := 2 * rng.Int64N(checkSize/checkBlock/2)
				if err := c.WriteAt(ctx, data[:512*(1+rng.IntN(8))], block*checkBlock, 0); err != nil && !errors.Is(err, context.Canceled) {
					r.t.Errorf("write: %v", err)
					return
				}
				<-tick.C
			}
		})
	}
}

// Under a load, and while agents are killed, no check finds anything on a good target; and each of many bits that are
// changed behind everybody's back is found by the next check, and mended when that is asked for.
func TestCheckOfBits(t *testing.T) {
	ctx, fail := context.WithCancelCause(t.Context())
	defer fail(nil)
	r := newCheckRig(t, ctx, fail)
	loaded, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	defer done.Wait()
	defer stop()
	r.load(loaded, &done)

	began, kills := time.Now(), 0
	for round := range *checkRounds {
		if every := max(5, *checkRounds/20); round%every == every-1 {
			kills++
			h := r.fleet.Hosts[1+2*(kills%2)] // a component, the secondary
			r.do(h.Kill())
			r.do(r.fleet.Launch(h)) // while the check runs
		}
		if c := r.check(round%2 == 1); c.Differing != 0 {
			t.Fatalf("round %d: a false alarm: %+v", round, c)
		}
	}
	t.Logf("%d checks of %d MiB without a false alarm in %v, %d kills", *checkRounds, checkSize>>20, time.Since(began).Round(time.Second), kills)

	began = time.Now()
	for n := range *checkFlips {
		at, bit := r.flip()
		piece := uint64(at) / checkPiece * checkPiece
		c := r.check(false)
		if len(c.Found) != 1 || c.Found[0].Offset != piece || c.Found[0].Repaired {
			t.Fatalf("bit %d of the byte at %d (change %d): check %+v", bit, at, n, c)
		}
		if c = r.check(true); len(c.Found) != 1 || c.Found[0].Offset != piece || !c.Found[0].Repaired {
			t.Fatalf("bit %d of the byte at %d (change %d): repair %+v", bit, at, n, c)
		}
		r.same(at)
	}
	t.Logf("%d bits found and mended in %v", *checkFlips, time.Since(began).Round(time.Second))
}

// flip changes a random bit on the target, in a block that the load does not write.
func (r *checkRig) flip() (at int64, bit int) {
	at, bit = (2*r.rng.Int64N(checkSize/checkBlock/2)+1)*checkBlock+r.rng.Int64N(checkBlock), r.rng.IntN(8)
	b := r.byteAt(r.target, at)
	_, err := r.target.WriteAt([]byte{b ^ 1<<bit}, at)
	r.do(err)
	return at, bit
}

// same compares a byte of the target with the source's.
func (r *checkRig) same(at int64) {
	r.t.Helper()
	source, err := os.Open(filepath.Join(filepath.Dir(r.target.Name()), "source"))
	r.do(err)
	defer source.Close()
	if want, have := r.byteAt(source, at), r.byteAt(r.target, at); want != have {
		r.t.Errorf("the byte at %d is %#x on the source and %#x on the target", at, want, have)
	}
}

func (r *checkRig) byteAt(f *os.File, at int64) byte {
	r.t.Helper()
	var b [1]byte
	_, err := f.ReadAt(b[:], at)
	r.do(err)
	return b[0]
}
