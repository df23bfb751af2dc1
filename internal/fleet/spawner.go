package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
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

// NewSpawner returns a spawner. Close must be called.
func NewSpawner() *Spawner {
	s := &Spawner{requests: make(chan func()), ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		runtime.LockOSThread() // for good: the thread ends with its goroutine, as it may have been in other namespaces
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

// do runs f on the thread.
func (s *Spawner) do(f func() error) error {
	err := make(chan error, 1)
	s.requests <- func() { err <- f() }
	return <-err
}

// start starts a command, in a process group of its own: an interrupt at the terminal is for this program, which ends the
// others in order.
func (s *Spawner) start(ns *Namespace, c *exec.Cmd) error {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return s.do(func() error { return ns.within(c.Start) })
}

// Run runs a command to its end, in a namespace unless that is nil, and returns what it printed.
func (s *Spawner) Run(ctx context.Context, ns *Namespace, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Cancel = func() error { return killGroup(c.Process.Pid) }
	var out, errs limited
	c.Stdout, c.Stderr = &out, &errs
	if err := s.start(ns, c); err != nil {
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

func killGroup(pid int) error {
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// process is one running agent.
type process struct {
	name   string
	pid    int
	doomed atomic.Bool // its end is wanted
	ended  chan struct{}
	err    error // how it ended; after ended
}

// agent starts an agent that logs to its host's file. died is called if it ends before it is killed.
func (s *Spawner) agent(running *sync.WaitGroup, h *Host, program string, died func(*process)) (*process, error) {
	f, err := os.OpenFile(h.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", h.Name, err)
	}
	defer f.Close() // the child has its own
	words := append(slices.Clone(h.Wrap), program, "agent", "--config", h.Config)
	c := exec.Command(words[0], words[1:]...)
	c.Stdout, c.Stderr = f, f
	if err := s.start(h.Namespace, c); err != nil {
		return nil, fmt.Errorf("start agent %s: %w", h.Name, err)
	}
	p := &process{name: h.Name, pid: c.Process.Pid, ended: make(chan struct{})}
	running.Go(func() {
		p.err = c.Wait()
		close(p.ended)
		if !p.doomed.Load() {
			died(p)
		}
	})
	return p, nil
}

// Doom sends SIGKILL to a host's agent and does not wait for its end. It does nothing to one that was not started.
func (h *Host) Doom() error {
	p := h.process
	if p == nil {
		return nil
	}
	p.doomed.Store(true)
	select {
	case <-p.ended:
		return nil
	default:
	}
	if err := killGroup(p.pid); err != nil {
		return fmt.Errorf("kill agent %s: %w", p.name, err)
	}
	return nil
}

// Kill sends SIGKILL to a host's agent and waits for its end.
func (h *Host) Kill() error {
	if err := h.Doom(); err != nil || h.process == nil {
		return err
	}
	<-h.process.ended
	return nil
}

// Tail returns the last lines of the host's log.
func (h *Host) Tail() string {
	f, err := os.Open(h.Log)
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
