package demo

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
	"time"
)

// outputMax bounds what is kept of a command's output, tailLines what is shown of an agent's log, and tailRead what is
// read of its end.
const (
	outputMax = 1 << 20
	tailLines = 10
	tailRead  = 16 << 10
)

// spawner starts processes that die with this one. The kernel sends PDEATHSIG when the *thread* that started the child
// ends, so one thread starts them all and stays until close.
type spawner struct {
	requests chan func()
	ended    chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{requests: make(chan func()), ended: make(chan struct{})}
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

// close ends the thread. Every process must have ended.
func (s *spawner) close() {
	close(s.requests)
	<-s.ended
}

// start starts a command in a process group of its own: an interrupt at the terminal is for the demo, which ends the
// others in order.
func (s *spawner) start(c *exec.Cmd) error {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err := make(chan error, 1)
	s.requests <- func() { err <- c.Start() }
	return <-err
}

// run runs a command to its end and returns what it printed.
func (s *spawner) run(ctx context.Context, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Cancel = func() error { return killGroup(c.Process.Pid) }
	var out, errs limited
	c.Stdout, c.Stderr = &out, &errs
	if err := s.start(c); err != nil {
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
	name    string
	log     string // path
	pid     int
	doomed  atomic.Bool // its end is wanted
	started time.Time
	ended   chan struct{}
	err     error // how it ended; after ended
}

// agent starts an agent that logs to a file. died is called if it ends before it is killed.
func (s *spawner) agent(running *sync.WaitGroup, name, program, config, log string, died func(*process)) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", name, err)
	}
	defer f.Close() // the child has its own
	c := exec.Command(program, "agent", "--config", config)
	c.Stdout, c.Stderr = f, f
	if err := s.start(c); err != nil {
		return nil, fmt.Errorf("start agent %s: %w", name, err)
	}
	p := &process{name: name, log: log, pid: c.Process.Pid, started: time.Now(), ended: make(chan struct{})}
	running.Go(func() {
		p.err = c.Wait()
		close(p.ended)
		if !p.doomed.Load() {
			died(p)
		}
	})
	return p, nil
}

// kill sends SIGKILL and waits for the end.
func (p *process) kill() error {
	p.doomed.Store(true)
	select {
	case <-p.ended:
		return nil
	default:
	}
	if err := killGroup(p.pid); err != nil {
		return fmt.Errorf("kill agent %s: %w", p.name, err)
	}
	<-p.ended
	return nil
}

// tail returns the last lines of a log.
func tail(path string) string {
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
