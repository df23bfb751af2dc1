package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"flotilla/internal/fleet"

	"golang.org/x/sys/unix"
)

// deadTime is how long I/O waits here for an agent, and answerTime after how long a request is sent again that was taken.
const (
	deadTime   = 5 * time.Second
	answerTime = 2 * time.Second
)

// deadAgent has no agent come back: I/O fails when --dead-timeout is over, not before, and nobody waits for ever. Then an agent
// comes, and the device is taken down and attached anew, as the runbook says.
func deadAgent(ctx context.Context, c *cluster) error {
	if err := c.attach("--timeout", answerTime.String(), "--dead-timeout", deadTime.String()); err != nil {
		return err
	}
	at := filepath.Join(c.dir, "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	if err := c.steps([][]string{{"mkfs.ext4", "-q", "-F", link}, {"mount", "-o", "errors=remount-ro", link, at}}); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(at, "file"))
	if err != nil {
		return err
	}
	if err := errors.Join(file.Sync(), c.primary.Kill()); err != nil {
		return err
	}
	began := time.Now()
	var waiting sync.WaitGroup
	took, failed := make([]time.Duration, 3), make([]error, 3)
	for i, f := range []func() error{
		func() error { return directly(link, unix.O_RDONLY) },
		func() error { return directly(link, unix.O_WRONLY) }, // past the file system; it is lost anyway
		func() error {
			_, err := file.WriteString("to be lost")
			return errors.Join(err, file.Sync(), file.Close())
		},
	} {
		waiting.Go(func() {
			failed[i] = f()
			took[i] = time.Since(began)
		})
	}
	waiting.Wait()
	for i, what := range []string{"a direct read", "a direct write", "a write to a file with fsync"} {
		say("%s ended after %v: %v", what, took[i].Round(time.Millisecond), failed[i])
		if failed[i] == nil {
			return fmt.Errorf("%s has not failed though there is no agent", what)
		}
		if took[i] < deadTime-time.Second || took[i] > deadTime+answerTime+c.patience*10*time.Second {
			return fmt.Errorf("%s took %v, want about %v", what, took[i], deadTime)
		}
	}
	if err := c.nobodyWaits(); err != nil {
		return err
	}
	if found, err := kernelSays(stuck...); err != nil || len(found) > 0 {
		return fmt.Errorf("the kernel says: %v, %w", found, err)
	}

	if err := c.fleet.Start(ctx, c.primary); err != nil {
		return err
	}
	if err := c.sh("umount", at); err != nil {
		return err
	}
	if _, err := c.command("volume", "detach", volume, "--force"); err != nil {
		return err
	}
	if err := markLog(); err != nil { // what was to be said of the dead agent is said
		return err
	}
	if err := c.attach(); err != nil {
		return err
	}
	// It mends what the end of the device has left behind, and says so with exit code 1.
	out, err := exec.CommandContext(ctx, "e2fsck", "-fy", link).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != 1) {
		return fmt.Errorf("e2fsck: %w: %s", err, out)
	}
	if err := c.steps([][]string{{"e2fsck", "-fn", link}, {"mount", link, at}, {"umount", at}}); err != nil {
		return err
	}
	return errors.Join(c.settled(group), same(c.source, c.target, size), c.detach(), noErrors())
}

// directly reads or writes a block past the kernel's cache.
func directly(path string, mode int) error {
	f, err := os.OpenFile(path, mode|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	block := pages(4096)
	if mode == unix.O_RDONLY {
		_, err = f.ReadAt(block, 0)
	} else {
		_, err = f.WriteAt(block, size-4096)
	}
	return err
}

// pages returns memory for direct I/O.
func pages(n int) []byte {
	p, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err) // there is no memory
	}
	return p
}

// nobodyWaits fails if a process stays in a wait that no signal ends.
func (c *cluster) nobodyWaits() error {
	var who []string
	err := fleet.Until(c.ctx, c.patience*20*time.Second, "no process waits for the device", func(context.Context) (bool, error) {
		var err error
		who, err = waiters()
		return len(who) == 0, err
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.Join(who, ", "))
	}
	return nil
}

// waiters returns the processes in state D, kernel threads left out that idle so.
func waiters() (out []string, err error) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join("/proc", p.Name(), "stat"))
		if err != nil {
			continue // it has ended
		}
		name := string(text[:strings.LastIndexByte(string(text), ')')+1])
		if fields := strings.Fields(string(text[len(name):])); len(fields) > 0 && fields[0] == "D" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}
