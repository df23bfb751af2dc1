package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"flotilla/internal/fleet"

	"golang.org/x/sys/unix"
)

// mistakes tries what cannot work on a host that is not set up, and wants a message that names what is wrong and what to do.
// The module is not loaded when it begins.
func mistakes(ctx context.Context, c *cluster) error {
	if err := c.served(); err != nil {
		return err
	}
	if err := c.refused("no module", "load the kernel module nbd", "install the module for kernel "+release(),
		"on Debian linux-image-amd64", "clients of the NBD socket work without it"); err != nil {
		return err
	}

	// The module is where it belongs, and the agent may not load it.
	if err := c.restartAs(c.installed("setpriv", "--bounding-set=-sys_module")...); err != nil {
		return err
	}
	if err := c.refused("not permitted to load the module", "load the kernel module nbd", "not permitted", "CAP_SYS_MODULE",
		"run the agent as root", "/etc/modules-load.d"); err != nil {
		return err
	}

	// It may, and does. It may not use what it has loaded.
	if err := c.restartAs(c.installed()...); err != nil {
		return err
	}
	if err := errors.Join(c.attach(), c.detach()); err != nil {
		return err
	}
	if err := c.restartAs("setpriv", "--bounding-set=-sys_admin"); err != nil {
		return err
	}
	if err := c.refused("no privileges", "not permitted", "CAP_SYS_ADMIN", "run the agent as root"); err != nil {
		return err
	}

	// There is a device, but no node by which it could be opened.
	if err := c.restartAs(c.withoutDev()...); err != nil {
		return err
	}
	if err := c.refused("no /dev", "is set up but /dev/nbd", "is no block device", "mount devtmpfs on /dev, or run udev"); err != nil {
		return err
	}
	if left, err := connected(); err != nil || len(left) > 0 {
		return fmt.Errorf("devices %v are set up after a refusal (%w)", left, err)
	}

	if err := c.restartAs(); err != nil {
		return err
	}
	return errors.Join(c.busy(), noErrors())
}

// busy asks for an index that is taken, for a volume twice, and for the end of a device that is mounted.
func (c *cluster) busy() error {
	if err := c.attach("--device", "2"); err != nil {
		return err
	}
	if err := c.refused("attached twice", "volume is attached already, as /dev/nbd2", "detach it first"); err != nil {
		return err
	}
	second := []string{filepath.Join(c.dir, "source2"), filepath.Join(c.dir, "target2")}
	if err := errors.Join(sparseFile(second[0], 16<<20), sparseFile(second[1], 16<<20)); err != nil {
		return err
	}
	if _, err := c.command("volume", "create", "db/second", "--primary", "p", "--source", second[0], "--secondary", "s", "--target", second[1]); err != nil {
		return err
	}
	if err := c.until(c.ctx, "the second volume is served", func() (bool, error) {
		l, err := c.primary.API.Local(c.ctx, "")
		return err == nil && len(l.Exports) == 2, err
	}); err != nil {
		return err
	}
	if err := c.refuses("a busy index", []string{"volume", "attach", "db/second", "--device", "2"}, "set up nbd2: device is in use",
		"choose another index, or leave the choice to the kernel"); err != nil {
		return err
	}
	if err := c.refuses("on a host that does not serve it", []string{"volume", "attach", "db/other"}, "volume is not served here",
		"attach it on its primary, or after a promote on its secondary"); err != nil {
		return err
	}
	at := filepath.Join(c.dir, "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	if err := c.steps([][]string{{"mkfs.ext4", "-q", "-F", link}, {"mount", link, at}}); err != nil {
		return err
	}
	if err := c.refuses("a mounted device", []string{"volume", "detach", volume}, "device is in use", "unmount it, or give --force"); err != nil {
		return err
	}
	return errors.Join(c.sh("umount", at), c.detach(), c.refuses("a device that is not attached", []string{"volume", "detach", volume}, "is not attached here"))
}

// refused wants an attach of the volume to fail with all of the words.
func (c *cluster) refused(what string, words ...string) error {
	return c.refuses(what, []string{"volume", "attach", volume}, words...)
}

// refuses wants a command to fail with exit code 1 and all of the words.
func (c *cluster) refuses(what string, command []string, words ...string) error {
	_, err := c.command(command...)
	if err == nil {
		return fmt.Errorf("%s: `flotilla %s` has worked", what, strings.Join(command, " "))
	}
	say("%s: %v", what, err)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 1 {
		return fmt.Errorf("%s: want exit code 1: %w", what, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			return fmt.Errorf("%s: the message has no %q: %w", what, w, err)
		}
	}
	return nil
}

// served waits until the primary serves the volume.
func (c *cluster) served() error {
	return c.until(c.ctx, "the volume is served", func() (bool, error) {
		l, err := c.primary.API.Local(c.ctx, "")
		if err != nil {
			return false, fleet.IgnoreUnreached(err)
		}
		return len(l.Exports) > 0, nil
	})
}

// restartAs restarts the primary's agent by way of a command.
func (c *cluster) restartAs(wrap ...string) error {
	c.primary.Wrap = wrap
	if err := errors.Join(c.primary.Kill(), c.fleet.Start(c.ctx, c.primary)); err != nil {
		return err
	}
	return c.served()
}

// installed has the agent see the kernel's modules in /lib/modules, where this machine's root has none, and nothing else of
// /lib, which it does not need. What is given runs the command that does it.
func (c *cluster) installed(outer ...string) []string {
	const script = `set -e
modules=$0 lib=$1 release=$2
shift 2
busybox mkdir -p /dev/shm/modules
busybox mount --bind "$modules" /dev/shm/modules
busybox mount -t tmpfs none "$lib"
busybox mkdir -p "$lib/modules/$release"
busybox mount --bind /dev/shm/modules "$lib/modules/$release"
exec "$@"`
	lib, err := filepath.EvalSymlinks("/lib")
	if err != nil {
		lib = "/lib"
	}
	return append(outer, "unshare", "--mount", "busybox", "sh", "-c", script, c.modules, lib, release())
}

// withoutDev gives a command a /dev in which no block device appears.
func (c *cluster) withoutDev() []string {
	return []string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && exec "$@"`, "sh"}
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "(unknown)"
	}
	return unix.ByteSliceToString(u.Release[:])
}
