package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// planned is how often the agent is restarted in order.
const planned = 10

// plannedRestarts restarts the primary's agent as an upgrade does, with SIGTERM and under a manager that keeps its sockets, and
// measures how long a writer of single blocks stands still.
func plannedRestarts(ctx context.Context, c *cluster) error {
	if err := c.attach(); err != nil { // with the default time-outs: a request that had to be sent again would take a minute
		return err
	}
	if err := c.primary.Kill(); err != nil {
		return err
	}
	m, err := newManager(c)
	if err != nil {
		return err
	}
	defer m.close()
	if err := m.start(); err != nil {
		return err
	}
	w := &writer{machine: c.machine, stop: make(chan struct{}), ended: make(chan struct{})}
	go w.run(link)
	err = w.more(ctx, 50) // the killed agent has left requests that wait for a minute: there were none
	var stalls, starts []time.Duration
	for i := 0; i < planned && err == nil; i++ {
		w.takeLongest()
		if err = m.stop(); err != nil {
			break
		}
		var start time.Duration // while the writer waits, as it does while the agent starts
		if start, err = m.startOfProgram(ctx); err != nil {
			break
		}
		if err = m.start(); err != nil {
			break
		}
		if err = w.more(ctx, 50); err != nil {
			err = fmt.Errorf("after planned restart %d: %w", i+1, err)
			break
		}
		stalls, starts = append(stalls, w.takeLongest()-start), append(starts, start)
	}
	close(w.stop)
	<-w.ended
	if err = errors.Join(err, w.err); err != nil {
		return fmt.Errorf("%w; the manager has kept %d sockets", err, m.kept)
	}
	slices.Sort(stalls)
	slices.Sort(starts)
	median, worst, start := stalls[len(stalls)/2], stalls[len(stalls)-1], starts[len(starts)/2]
	say("planned restarts: a 4k write stalled for %v at least, %v in the median of %d, %v at most; to start the program alone took %v in the median; sockets kept %d times",
		stalls[0].Round(time.Millisecond), median.Round(time.Millisecond), len(stalls), worst.Round(time.Millisecond), start.Round(time.Millisecond), m.kept)
	if m.kept < planned {
		return fmt.Errorf("only %d of %d restarts have kept the device's socket", m.kept, planned)
	}
	switch most := c.patience * max(stallLimit, stallStarts*start); {
	case median > most:
		return fmt.Errorf("planned restarts stalled a write for %v in the median of %d, want at most %v", median, len(stalls), most)
	case worst > c.patience*stallLost:
		return fmt.Errorf("a planned restart stalled a write for %v, want at most %v: a request was lost, and is sent again after its time-out", worst, stallLost)
	}
	return errors.Join(c.settled(group), same(c.source, c.target, size), c.detach(), m.stop(), noErrors())
}

// stallLimit is what a planned restart may cost in the median. A machine that does much else meanwhile has no second to show:
// there it is stallStarts times what it takes to start the program and do nothing, measured, and not counted, between the end
// of one agent and the start of the next. stallLost is
// less than what any restart takes that has lost a request.
const (
	stallLimit  = time.Second
	stallStarts = 4
	stallLost   = 10 * time.Second
)

// writer writes single blocks past the kernel's cache, one after the other.
type writer struct {
	*machine
	stop, ended chan struct{}
	err         error // after ended

	mu      sync.Mutex
	count   int
	longest time.Duration
}

func (w *writer) run(path string) {
	defer close(w.ended)
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		w.err = err
		return
	}
	defer f.Close()
	block := pages(4096)
	for i := 0; ; i++ {
		select {
		case <-w.stop:
			return
		default:
		}
		copy(block, fmt.Sprintf("block %d ", i))
		began := time.Now()
		if _, err := f.WriteAt(block, int64(i%(size/4096))*4096); err != nil {
			w.err = err
			return
		}
		took := time.Since(began)
		w.mu.Lock()
		w.count++
		w.longest = max(w.longest, took)
		w.mu.Unlock()
	}
}

func (w *writer) more(ctx context.Context, n int) error {
	w.mu.Lock()
	want := w.count + n
	w.mu.Unlock()
	return w.until(ctx, "the writer goes on", func() (bool, error) {
		select {
		case <-w.ended:
			return false, errors.New("the writer has ended by itself")
		default:
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.count >= want, nil
	})
}

func (w *writer) takeLongest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.longest
	w.longest = 0
	return d
}

// manager starts and stops the primary's agent as systemd does with Type=notify and FileDescriptorStoreMax: it keeps the
// sockets that the agent hands over, and gives them to the next one (sd_notify(3), sd_listen_fds(3)).
type manager struct {
	c      *cluster
	socket *os.File
	path   string
	agent  *exec.Cmd
	ready  chan struct{} // of the running agent
	heard  chan struct{} // capacity 1: all that was said before `flush` is taken
	done   sync.WaitGroup

	mu    sync.Mutex
	store map[string]*os.File
	kept  int
}

func newManager(c *cluster) (*manager, error) {
	m := &manager{c: c, path: c.dir + "/notify", store: map[string]*os.File{}, ready: make(chan struct{}, 1), heard: make(chan struct{}, 1)}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: m.path}); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	m.socket = os.NewFile(uintptr(fd), m.path)
	m.done.Go(func() { m.listen(fd) })
	return m, nil
}

// listen takes what agents say, up to an empty message.
func (m *manager) listen(fd int) {
	text, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*16))
	for {
		n, r, _, _, err := unix.Recvmsg(fd, text, rights, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		said := map[string]string{}
		for line := range strings.Lines(string(text[:n])) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			said[k] = v
		}
		if said["READY"] == "1" {
			select {
			case m.ready <- struct{}{}:
			default:
			}
		}
		if said["FLUSH"] == "1" {
			m.heard <- struct{}{}
		}
		m.mu.Lock()
		if f := m.store[said["FDNAME"]]; f != nil && (said["FDSTOREREMOVE"] == "1" || said["FDSTORE"] == "1") {
			_ = f.Close()
			delete(m.store, said["FDNAME"])
		}
		if said["FDSTORE"] == "1" {
			if f := firstFile(rights[:r]); f != nil {
				m.store[said["FDNAME"]] = f
				m.kept++
			}
		}
		m.mu.Unlock()
	}
}

func firstFile(rights []byte) *os.File {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) == 0 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return nil
	}
	return os.NewFile(uintptr(fds[0]), "kept")
}

// start starts the agent with what is kept, and waits until it is ready.
func (m *manager) start() error {
	m.mu.Lock()
	var names []string
	var files []*os.File
	for n, f := range m.store {
		names, files = append(names, n), append(files, f)
	}
	m.mu.Unlock()
	// LISTEN_PID is the number of the agent's own process.
	m.agent = exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", m.c.program, "agent", "--config", m.c.primary.Config)
	m.agent.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.path, fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	m.agent.ExtraFiles = files
	log, err := os.OpenFile(m.c.primary.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	m.agent.Stdout, m.agent.Stderr = log, log
	m.agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.agent.Start(); err != nil {
		return err
	}
	select {
	case <-m.ready:
		return nil
	case <-time.After(m.c.patience * 60 * time.Second):
		return errors.New("the agent does not say that it is ready")
	}
}

// startOfProgram measures how long the program takes to start and end.
func (m *manager) startOfProgram(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	err := exec.CommandContext(ctx, "sh", "-c", `exec "$@"`, "sh", m.c.program, "version").Run()
	return time.Since(began), err
}

// stop stops the agent in order.
func (m *manager) stop() error {
	if m.agent == nil {
		return nil
	}
	a := m.agent
	m.agent = nil
	if err := a.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := a.Wait(); err != nil {
		return fmt.Errorf("stop the agent: %w; the end of its log:\n%s", err, m.c.primary.Tail())
	}
	return m.flush()
}

// flush returns when what the ended agent has said last is taken: systemd looks at that, too, before it sees the end of a process.
func (m *manager) flush() error {
	if err := m.say("FLUSH=1"); err != nil {
		return err
	}
	<-m.heard
	return nil
}

// say sends the manager a message, as agents do.
func (m *manager) say(text string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Sendto(fd, []byte(text), 0, &unix.SockaddrUnix{Name: m.path}), unix.Close(fd))
}

// close ends what is left after an error, too.
func (m *manager) close() {
	if m.agent != nil {
		_ = m.agent.Process.Kill()
		_ = m.agent.Wait()
	}
	_ = m.say("")
	m.done.Wait()
	_ = m.socket.Close()
	for _, f := range m.store {
		_ = f.Close()
	}
}
