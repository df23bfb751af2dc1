// Package process runs agents and commands as processes of their own, for the demo and for tests of whole clusters. What it
// starts does not outlive who started it.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// outputMax bounds what is kept of a command's output, tailLines what is shown of an agent's log, and tailRead what is
// read of its end.
const (
	outputMax = 1 << 20
	tailLines = 10
	tailRead  = 16 << 10
)

// Spawner starts processes that die with this one. The kernel sends PDEATHSIG when the *thread* that started the child
// ends, so one thread starts them all and stays until Close.
type Spawner struct {
	requests chan func()
	ended    chan struct{}
}

// NewSpawner starts the thread.
func NewSpawner() *Spawner {
	s := &Spawner{requests: make(chan func()), ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for f := range s.requests {
			f()
		}
	}()
	return s
}

// Close ends the thread. Every process must have ended.
func (s *Spawner) Close() {
	close(s.requests)
	<-s.ended
}

// launch starts a command in a process group of its own: an interrupt at the terminal is for who started it, and
// ends the others in order.
func (s *Spawner) launch(c *exec.Cmd) error {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err := make(chan error, 1)
	s.requests <- func() { err <- c.Start() }
	return <-err
}

// Run runs a command to its end and returns what it printed.
func (s *Spawner) Run(ctx context.Context, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Cancel = func() error { return signalGroup(c.Process.Pid, syscall.SIGKILL) }
	var out, errs limited
	c.Stdout, c.Stderr = &out, &errs
	if err := s.launch(c); err != nil {
		return "", fmt.Errorf("start %s: %w", name, err)
	}
	if err := c.Wait(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", fmt.Errorf("run %s: %w: %s", strings.Join(append([]string{name}, args...), " "), err, strings.TrimSpace(errs.String()+out.String()))
	}
	return out.String(), nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := outputMax - l.Len(); room > 0 {
		_, _ = l.Buffer.Write(p[:min(room, len(p))]) // a Buffer takes everything
	}
	return len(p), nil
}

func signalGroup(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(-pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// Process is one that runs on its own.
type Process struct {
	Name string
	Log  string // path

	pid    int
	doomed atomic.Bool // its end is wanted
	ended  chan struct{}
	err    error // how it ended; after ended
}

// Start starts a process that writes to the end of a file; running counts it. died is called if it ends before it is
// sent a signal, with how it ended.
func (s *Spawner) Start(running *sync.WaitGroup, name, log string, died func(p *Process, err error), command ...string) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", name, err)
	}
	defer f.Close() // the child has its own
	c := exec.Command(command[0], command[1:]...)
	c.Stdout, c.Stderr = f, f
	if err := s.launch(c); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{Name: name, Log: log, pid: c.Process.Pid, ended: make(chan struct{})}
	running.Go(func() {
		p.err = c.Wait()
		close(p.ended)
		if !p.doomed.Load() {
			died(p, p.err)
		}
	})
	return p, nil
}

// Signal sends a signal, if the process still runs, and does not wait. Its end is wanted from then on.
func (p *Process) Signal(sig syscall.Signal) error {
	p.doomed.Store(true)
	select {
	case <-p.ended:
		return nil
	default:
	}
	if err := signalGroup(p.pid, sig); err != nil {
		return fmt.Errorf("send %v to %s: %w", sig, p.Name, err)
	}
	return nil
}

// Kill sends SIGKILL and waits for the end.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.ended
	return nil
}

// Tail returns the last lines of a log.
func Tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	text := make([]byte, min(info.Size(), tailRead))
	n, _ := f.ReadAt(text, info.Size()-int64(len(text))) // what is there of it is a help
	lines := strings.Split(strings.TrimSpace(string(text[:n])), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}
