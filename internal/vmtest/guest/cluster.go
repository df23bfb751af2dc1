package main

import (
	"bufio"
	"bytes"
	"context"
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
	ctx            context.Context
	fleet          *fleet.Fleet
	primary        *fleet.Host
	dir            string
	source, target string
}

func assemble(ctx context.Context, program, dir string) (*cluster, error) {
	ctx, fail := context.WithCancelCause(ctx)
	c := &cluster{ctx: ctx, fleet: fleet.New(program, dir, fail), dir: dir, source: filepath.Join(dir, "source"), target: filepath.Join(dir, "target")}
	for _, f := range []string{c.source, c.target} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			return nil, err
		}
		if err := os.Truncate(f, size); err != nil {
			return nil, err
		}
	}
	var err error
	// One slow processor for all: nobody is to be taken for lost because of that.
	const settings = "limits: {loss_after: 20s}\n"
	if c.primary, err = c.fleet.Add(fleet.Member{Name: "p", Roles: "primary", Settings: settings}); err != nil {
		return nil, err
	}
	if _, err := c.fleet.Add(fleet.Member{Name: "s", Roles: "backup, secondary", Settings: settings}); err != nil {
		return nil, err
	}
	if err := c.fleet.Assemble(ctx, func(*fleet.Host) {}); err != nil {
		return nil, err
	}
	if _, err := c.command("group", "create", "db"); err != nil {
		return nil, err
	}
	_, err = c.command("volume", "create", volume, "--primary", "p", "--source", c.source, "--secondary", "s", "--target", c.target)
	say("the cluster runs")
	return c, err
}

// command runs the program under test against the primary's agent.
func (c *cluster) command(args ...string) (string, error) {
	return c.fleet.Command(c.ctx, append(args, "--config", c.primary.Config)...)
}

// attach attaches the volume, as soon as it is served.
func (c *cluster) attach(flags ...string) error {
	return fleet.Until(c.ctx, fleet.StartTime, "the volume is attached", func(context.Context) (bool, error) {
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

// noErrors fails if the kernel has told of an error of the device.
func noErrors() error {
	out, err := exec.Command("dmesg").Output()
	if err != nil {
		return fmt.Errorf("read the kernel's log: %w", err)
	}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		line := s.Text()
		for _, bad := range []string{"I/O error", "EXT4-fs error", "Other side returned error", "blocked for more than", "BUG:", "WARNING:"} {
			if strings.Contains(line, bad) {
				return fmt.Errorf("the kernel says: %s", line)
			}
		}
	}
	return nil
}

func say(format string, args ...any) {
	fmt.Printf("%s "+format+"\n", append([]any{time.Now().Format("15:04:05.000")}, args...)...)
}
