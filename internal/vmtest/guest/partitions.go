package main

import (
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

// table is a partition table in sfdisk's words: two partitions.
const table = "label: gpt\nsize=200MiB\nsize=64MiB\n"

// partitions makes partitions on the device, and a file system in one of them. They are there after a restart of the agent,
// under which the file system stays mounted, and after a detach and an attach.
func partitions(ctx context.Context, c *cluster) error {
	if err := c.attach("--device", "1", "--timeout", "3s"); err != nil {
		return err
	}
	const device, first, second = "/dev/nbd1", "/dev/nbd1p1", "/dev/nbd1p2"
	sfdisk := exec.CommandContext(ctx, "sfdisk", "--quiet", device)
	sfdisk.Stdin = strings.NewReader(table)
	if out, err := sfdisk.CombinedOutput(); err != nil {
		return fmt.Errorf("sfdisk: %w: %s", err, out)
	}
	if err := c.nodes(true, first, second); err != nil {
		return err
	}
	at := filepath.Join(c.dir, "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	file := filepath.Join(at, "file")
	if err := c.steps([][]string{{"mkfs.ext4", "-q", "-F", first}, {"mount", first, at}}); err != nil {
		return err
	}
	if err := os.WriteFile(file, bytes.Repeat([]byte("before the restart "), 1000), 0o644); err != nil {
		return err
	}
	if err := errors.Join(c.primary.Kill(), c.fleet.Start(ctx, c.primary)); err != nil {
		return err
	}
	if err := c.steps([][]string{{"sync"}, {"dd", "if=/dev/urandom", "of=" + at + "/after", "bs=1M", "count=4", "conv=fsync"}}); err != nil {
		return err
	}
	if err := c.nodes(true, first, second); err != nil {
		return err
	}
	if err := c.detach(); err == nil || !strings.Contains(err.Error(), "device is in use") {
		return fmt.Errorf("a device with a mounted partition was detached: %w", err)
	}
	if err := errors.Join(c.sh("umount", at), c.sh("e2fsck", "-fn", first), c.detach(), c.nodes(false, first, second)); err != nil {
		return err
	}

	// The table is on the volume, and is read again.
	if err := errors.Join(c.attach("--device", "1"), c.nodes(true, first, second)); err != nil {
		return err
	}
	if err := c.steps([][]string{{"mount", first, at}, {"cmp", file, file}, {"umount", at}, {"e2fsck", "-fn", first}}); err != nil {
		return err
	}
	return errors.Join(c.settled(group), same(c.source, c.target, size), c.detach(), noErrors())
}

// nodes waits until partitions are there, or gone.
func (c *cluster) nodes(there bool, paths ...string) error {
	for _, p := range paths {
		err := fleet.Until(c.ctx, c.patience*10*time.Second, fmt.Sprintf("%s is there: %v", p, there), func(context.Context) (bool, error) {
			_, err := os.Stat(p)
			return (err == nil) == there, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
