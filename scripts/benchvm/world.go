package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// contender is one side while it is measured.
type contender interface {
	// begin has its processes run, and shapes its network.
	begin(ctx context.Context, who, network string) error
	// device is the block device that is written.
	device(who string) string
	// settle waits until everything that was written is on the target, if there is one.
	settle(ctx context.Context, who string) error
	// same compares source and target, when all has settled.
	same(ctx context.Context, who string) error
	// link is the bytes that its link has carried from the primary, and folded those that were written and not sent.
	link() (int64, error)
	folded(ctx context.Context, who string) (int64, error)
	// end lifts the shaping.
	end(ctx context.Context, who string) error
	// stop keeps its processes from running until the next begin.
	stop() error
	close() error
}

// world is everybody of one scene.
type world struct {
	ctx   context.Context
	spec  specification
	sides map[string]contender
	all   []contender
}

// The ram disks. A pair of them for each of the sides that replicate from one to another.
const (
	ramDisks = 6
	ramExtra = 4 << 20 // bytes beyond a volume: DRBD's own data
)

func ram(i int) string { return "/dev/ram" + strconv.Itoa(i) }

func newWorld(ctx context.Context, s specification, fail context.CancelCauseFunc) (*world, error) {
	w := &world{ctx: ctx, spec: s, sides: map[string]contender{}}
	add := func(c contender, err error, names ...string) error {
		if err != nil {
			return err
		}
		w.all = append(w.all, c)
		for _, n := range names {
			w.sides[n] = c
		}
		return nil
	}
	alone := func() error {
		c, err := startAlone(ctx, s, fail)
		return add(c, err, "alone")
	}
	switch s.Scene {
	case localScene:
		c, err := startNbdkit(ctx, s)
		if err := add(c, err, "nbdkit"); err != nil {
			return w, err
		}
		return w, alone()
	case fileScene:
		if err := alone(); err != nil {
			return w, err
		}
		c, err := startSites(ctx, s, fail, "file")
		return w, add(c, err, "file")
	case farScene:
		d, err := startDRBD(ctx, s)
		if err := add(d, err, "drbd-a", "drbd-c"); err != nil {
			return w, err
		}
		c, err := startSites(ctx, s, fail, "async", "sync")
		return w, add(c, err, "async", "sync")
	}
	return w, fmt.Errorf("scene %q is not known", s.Scene)
}

func (w *world) close() error {
	var errs []error
	for _, c := range w.all {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

// run measures one side.
func (w *world) run(r *row, s side) (m measured, err error) {
	c := w.sides[s.who]
	// For as long as a run of pages no cluster may stand still; and there the link decides, and not what an idle agent uses.
	for _, other := range w.all {
		if other != c && r.job != nil {
			if err := other.stop(); err != nil {
				return m, err
			}
		}
	}
	if err := c.begin(w.ctx, s.who, s.network); err != nil {
		return m, fmt.Errorf("begin %s: %w", s.who, err)
	}
	defer func() { err = errors.Join(err, c.end(w.ctx, s.who)) }()
	if r.job != nil {
		if m, err = w.runFio(*r.job, c.device(s.who)); err != nil {
			return m, err
		}
		if err := c.settle(w.ctx, s.who); err != nil {
			return m, err
		}
	} else if m, err = w.runPages(r, c, s.who); err != nil {
		return m, err
	}
	return m, c.same(w.ctx, s.who)
}

// sh runs a program.
func sh(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// words runs a program whose arguments have no spaces.
func words(ctx context.Context, line string) error { return sh(ctx, strings.Fields(line)...) }

// sameBytes compares the beginnings of two devices or files as they are stored: what the page cache has of devices is dropped before.
func sameBytes(ctx context.Context, a, b string, size int64) error {
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
		return err
	}
	if err := sh(ctx, "cmp", "-n", strconv.FormatInt(size, 10), a, b); err != nil {
		return fmt.Errorf("source and target differ: %w", err)
	}
	return nil
}

// counter reads a number that the kernel shows.
func counter(path ...string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// stop and resume processes. They keep what they have.
func signalAll(pids []int, s syscall.Signal) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil {
			return fmt.Errorf("send %v to process %d: %w", s, pid, err)
		}
	}
	return nil
}

// until asks again and again.
func until(ctx context.Context, limit time.Duration, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, context.Cause(ctx))
		}
	}
}

// waitTime is what nothing takes, not even on a machine that does much else.
const waitTime = 2 * time.Minute
