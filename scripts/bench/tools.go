package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// tools are the programs that are needed, with their Debian packages.
var tools = []struct{ program, debian string }{{"fio", "fio"}, {"nbdkit", "nbdkit"}}

// checkTools refuses to begin what could not be finished.
func checkTools(ctx context.Context, o options) error {
	var errs []error
	for _, t := range tools {
		if _, err := exec.LookPath(t.program); err != nil {
			errs = append(errs, fmt.Errorf("%s is not installed: on Debian, apt-get install %s", t.program, t.debian))
		}
	}
	if len(errs) == 0 {
		if out, err := exec.CommandContext(ctx, "fio", "--enghelp=nbd").CombinedOutput(); err != nil || !strings.Contains(string(out), "uri") {
			errs = append(errs, errors.New("this fio has no ioengine=nbd: on Debian, apt-get install fio (from Debian 11 on)"))
		}
	}
	if _, err := exec.LookPath(o.program); err != nil {
		errs = append(errs, fmt.Errorf("-program %s: %w; `make build` makes it", o.program, err))
	}
	var st unix.Statfs_t
	switch err := unix.Statfs(o.temp, &st); {
	case err != nil:
		errs = append(errs, fmt.Errorf("-temp %s: %w", o.temp, err))
	case st.Type != unix.TMPFS_MAGIC:
		errs = append(errs, fmt.Errorf("-temp %s: it is not on tmpfs, so that a disk would be measured; give a directory on one", o.temp))
	default:
		need, free := 3*o.size+components*journalLimit, int64(st.Bavail)*st.Bsize
		if free < need {
			errs = append(errs, fmt.Errorf("-temp %s: %d MiB are free and %d MiB may be needed: make room, or give a smaller -size", o.temp, free>>20, need>>20))
		}
	}
	return errors.Join(errs...)
}

// freePorts returns n TCP ports that nobody used on the loopback a moment ago, all different.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, lerr := net.Listen("tcp", "127.0.0.1:0")
		if lerr != nil {
			return nil, fmt.Errorf("find free ports: %w", lerr)
		}
		defer func() { err = errors.Join(err, l.Close()) }() // all at the end, so that they differ
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// fill makes a file of size bytes, all of them allocated and none a zero block. Two calls make the same content.
func fill(path string, size int64) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make a backing file: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := make([]byte, 1<<20)
	x := uint64(0x9e3779b97f4a7c15)
	for off := int64(0); off < size; off += int64(len(buf)) {
		for i := 0; i < len(buf); i += 8 { // xorshift64: incompressible is what matters
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			for k := range 8 {
				buf[i+k] = byte(x >> (8 * k))
			}
		}
		if _, err := f.Write(buf[:min(int64(len(buf)), size-off)]); err != nil {
			return fmt.Errorf("fill a backing file: %w", err)
		}
	}
	return nil
}
