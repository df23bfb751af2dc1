package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
	"flotilla/nbd/nbdclient"

	"golang.org/x/sys/unix"
)

// kills is set by the command line only: CI kills twice, `-kills 100` does it as often as the promise says.
var kills = flag.Int("kills", 2, "how often TestKilledPrimary kills the primary")

const (
	killVolume  = int64(4) << 30 // sparse: four times what stays hot
	killExtent  = int64(1) << 20
	killHot     = 1024 + 1024/8 // extents that may stay marked
	killWorking = int64(64) << 20
	killWriters = 4
	killTime    = 3 * fleet.StepTime // for a resync, on a disk that others use
)

// killed is a cluster whose primary is killed again and again.
type killed struct {
	t              *testing.T
	ctx            context.Context
	fleet          *fleet.Fleet
	primary        *fleet.Host
	source, target string
	seed           uint64
}

// TestKilledPrimary kills a primary under random writes and starts it again: each time it copies no more than what its
// bits said when it died, these are the hot extents and what was written since, and source and target become equal.
func TestKilledPrimary(t *testing.T) {
	dir := demoDir(t)
	ctx, stop := context.WithCancelCause(t.Context())
	defer stop(nil)
	k := &killed{
		t: t, ctx: ctx, fleet: fleet.New(program(t), dir, stop), seed: uint64(time.Now().UnixNano()),
		source: filepath.Join(dir, "source"), target: filepath.Join(dir, "target"),
	}
	t.Logf("seed %d", k.seed)
	defer func() {
		if err := k.fleet.Close(); err != nil {
			t.Error(err)
		}
	}()
	k.assemble()
	var most, sum int64
	began := time.Now()
	for round := range *kills {
		n := k.round(round)
		if most, sum = max(most, n), sum+n; round%10 == 9 {
			t.Logf("%d kills", round+1)
		}
	}
	t.Logf("%d kills in %v: at most %d MiB were copied, %d MiB on average, of a volume of %d MiB",
		*kills, time.Since(began).Round(time.Second), most>>20, sum/int64(*kills)>>20, killVolume>>20)
}

// assemble makes the cluster, and waits until the volume is copied and only hot extents are marked.
func (k *killed) assemble() {
	k.t.Helper()
	for _, m := range []fleet.Member{{Name: "s", Roles: "backup, secondary"}, {Name: "b", Roles: "backup"}, {Name: "p", Roles: "primary"}} {
		h, err := k.fleet.Add(m)
		k.must(err)
		k.primary = h
	}
	k.must(k.fleet.Assemble(k.ctx, func(*fleet.Host) {}))
	for _, path := range []string{k.source, k.target} {
		f, err := os.Create(path)
		k.must(err)
		k.must(errors.Join(f.Truncate(killVolume), f.Close()))
	}
	socket := k.fleet.Hosts[0].Socket()
	for _, args := range [][]string{
		{"group", "create", "db"},
		{"volume", "create", "db/data", "--primary", "p", "--source", k.source, "--secondary", "s", "--target", k.target},
	} {
		_, err := k.fleet.Command(k.ctx, append(args, "--socket", socket)...)
		k.must(err)
	}
	k.until("the first copy is whole", func(g *api.Group) bool { return len(g.Volumes) == 1 && g.Volumes[0].Copied })
}

// round writes, kills, starts again and compares. It returns the bytes that were copied.
func (k *killed) round(round int) int64 {
	k.t.Helper()
	k.must(fleet.Until(k.ctx, killTime, "no more than the hot extents are marked", func(context.Context) (bool, error) {
		n, err := k.marked()
		return n <= killHot, err
	}))
	touched := k.load(round)
	marked, err := k.marked()
	k.must(err)
	if most := killHot + touched; marked > most {
		k.t.Errorf("kill %d: %d extents are marked, and hot or written since are %d", round, marked, most)
	}
	log, err := os.Stat(k.primary.Log)
	k.must(err)
	k.must(k.fleet.Start(k.ctx, k.primary))
	copied := k.copied(log.Size())
	if copied > int64(marked)*killExtent {
		k.t.Errorf("kill %d: %d bytes were copied, and %d extents of %d were marked", round, copied, marked, killExtent)
	}
	k.settled()
	if off, err := firstDifference(k.source, k.target); err != nil || off >= 0 {
		k.t.Fatalf("kill %d: source and target differ at byte %d, %v", round, off, err)
	}
	return copied
}

// load writes for a moment, kills the primary under it, and returns how many extents were written.
func (k *killed) load(round int) (touched int) {
	k.t.Helper()
	rng := rand.New(rand.NewPCG(k.seed, uint64(round)))
	var wg sync.WaitGroup
	var mu sync.Mutex
	extents := map[int64]bool{}
	left, enough := 200+rng.IntN(8000), make(chan struct{}) // requests before it is killed
	for w := range killWriters {
		c, err := nbdclient.Dial(k.ctx, "unix", k.primary.NBD, "db/data")
		k.must(err)
		rng := rand.New(rand.NewPCG(rng.Uint64(), uint64(w)))
		wg.Go(func() {
			defer c.Close()
			buf := make([]byte, 16<<10)
			for {
				at := rng.Int64N(killWorking)
				if rng.IntN(20) == 0 {
					at = rng.Int64N(killVolume)
				}
				at = at / 4096 * 4096
				n := min(int64(1+rng.IntN(4))*4096, killVolume-at)
				mu.Lock()
				extents[at/killExtent], extents[(at+n-1)/killExtent] = true, true
				if left--; left == 0 {
					close(enough)
				}
				mu.Unlock()
				for i := range buf[:n] {
					buf[i] = byte(rng.Uint32())
				}
				var err error
				switch rng.IntN(30) {
				case 0:
					err = c.Trim(k.ctx, at, uint32(n), 0)
				case 1:
					err = c.WriteAt(k.ctx, buf[:n], at, nbdclient.FUA)
				default:
					err = c.WriteAt(k.ctx, buf[:n], at, 0)
				}
				if err != nil {
					return // it is dead
				}
			}
		})
	}
	select {
	case <-enough:
	case <-k.ctx.Done():
		k.must(context.Cause(k.ctx))
	}
	k.must(k.primary.Kill())
	wg.Wait()
	return len(extents)
}

// marked counts the bits that are set in the primary's file.
func (k *killed) marked() (int, error) {
	raw, err := os.ReadFile(filepath.Join(k.primary.Dir, "primary", "1.bits"))
	if errors.Is(err, os.ErrNotExist) {
		return killHot + 1, nil // it is not yet written
	}
	n := 0
	for sec := 512; sec+512 <= len(raw); sec += 512 {
		for _, b := range raw[sec+12 : sec+508] {
			n += bits.OnesCount8(b)
		}
	}
	return n, err
}

var copyWhole = regexp.MustCompile(`msg=copy\.whole .*bytes=(\d+)`)

// copied waits for the end of the copy and returns its bytes, which the primary's log tells from a place on.
func (k *killed) copied(from int64) (n int64) {
	k.t.Helper()
	k.must(fleet.Until(k.ctx, killTime, "the resync is whole", func(context.Context) (bool, error) {
		f, err := os.Open(k.primary.Log)
		if err != nil {
			return false, err
		}
		defer f.Close()
		text, err := io.ReadAll(io.NewSectionReader(f, from, 1<<20))
		found := copyWhole.FindSubmatch(text)
		if err != nil || found == nil {
			return false, err
		}
		n, err = strconv.ParseInt(string(found[1]), 10, 64)
		return true, err
	}))
	return n
}

// settled waits until everything that was written is applied. Nobody writes.
func (k *killed) settled() {
	k.t.Helper()
	began := time.Now()
	var open uint64
	k.until("everything is applied", func(g *api.Group) bool {
		if len(g.Primaries) != 1 || !g.Primaries[0].Known {
			return false
		}
		p := g.Primaries[0]
		if open == 0 && time.Since(began) > 500*time.Millisecond && p.CopyLeft == 0 && p.Queued == 0 && p.HeldUpTo == p.Seq {
			open = p.Open // what the captain says is of after began
		}
		return open != 0 && g.Applied >= open
	})
}

func (k *killed) until(what string, done func(g *api.Group) bool) {
	k.t.Helper()
	k.must(fleet.Until(k.ctx, killTime, what, func(ctx context.Context) (bool, error) {
		s, err := k.fleet.Hosts[0].Status(ctx)
		if err != nil || s == nil {
			return false, err
		}
		g := s.Group("db")
		return g != nil && done(g), nil
	}))
}

func (k *killed) must(err error) {
	k.t.Helper()
	if err != nil {
		for _, h := range k.fleet.Hosts {
			text, _ := os.ReadFile(h.Log) // what is there of it is a help
			k.t.Logf("--- %s\n%s", h.Name, text[max(0, len(text)-16<<10):])
		}
		s, _ := k.fleet.Hosts[0].Status(context.WithoutCancel(k.ctx))
		k.t.Fatalf("%v\n%+v", err, s)
	}
}

// firstDifference compares two sparse files and returns the first byte in which they differ, -1 for none.
func firstDifference(a, b string) (int64, error) {
	var files [2]*os.File
	for i, path := range []string{a, b} {
		f, err := os.Open(path)
		if err != nil {
			return -1, err
		}
		defer f.Close()
		files[i] = f
	}
	x, y := make([]byte, killExtent), make([]byte, killExtent)
	for off := int64(0); off < killVolume; {
		next := killVolume
		for _, f := range files {
			switch at, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA); {
			case errors.Is(err, unix.ENXIO): // no data behind off
			case err != nil:
				return off, fmt.Errorf("look for data in %s: %w", f.Name(), err)
			default:
				next = min(next, at/killExtent*killExtent)
			}
		}
		if off = max(off, next); off >= killVolume {
			break
		}
		for i, buf := range [][]byte{x, y} {
			if _, err := files[i].ReadAt(buf, off); err != nil {
				return off, err
			}
		}
		if !bytes.Equal(x, y) {
			for i := range x {
				if x[i] != y[i] {
					return off + int64(i), nil
				}
			}
		}
		off += killExtent
	}
	return -1, nil
}
