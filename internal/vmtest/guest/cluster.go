package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"flotilla/internal/fleet"
)

// volume is the one that all scenarios work on, and size its bytes: what XFS wants at least.
const (
	volume = "db/data"
	size   = 320 << 20
	link   = "/dev/flotilla/" + volume
)

// cluster is a primary and a secondary that is the only component, on the loopback, and one volume with a file on each side.
type cluster struct {
	*machine
	ctx            context.Context
	fleet          *fleet.Fleet
	primary        *fleet.Host
	secondary      *fleet.Host
	source, target string
}

// patient are the settings of agents that share one slow processor: nobody is to be taken for lost because of that. A new
// captain waits for so long before it takes the second agent in.
const patient = "limits: {loss_after: 6s}\n"

// newCluster has no hosts yet.
func newCluster(ctx context.Context, m *machine) *cluster {
	ctx, fail := context.WithCancelCause(ctx)
	c := &cluster{machine: m, ctx: ctx, fleet: fleet.New(m.program, m.dir, fail), source: filepath.Join(m.dir, "source"), target: filepath.Join(m.dir, "target")}
	c.fleet.Patience = m.patience
	return c
}

// sparseFile makes a file that is all one hole.
func sparseFile(path string, size int64) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return os.Truncate(path, size)
}

func assemble(ctx context.Context, m *machine) (*cluster, error) {
	c := newCluster(ctx, m)
	if err := errors.Join(sparseFile(c.source, size), sparseFile(c.target, size)); err != nil {
		return nil, err
	}
	if err := c.addPair(); err != nil {
		return nil, err
	}
	if err := c.fleet.Assemble(ctx, func(*fleet.Host) {}); err != nil {
		return nil, err
	}
	if err := c.insist("group", "create", "db"); err != nil {
		return nil, err
	}
	err := c.insist("volume", "create", volume, "--primary", "p", "--source", c.source, "--secondary", "s", "--target", c.target)
	say("the cluster runs")
	return c, err
}

// addPair adds the two hosts.
func (c *cluster) addPair() (err error) {
	if c.primary, err = c.fleet.Add(fleet.Member{Name: "p", Roles: "primary", Settings: patient}); err != nil {
		return err
	}
	c.secondary, err = c.fleet.Add(fleet.Member{Name: "s", Roles: "backup, secondary", Settings: patient, Journal: "8GiB"})
	return err
}

// end ends the agents, and says why a scenario has failed.
func (c *cluster) end(err error) error {
	if cause := context.Cause(c.ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	return errors.Join(err, c.fleet.Close())
}

// command runs the program under test against the primary's agent.
func (c *cluster) command(args ...string) (string, error) {
	return c.fleet.Command(c.ctx, append(args, "--config", c.primary.Config)...)
}

// insist repeats a command that makes something until a captain has answered it.
func (c *cluster) insist(args ...string) error {
	return c.until(c.ctx, "`flotilla "+strings.Join(args, " ")+"` is answered", func() (bool, error) {
		_, err := c.command(args...)
		exit, ok := errors.AsType[*exec.ExitError](err)
		switch {
		case ok && (exit.ExitCode() == 3 || exit.ExitCode() == 4): // not done, or not known
			return false, nil
		case ok && strings.Contains(err.Error(), "already"): // the time before it was done
			return true, nil
		}
		return err == nil, err
	})
}

// attach attaches the volume, as soon as it is served.
func (c *cluster) attach(flags ...string) error {
	return fleet.Until(c.ctx, c.patience*fleet.StartTime, "the volume is attached", func(context.Context) (bool, error) {
		out, err := c.command(append([]string{"volume", "attach", volume}, flags...)...)
		if err != nil && strings.Contains(err.Error(), "not served here") {
			return false, nil
		}
		say("%s", strings.TrimSpace(out))
		return err == nil, err
	})
}

func (c *cluster) detach() error {
	_, err := c.command("volume", "detach", volume)
	return err
}

// agentPID returns the number of the primary's process.
func (c *cluster) agentPID() (string, error) {
	text, err := os.ReadFile(filepath.Join(c.primary.Dir, "lock"))
	return strings.TrimSpace(string(text)), err
}

// sh runs a program and shows what it prints if it fails.
func (c *cluster) sh(name string, args ...string) error {
	began := time.Now()
	out, err := exec.CommandContext(c.ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	say("%s %s (%v)", name, strings.Join(args, " "), time.Since(began).Round(time.Millisecond))
	return nil
}

// mark is what the kernel's log has where a scenario begins.
const mark = "flotilla: a scenario begins"

func markLog() error {
	return os.WriteFile("/dev/kmsg", []byte(mark), 0)
}

// kernelSays returns the lines of the kernel's log, since the scenario began, with one of the words.
func kernelSays(words ...string) (found []string, err error) {
	out, err := exec.Command("dmesg").Output()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's log: %w", err)
	}
	for s := bufio.NewScanner(bytes.NewReader(out[max(0, bytes.LastIndex(out, []byte(mark))):])); s.Scan(); {
		for _, w := range words {
			if strings.Contains(s.Text(), w) {
				found = append(found, s.Text())
				break
			}
		}
	}
	return found, nil
}

// stuck are the kernel's words for what must never happen.
var stuck = []string{"blocked for more than", "BUG:", "WARNING:", "Oops", "general protection"}

// noErrors fails if the kernel has told of an error of the device.
func noErrors() error {
	found, err := kernelSays(append(stuck, "I/O error", "EXT4-fs error", "Other side returned error")...)
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("the kernel says: %s", found[0])
	}
	return err
}

func say(format string, args ...any) {
	fmt.Printf("%s "+format+"\n", append([]any{time.Now().Format("15:04:05.000")}, args...)...)
}
