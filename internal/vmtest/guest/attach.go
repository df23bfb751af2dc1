package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"flotilla/agent/api"
	"flotilla/nbd/kernel"
)

const attachTimes = 200

// attachOften attaches and detaches again and again: no device, descriptor or goroutine may remain. Each time it reads what it
// has written the time before.
func attachOften(ctx context.Context, c *cluster) error {
	var first counts
	if err := c.attach("--device", "2"); err != nil {
		return err
	}
	index := 2
	for i := range attachTimes {
		// The first time by the command line; then without a process each time.
		if i > 0 {
			if err := c.primary.API.Call(ctx, http.MethodPost, "/v1/agent/devices", api.AttachRequest{Volume: volume, Index: &index}, nil); err != nil {
				return err
			}
		}
		if err := touch(fmt.Sprintf("round %06d", i), fmt.Sprintf("round %06d", i-1), i > 0); err != nil {
			return err
		}
		if err := c.primary.API.Call(ctx, http.MethodDelete, api.DevicePath("db", "data", false), nil, nil); err != nil {
			return err
		}
		if i == 10 { // what is made once is made
			var err error
			if first, err = c.count(); err != nil {
				return err
			}
		}
	}
	last, err := c.count()
	if err != nil {
		return err
	}
	say("after 11 rounds %+v, after %d rounds %+v", first, attachTimes, last)
	if last.devices != first.devices || last.connected != 0 || last.files > first.files+3 || last.threads > first.threads+8 {
		return fmt.Errorf("something remains: %+v after 11 rounds, %+v after %d", first, last, attachTimes)
	}
	if _, err := os.Lstat(link); !os.IsNotExist(err) {
		return fmt.Errorf("the stable name remains: %v", err)
	}
	return noErrors()
}

// touch reads what stood at the device's beginning and writes something else there.
func touch(next, want string, look bool) error {
	f, err := os.OpenFile(link, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 4096)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, 4096), block); err != nil {
		return err
	}
	if got := strings.TrimRight(string(block), "\x00"); look && got != want {
		return fmt.Errorf("the device reads %q, want %q", got, want)
	}
	clear(block)
	copy(block, next)
	if _, err := f.WriteAt(block, 0); err != nil {
		return err
	}
	return f.Sync()
}

// counts are what may leak.
type counts struct{ devices, connected, files, threads int }

func (c *cluster) count() (n counts, err error) {
	all, err := kernel.Sysfs{}.Devices()
	if err != nil {
		return n, err
	}
	n.devices = len(all)
	for _, i := range all {
		if _, there, err := (kernel.Sysfs{}).Get(i); err != nil {
			return n, err
		} else if there {
			n.connected++
		}
	}
	pid, err := c.agentPID()
	if err != nil {
		return n, err
	}
	for _, d := range []struct {
		name string
		to   *int
	}{{"fd", &n.files}, {"task", &n.threads}} {
		entries, err := os.ReadDir(filepath.Join("/proc", pid, d.name))
		if err != nil {
			return n, err
		}
		*d.to = len(entries)
	}
	return n, nil
}
