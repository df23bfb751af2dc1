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

	"flotilla/internal/fleet"
)

// grownSize is what the volume has in the end: whole blocks, but no whole extents.
const grownSize = size + 192<<20 + 4096*3

// resize enlarges a mounted volume under load, twice: once while its agent lives, and once while it is killed in the middle.
// Each time the kernel's device grows while it is in use, and so does the file system on it.
func resize(ctx context.Context, c *cluster) error {
	if err := c.attach("--timeout", "5s"); err != nil { // what the killed agent had taken is sent again after that
		return err
	}
	at := filepath.Join(c.dir, "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	for _, step := range [][]string{
		{"mkfs.ext4", "-q", "-F", link},
		{"mount", "-o", "noinit_itable", link, at},
		{"cp", "-r", "/usr/share/doc/fio", "/usr/sbin/xfs_repair", at},
		{"fallocate", "-l", "240M", filepath.Join(at, "room")}, // nearly all that there is, and nothing is written
	} {
		if err := c.sh(step[0], step[1:]...); err != nil {
			return err
		}
	}
	load, err := startLoad(ctx, at)
	if err != nil {
		return err
	}
	for round, to := range []int64{size + 128<<20, grownSize} {
		if err := c.enlarge(to, round == 1); err != nil {
			return errors.Join(err, load.stop())
		}
		if got, err := deviceSize(); err != nil || got != to {
			return errors.Join(fmt.Errorf("the device has %d bytes, want %d (%v)", got, to, err), load.stop())
		}
		if err := c.sh("resize2fs", link); err != nil {
			return errors.Join(err, load.stop())
		}
	}
	if err := load.stop(); err != nil {
		return err
	}
	// More than had room before, into what is new, too.
	for _, step := range [][]string{
		{"fio", "--name=fill", "--directory=" + at, "--size=100m", "--rw=write", "--bs=1m", "--ioengine=libaio", "--iodepth=4",
			"--direct=1", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--end_fsync=1"},
		{"cmp", "/usr/sbin/xfs_repair", filepath.Join(at, "xfs_repair")},
		{"umount", at},
		{"e2fsck", "-fn", link},
	} {
		if err := c.sh(step[0], step[1:]...); err != nil {
			return err
		}
	}
	return errors.Join(c.detach(), c.settled(group), same(c.source, c.target, grownSize), noErrors())
}

// enlarge makes source and target larger, and then the volume; killed has its agent killed meanwhile.
func (c *cluster) enlarge(to int64, killed bool) error {
	for _, f := range []string{c.source, c.target} {
		if err := os.Truncate(f, to); err != nil {
			return err
		}
	}
	out, err := c.command("volume", "resize", volume)
	if err != nil {
		return err
	}
	say("%s", strings.TrimSpace(out))
	if killed {
		if err := errors.Join(c.primary.Kill(), c.fleet.Start(c.ctx, c.primary)); err != nil {
			return err
		}
	}
	return fleet.Until(c.ctx, c.patience*2*time.Minute, "the device has grown", func(context.Context) (bool, error) {
		got, err := deviceSize()
		return got == to, err
	})
}

// deviceSize asks the kernel for the size of the volume's device.
func deviceSize() (int64, error) {
	out, err := exec.Command("blockdev", "--getsize64", link).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("blockdev --getsize64 %s: %w\n%s", link, err, out)
	}
	return strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
}

// load is fio at work until it is told to stop.
type load struct {
	cmd *exec.Cmd
	out strings.Builder
}

func startLoad(ctx context.Context, at string) (*load, error) {
	l := &load{cmd: exec.CommandContext(ctx, "fio", "--name=load", "--directory="+at, "--size=24m", "--rw=randrw", "--bs=4k-64k", "--ioengine=libaio",
		"--iodepth=4", "--direct=1", "--fsync=32", "--time_based", "--runtime=240", "--rate_iops=200", "--verify=crc32c", "--verify_fatal=1")}
	l.cmd.Stdout, l.cmd.Stderr = &l.out, &l.out
	return l, l.cmd.Start()
}

// stop ends the load, which has met no error.
func (l *load) stop() error {
	if err := l.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return fmt.Errorf("the load has ended before: %w\n%s", err, l.out.String())
	}
	err := l.cmd.Wait()
	if text := l.out.String(); !strings.Contains(text, "err= 0") {
		return fmt.Errorf("the load: %v\n%s", err, text)
	}
	return nil
}
