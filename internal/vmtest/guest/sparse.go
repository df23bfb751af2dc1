package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"flotilla/nbd/kernel"
)

// The sizes of what sparse writes, and what a file system may need besides.
const (
	sparseData  = 64 << 20
	sparseSlack = 16 << 20
	zeroed      = 32 << 20
)

// sparse looks at the storage that source and target take: nothing at first, what is written, and nothing again of what is
// trimmed or zeroed.
func sparse(ctx context.Context, c *cluster) error {
	if err := c.attach(); err != nil {
		return err
	}
	if err := c.storage("after the first copy of a hole", 0, 1<<20); err != nil {
		return err
	}
	at := filepath.Join(c.dir, "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	file := filepath.Join(at, "data")
	if err := c.steps([][]string{{"mkfs.ext4", "-q", "-F", link}, {"mount", "-o", "noinit_itable", link, at}}); err != nil { // inodes are not zeroed meanwhile
		return err
	}
	if err := c.sh("dd", "if=/dev/urandom", "of="+file, "bs=1M", fmt.Sprint("count=", sparseData>>20), "conv=fsync"); err != nil {
		return err
	}
	if err := c.storage("with a file", sparseData, sparseData+sparseSlack); err != nil {
		return err
	}
	if err := os.Remove(file); err != nil {
		return err
	}
	if err := c.steps([][]string{{"sync"}, {"fstrim", "-v", at}}); err != nil {
		return err
	}
	if err := c.storage("after fstrim", 0, sparseSlack); err != nil {
		return err
	}
	if err := c.sh("umount", at); err != nil {
		return err
	}
	return errors.Join(c.zeroes(ctx), c.detach(), noErrors())
}

// zeroes has a range written and zeroed: by the device where the kernel knows WRITE_ZEROES, and over the socket, where every
// client knows it.
func (c *cluster) zeroes(ctx context.Context) error {
	l, err := c.primary.API.Local(ctx, "")
	if err != nil {
		return err
	}
	if len(l.Devices) != 1 {
		return fmt.Errorf("%d devices are attached, want 1", len(l.Devices))
	}
	lacks := strings.Contains(strings.Join(l.Devices[0].Lacks, " "), "write-zeroes")
	if err := c.fillTwice(); err != nil {
		return err
	}
	length := fmt.Sprint(zeroed)
	if err := c.sh("blkdiscard", "-z", "-o", "0", "-l", length, link); err != nil {
		return err
	}
	if lacks {
		// It writes zeroes. They are there, and take storage.
		say("this kernel's driver has no write-zeroes: it has sent the zeroes")
		if err := c.storage("after blkdiscard -z", 2*zeroed, 2*zeroed+sparseSlack); err != nil {
			return err
		}
	} else if err := c.storage("after blkdiscard -z", zeroed, zeroed+sparseSlack); err != nil {
		return err
	}
	if err := allZero(link, 0, zeroed); err != nil {
		return err
	}

	d, err := c.primary.Dial(ctx, volume)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.WriteZeroes(ctx, 0, zeroed, 0); err != nil {
		return err
	}
	if err := c.storage("after write-zeroes over the socket", zeroed, zeroed+sparseSlack); err != nil {
		return err
	}
	if err := c.sh("blkdiscard", link); err != nil {
		return err
	}
	return c.storage("after blkdiscard of everything", 0, 1<<20)
}

// fillTwice writes what is not zero into twice the range that is zeroed.
func (c *cluster) fillTwice() error {
	if err := c.sh("blkdiscard", link); err != nil {
		return err
	}
	if err := c.sh("dd", "if=/dev/urandom", "of="+link, "bs=1M", fmt.Sprint("count=", 2*zeroed>>20), "oflag=direct"); err != nil {
		return err
	}
	return c.storage("with data", 2*zeroed, 2*zeroed+1<<20)
}

// storage waits until the target is what the source is, and wants both to take so much.
func (c *cluster) storage(when string, low, high int64) error {
	if err := c.settled(group); err != nil {
		return err
	}
	var took [2]int64
	for i, path := range []string{c.source, c.target} {
		var err error
		if took[i], err = stored(path); err != nil {
			return err
		}
	}
	say("%s the source takes %d KiB, the target %d KiB of %d", when, took[0]>>10, took[1]>>10, size>>10)
	for i, name := range []string{"source", "target"} {
		if took[i] < low || took[i] > high {
			return fmt.Errorf("%s the %s takes %d bytes, want %d to %d", when, name, took[i], low, high)
		}
	}
	return same(c.source, c.target, size)
}

// allZero reads a range past the kernel's cache.
func allZero(path string, off, n int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := forget(f); err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for ; n > 0; off, n = off+int64(len(block)), n-int64(len(block)) {
		if _, err := f.ReadAt(block, off); err != nil {
			return err
		}
		for i, b := range block {
			if b != 0 {
				return fmt.Errorf("%s has %#x at offset %d, want zero", path, b, off+int64(i))
			}
		}
	}
	return nil
}

// steps runs programs one after the other.
func (c *cluster) steps(all [][]string) error {
	for _, s := range all {
		if err := c.sh(s[0], s[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// connected returns the devices that are set up.
func connected() (out []int, err error) {
	all, err := kernel.Sysfs{}.Devices()
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		_, there, err := kernel.Sysfs{}.Get(i)
		if err != nil {
			return nil, err
		}
		if there {
			out = append(out, i)
		}
	}
	return out, nil
}
