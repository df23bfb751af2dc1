package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"flotilla/nbd"
	"flotilla/nbd/kernel"
)

// Time-outs of a device that says nothing else.
const (
	// DefaultTimeout is after how long without an answer the kernel sends a request again. It has to be longer than what a
	// living agent takes for a full queue, and it is what a request waits that a killed agent had taken.
	DefaultTimeout = 60 * time.Second
	// DefaultDeadTimeout is how long I/O waits for an agent before it fails.
	DefaultDeadTimeout = 5 * time.Minute

	maxTimeout = 24 * time.Hour
)

// Driver is the kernel's NBD client; *kernel.Kernel is one.
type Driver interface {
	Find(identifier string) (kernel.Device, bool, error)
	Connect(c kernel.Config, sockets ...*os.File) (int, error)
	Reconfigure(index int, c kernel.Change, sockets ...*os.File) error
	Disconnect(index int) error
	Tune(index int) error
	Missing(index int, serverFlags uint16) []string
	Path(index int) string
	CheckNode(index int) error
}

// Keeper keeps sockets from one run of the agent to the next, as systemd's file descriptor store does.
type Keeper interface {
	// Take returns the socket that was kept under the name, nil if none was. It is not kept any longer.
	Take(name string) *os.File
	// Keep keeps a copy of the socket.
	Keep(name string, f *os.File) error
}

// Options configures a Manager. Server, File and Identity have no default.
type Options struct {
	Server   *nbd.Server
	File     string // where it is written what is attached
	Identity string // of the cluster and the agent; without a colon

	Open   func() (Driver, error)                  // default: the kernel's own client
	Links  string                                  // directory of stable names; default /dev/flotilla
	Keeper Keeper                                  // default: none
	Events func(name, volume string, attrs ...any) // what a user should see; must not block. Default: none
	Logger *slog.Logger                            // default: none
	InUse  func(path string) error                 // an error when somebody uses a device. Default: an exclusive opening
	Retry  time.Duration                           // between two tries to get a socket to the kernel; default 20 ms, and up to a hundred times that
}

// Spec says what is to be attached, and how.
type Spec struct {
	Volume      string        // GROUP/VOLUME, the export's name
	Index       int           // of /dev/nbdX, or kernel.AnyIndex
	Timeout     time.Duration // whole seconds; 0 is DefaultTimeout
	DeadTimeout time.Duration // whole seconds; 0 is DefaultDeadTimeout
}

// Info is one attached device as it stands.
type Info struct {
	Spec
	Device string // path; empty while there is none
	Link   string // stable name
	Served bool   // its I/O is answered; otherwise it waits
	Error  string // why not
	// Lacks names features of the export that this kernel does not use.
	Lacks []string
}

// The errors of Attach and Detach that are of the request.
var (
	ErrNotOffered  = errors.New("volume is not served here")
	ErrAttached    = errors.New("volume is attached already")
	ErrNotAttached = errors.New("volume is not attached")
	ErrInUse       = errors.New("device is in use")
)

// Manager attaches the devices of one agent.
//
// turn is taken by Attach, Detach and Start, over system calls; mu never is.
type Manager struct {
	opt    Options
	ctx    context.Context // ends when Close begins
	cancel context.CancelFunc
	done   sync.WaitGroup // of attachments

	turn   sync.Mutex
	driver Driver // guarded by turn; nil until it is needed

	mu       sync.Mutex
	exports  map[string]nbd.Export
	attached map[string]*attachment
	closed   bool
}

// New returns a manager that has attached nothing yet.
func New(o Options) (*Manager, error) {
	if o.Server == nil || o.File == "" || o.Identity == "" || strings.ContainsAny(o.Identity, ":\n") {
		return nil, fmt.Errorf("device options: a server, a file and an identity without a colon are needed")
	}
	if o.Open == nil {
		o.Open = func() (Driver, error) { return kernel.Open(kernel.Options{}) }
	}
	if o.Links == "" {
		o.Links = "/dev/flotilla"
	}
	if o.Events == nil {
		o.Events = func(string, string, ...any) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.InUse == nil {
		o.InUse = openExclusively
	}
	if o.Retry <= 0 {
		o.Retry = 20 * time.Millisecond
	}
	m := &Manager{opt: o, exports: map[string]nbd.Export{}, attached: map[string]*attachment{}}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

// Start attaches again what the file names. Exports may be offered before and after.
func (m *Manager) Start() error {
	m.turn.Lock()
	defer m.turn.Unlock()
	specs, err := readSpecs(m.opt.File)
	if err != nil || len(specs) == 0 {
		return err
	}
	for _, s := range specs {
		m.begin(newAttachment(m, s), nil)
	}
	return nil
}

// begin starts the goroutine of an attachment, which has a socket already or gets one.
func (m *Manager) begin(a *attachment, conn *net.UnixConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		if conn != nil {
			_ = conn.Close()
		}
		close(a.ended)
		return
	}
	m.attached[a.spec.Volume] = a
	a.setExport(m.exports[a.spec.Volume])
	m.done.Go(func() { a.run(conn) })
}

// Offer tells that there is an export.
func (m *Manager) Offer(name string, e nbd.Export) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.exports[name] = e
	if a := m.attached[name]; a != nil {
		a.setExport(e)
	}
}

// Withdraw tells that there is an export no more, and returns when no request to it is under way. The device stays; its I/O
// waits for the export to come back.
func (m *Manager) Withdraw(name string) {
	m.mu.Lock()
	delete(m.exports, name)
	a := m.attached[name]
	m.mu.Unlock()
	if a != nil {
		a.withdraw()
	}
}

// open returns the driver. The turn is held.
func (m *Manager) open() (Driver, error) {
	if m.driver == nil {
		d, err := m.opt.Open()
		if err != nil {
			return nil, err
		}
		m.driver = d
	}
	return m.driver, nil
}

func (m *Manager) identifier(volume string) string {
	return "flotilla:" + m.opt.Identity + ":" + volume
}

// Attach makes a device of an export. It is there, and will be after a restart, when Attach returns.
func (m *Manager) Attach(s Spec) (Info, error) {
	if s.Timeout == 0 {
		s.Timeout = DefaultTimeout
	}
	if s.DeadTimeout == 0 {
		s.DeadTimeout = DefaultDeadTimeout
	}
	if err := s.check(); err != nil {
		return Info{}, err
	}
	m.turn.Lock()
	defer m.turn.Unlock()
	m.mu.Lock()
	e, a, closed := m.exports[s.Volume], m.attached[s.Volume], m.closed
	m.mu.Unlock()
	switch {
	case closed:
		return Info{}, fmt.Errorf("attach %s: the agent is ending", s.Volume)
	case a != nil:
		i := a.info()
		return i, fmt.Errorf("attach %s: %w, as %s: detach it first", s.Volume, ErrAttached, i.Device)
	case e == nil:
		return Info{}, fmt.Errorf("attach %s: %w: attach it on its primary, or after a promote on its secondary", s.Volume, ErrNotOffered)
	}
	d, err := m.open()
	if err != nil {
		return Info{}, fmt.Errorf("attach %s: %w", s.Volume, err)
	}
	a = newAttachment(m, s)
	conn, err := a.link(d, e)
	if err != nil {
		return Info{}, fmt.Errorf("attach %s: %w", s.Volume, err)
	}
	err = d.CheckNode(a.index())
	if err == nil {
		err = m.remember(func(all []Spec) []Spec { return append(all, s) })
	}
	if err != nil {
		return Info{}, errors.Join(fmt.Errorf("attach %s: %w", s.Volume, err), conn.Close(), d.Disconnect(a.index()), a.unlink())
	}
	m.begin(a, conn)
	i := a.info()
	m.opt.Events("device.attached", s.Volume, "device", i.Device, "link", i.Link, "lacks", strings.Join(i.Lacks, ", "))
	return i, nil
}

// Detach takes the device of a volume down. Without force it is refused while somebody uses the device.
func (m *Manager) Detach(volume string, force bool) error {
	m.turn.Lock()
	defer m.turn.Unlock()
	m.mu.Lock()
	a := m.attached[volume]
	m.mu.Unlock()
	if a == nil {
		return fmt.Errorf("detach %s: %w here", volume, ErrNotAttached)
	}
	d, err := m.open()
	if err != nil {
		return fmt.Errorf("detach %s: %w", volume, err)
	}
	dev, there, err := d.Find(m.identifier(volume))
	if err != nil {
		return fmt.Errorf("detach %s: %w", volume, err)
	}
	if there && !force {
		if err := m.opt.InUse(d.Path(dev.Index)); err != nil {
			return fmt.Errorf("detach %s: %w: %w: unmount it, or give --force and have all its I/O fail", volume, ErrInUse, err)
		}
	}
	a.cancel()
	<-a.ended
	if there {
		if err := d.Disconnect(dev.Index); err != nil {
			m.mu.Lock()
			delete(m.attached, volume)
			m.mu.Unlock()
			m.begin(newAttachment(m, a.spec), nil)
			return fmt.Errorf("detach %s: %w", volume, err)
		}
	}
	m.mu.Lock()
	delete(m.attached, volume)
	m.mu.Unlock()
	if err := errors.Join(a.unlink(), m.remember(func(all []Spec) []Spec {
		return slices.DeleteFunc(all, func(s Spec) bool { return s.Volume == volume })
	})); err != nil {
		return fmt.Errorf("detach %s: %w", volume, err)
	}
	m.opt.Events("device.detached", volume, "device", d.Path(dev.Index))
	return nil
}

// remember writes down what is attached. The turn is held.
func (m *Manager) remember(change func([]Spec) []Spec) error {
	specs, err := readSpecs(m.opt.File)
	if err != nil {
		return err
	}
	return writeSpecs(m.opt.File, change(specs))
}

// List returns what is attached, by volume.
func (m *Manager) List() []Info {
	m.mu.Lock()
	all := make([]*attachment, 0, len(m.attached))
	for _, a := range m.attached {
		all = append(all, a)
	}
	m.mu.Unlock()
	out := make([]Info, 0, len(all))
	for _, a := range all {
		out = append(out, a.info())
	}
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.Volume, b.Volume) })
	return out
}

// Close ends the serving and leaves the devices to the kernel, whose I/O then waits.
func (m *Manager) Close() error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.cancel()
	m.done.Wait()
	return nil
}

func (s *Spec) check() error {
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"time-out", s.Timeout}, {"dead-connection time-out", s.DeadTimeout}} {
		if d.value < time.Second || d.value > maxTimeout || d.value%time.Second != 0 {
			return fmt.Errorf("attach %s: %s %v: give whole seconds, from 1s to %v", s.Volume, d.name, d.value, maxTimeout)
		}
	}
	if s.Index < kernel.AnyIndex || s.Index >= 1<<20 {
		return fmt.Errorf("attach %s: device %d: choose from 0 to %d", s.Volume, s.Index, 1<<20-1)
	}
	return nil
}

// openExclusively fails when a device, or a partition of it, is mounted or held by somebody exclusively.
func openExclusively(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|exclusive, 0)
	if err != nil {
		return err
	}
	return f.Close()
}
