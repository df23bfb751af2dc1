package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// fileSystems makes three file systems on the volume, one after the other, works in them and has them checked.
func fileSystems(ctx context.Context, c *cluster) error {
	for _, name := range []string{"ext4", "xfs", "btrfs"} {
		if err := c.load(name, ""); err != nil {
			return err
		}
	}
	if err := c.attach(); err != nil {
		return err
	}
	at := filepath.Join(c.dir, "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	for _, fs := range []struct{ make, check []string }{
		{[]string{"mkfs.ext4", "-q", "-F", link}, []string{"e2fsck", "-fn", link}},
		{[]string{"mkfs.xfs", "-q", "-f", link}, []string{"xfs_repair", "-n", link}},
		{[]string{"mkfs.btrfs", "-q", "-f", link}, []string{"btrfs", "check", link}},
	} {
		for _, step := range [][]string{
			fs.make,
			{"mount", link, at},
			{"cp", "-r", "/usr/share/doc/fio", "/usr/sbin/xfs_repair", at},
			{"fio", "--name=verify", "--directory=" + at, "--size=8m", "--rw=randwrite", "--bs=4k-64k", "--ioengine=libaio", "--iodepth=16",
				"--direct=1", "--fsync=64", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--end_fsync=1"},
			{"cmp", "/usr/sbin/xfs_repair", filepath.Join(at, "xfs_repair")},
			{"umount", at},
			fs.check,
		} {
			if err := c.sh(step[0], step[1:]...); err != nil {
				return err
			}
		}
	}
	if _, err := c.command("volume", "list"); err != nil {
		return fmt.Errorf("list the volumes: %w", err)
	}
	if err := c.detach(); err != nil {
		return err
	}
	return noErrors()
}
