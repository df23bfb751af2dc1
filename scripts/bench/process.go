package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a child that runs until it is stopped.
type process struct {
	title string
	cmd   *exec.Cmd
	log   *tail
	ended chan struct{} // closed when it has
	err   error         // valid then
}

const stopTime = 10 * time.Second // for a child that was asked to end

// startProcess starts a child in a process group of its own, so that an interrupt from the terminal reaches only this
// program, which ends its children in order. If this program is killed, the kernel kills them.
func startProcess(title string, args ...string) (*process, error) {
	p := &process{title: title, log: &tail{limit: 64 << 10}, ended: make(chan struct{})}
	p.cmd = exec.Command(args[0], args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", title, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// stop asks the child to end, and makes it after a while.
func (p *process) stop() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended by itself: %w\n%s", p.title, errors.Join(p.err, errors.New("see its log")), p.log)
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may end at this moment
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopTime):
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
	return fmt.Errorf("%s did not end within %v and was killed; its log:\n%s", p.title, stopTime, p.log)
}

// alive returns an error if the child has ended.
func (p *process) alive() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s has ended: %v\n%s", p.title, p.err, p.log)
	default:
		return nil
	}
}

// cpu returns the processor time that the child has used.
func (p *process) cpu() (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read what %s has used: %w", p.title, err)
	}
	return parseCPU(string(raw))
}

// clockTick is the unit of times in /proc: USER_HZ, which is 100 on every architecture that Go runs on.
const clockTick = 10 * time.Millisecond

// parseCPU adds utime and stime of /proc/PID/stat, fields 14 and 15; the second is a name in parentheses that may
// contain anything.
func parseCPU(stat string) (time.Duration, error) {
	_, rest, ok := strings.Cut(stat[max(strings.LastIndexByte(stat, ')'), 0):], ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("parse /proc/PID/stat: %q", stat)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("parse /proc/PID/stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// peak returns the most memory that the child has had resident, in bytes.
func (p *process) peak() (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read the memory of %s: %w", p.title, err)
	}
	return parsePeak(string(raw))
}

// parsePeak returns VmHWM of /proc/PID/status in bytes.
func parsePeak(status string) (int64, error) {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("parse VmHWM: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, errors.New("parse /proc/PID/status: it has no VmHWM")
}

// once runs a command to its end and returns its standard output.
func once(ctx context.Context, args ...string) (string, error) {
	var out, log bytes.Buffer
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Stdout, c.Stderr = &out, &log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, &out, &log)
	}
	return out.String(), nil
}

// tail keeps the last bytes written to it.
type tail struct {
	mu    sync.Mutex
	limit int
	data  []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - t.limit; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

// String returns what is kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data)
}
