package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"flotilla/internal/fleet"
)

// lossSize is the volume's size when the whole machine loses power, and lossRows after how many rows it does.
const (
	lossSize = 1536 << 20
	lossRows = 150
)

// The files by which the two lives of the machine speak to each other and to the host, which cannot be lost.
const (
	readyFile = "ready" // the host may kill the machine
	ackedFile = "acked" // the rows that were acknowledged, a line each
)

// powerLoss has the whole machine lose power under a load: the host kills it when the file ready is there, and boots it again
// with the same disks. What the kernel had not written to these is lost. Then everything comes back by itself, the device
// included: the resync copies what the bits say and nothing else, the target becomes what the source is, and every acknowledged
// row is there.
func powerLoss(ctx context.Context, m *machine) error {
	if err := m.load("nbd", nbdParams); err != nil {
		return err
	}
	if len(m.disks) < 4 {
		return fmt.Errorf("four disks are needed, there are %d", len(m.disks))
	}
	c := newCluster(ctx, m)
	if _, err := os.Stat(filepath.Join(m.keep, readyFile)); err == nil {
		return c.end(c.afterLoss())
	}
	return c.end(c.beforeLoss())
}

// lossDisks mounts the four disks: the agents' state, and where source and target are.
func (c *cluster) lossDisks(fresh bool) error {
	for i, name := range []string{"p", "s", "sources", "targets"} {
		at := filepath.Join(c.dir, name)
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		if fresh {
			if err := c.sh("mkfs.ext4", "-q", "-F", c.disks[i]); err != nil {
				return err
			}
		}
		if err := c.sh("mount", c.disks[i], at); err != nil {
			return err
		}
	}
	c.source, c.target = filepath.Join(c.dir, "sources", "source"), filepath.Join(c.dir, "targets", "target")
	return nil
}

// lossHosts adds the hosts, at the same addresses in both lives.
func (c *cluster) lossHosts() (err error) {
	if c.primary, err = c.fleet.Add(fleet.Member{Name: "p", Roles: "primary", Settings: patient, Address: "127.0.0.1:7701"}); err != nil {
		return err
	}
	c.secondary, err = c.fleet.Add(fleet.Member{Name: "s", Roles: "backup, secondary", Settings: patient, Journal: "8GiB", Address: "127.0.0.1:7702"})
	return err
}

func (c *cluster) beforeLoss() error {
	if err := errors.Join(c.lossDisks(true), sparseFile(c.source, lossSize), sparseFile(c.target, lossSize), c.lossHosts()); err != nil {
		return err
	}
	if err := c.fleet.Assemble(c.ctx, func(*fleet.Host) {}); err != nil {
		return err
	}
	if err := c.insist("group", "create", group); err != nil {
		return err
	}
	if err := c.insist("volume", "create", volume, "--primary", "p", "--source", c.source, "--secondary", "s", "--target", c.target); err != nil {
		return err
	}
	if err := c.attach("--device", "0", "--timeout", "30s"); err != nil {
		return err
	}
	at := filepath.Join(c.dir, "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	// It trims the whole volume otherwise, and makes everything hot.
	if err := c.steps([][]string{{"mkfs.ext4", "-q", "-F", "-E", "nodiscard", link}, {"mount", link, at}}); err != nil {
		return err
	}
	acked, err := os.OpenFile(filepath.Join(c.keep, ackedFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	r, err := c.startRows(filepath.Join(at, "rows.sqlite"), acked)
	if err != nil {
		return err
	}
	go c.litter(filepath.Join(at, "litter"))
	if err := r.more(c.ctx, lossRows); err != nil {
		return err
	}
	if err := c.kept(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.keep, readyFile), nil, 0o644); err != nil {
		return err
	}
	<-c.ctx.Done() // the host ends it
	return errors.New("nobody has cut the power")
}

// litter overwrites parts of a file without ever flushing them, until the machine ends.
func (c *cluster) litter(path string) {
	f, err := os.Create(path)
	if err != nil {
		return
	}
	r := rand.New(rand.NewPCG(3, 3))
	block := make([]byte, 32<<10)
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		for i := range block {
			block[i] = byte(r.Uint32())
		}
		if _, err := f.WriteAt(block, r.Int64N(64<<20/int64(len(block)))*int64(len(block))); err != nil {
			return
		}
	}
}

// kept waits until a cut is on the target: replication is under way.
func (c *cluster) kept() error {
	return c.until(c.ctx, "a set is applied", func() (bool, error) {
		st, err := c.secondary.Status(c.ctx)
		return st != nil && st.Group(group).Applied > 0 && st.Group(group).Volumes[0].Copied, err
	})
}

func (c *cluster) afterLoss() error {
	text, err := os.ReadFile(filepath.Join(c.keep, ackedFile))
	if err != nil {
		return err
	}
	acked := bytes.Count(text, []byte("\n"))
	if err := errors.Join(c.lossDisks(false), c.lossHosts()); err != nil {
		return err
	}
	marked, err := markedExtents(c.primary.Dir, lossSize/cutExtent)
	if err != nil {
		return err
	}
	for _, h := range c.fleet.Hosts {
		if err := c.fleet.Launch(h); err != nil {
			return err
		}
	}
	copied, err := c.resynced()
	if err != nil {
		return err
	}
	say("after the power loss: %d of %d extents were marked, %d MiB copied; %d rows had been acknowledged", marked, lossSize/cutExtent, copied>>20, acked)
	switch {
	case copied != int64(marked)*cutExtent:
		return fmt.Errorf("%d bytes were copied, and the bits say %d", copied, int64(marked)*cutExtent)
	case marked > cutHottest || copied > lossSize/2:
		return fmt.Errorf("%d extents of %d were copied: those are not the hot ones", marked, lossSize/cutExtent)
	}
	if err := errors.Join(c.settled(group), same(c.source, c.target, lossSize)); err != nil {
		return err
	}

	// The device has come back by itself, at its place.
	if err := c.until(c.ctx, "the device is attached again", func() (bool, error) {
		to, err := os.Readlink(link)
		return err == nil && to == "/dev/nbd0", nil
	}); err != nil {
		return err
	}
	at := filepath.Join(c.dir, "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	if err := c.sh("mount", link, at); err != nil {
		return err
	}
	rows, err := c.rowsAt(filepath.Join(at, "rows.sqlite"))
	if err != nil {
		return err
	}
	if rows < acked {
		return fmt.Errorf("%s rows are there, %d were acknowledged", strconv.Itoa(rows), acked)
	}
	say("%d rows are there", rows)
	if err := errors.Join(c.sh("umount", at), c.sh("e2fsck", "-fn", link), c.settled(group), same(c.source, c.target, lossSize), c.detach(), noErrors()); err != nil {
		return err
	}
	if err := c.killAll(); err != nil {
		return err
	}
	for _, name := range []string{"p", "s", "sources", "targets"} {
		if err := c.sh("umount", filepath.Join(c.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// killAll ends the agents, so that what they have open can be unmounted.
func (c *cluster) killAll() error {
	var errs []error
	for _, h := range c.fleet.Hosts {
		errs = append(errs, h.Kill())
	}
	return errors.Join(errs...)
}
