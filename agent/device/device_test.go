//go:build linux

package device

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"flotilla/nbd"
	"flotilla/nbd/kernel"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a kernel with devices that live on when their server ends. It keeps the driver's rule that a socket is replaced only
// when it is dead, and says nothing otherwise.
type fake struct {
	t   *testing.T
	dir string

	mu      sync.Mutex
	devices map[int]*fakeDevice
	refused int   // sockets that were not taken
	unfit   error // what a new size alone fails with
	noNode  error // of CheckNode
}

type fakeDevice struct {
	identifier string
	size       int64
	sock       *net.UnixConn
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, dir: t.TempDir(), devices: map[int]*fakeDevice{}}
	t.Cleanup(func() {
		for i := range f.devices {
			_ = f.Disconnect(i)
		}
	})
	return f
}

func hold(f *os.File) *net.UnixConn {
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		panic(err)
	}
	c, err := kernel.FileConn(os.NewFile(uintptr(fd), "kernel"))
	if err != nil {
		panic(err)
	}
	return c
}

func (f *fake) Find(id string) (kernel.Device, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, d := range f.devices {
		if d.identifier == id {
			return kernel.Device{Index: i, Identifier: id, Size: d.size}, true, nil
		}
	}
	return kernel.Device{}, false, nil
}

func (f *fake) Connect(c kernel.Config, sockets ...*os.File) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := c.Index
	for i == kernel.AnyIndex || (f.devices[i] != nil && c.Index == kernel.AnyIndex) {
		i++
	}
	if f.devices[i] != nil {
		return 0, kernel.ErrBusy
	}
	f.devices[i] = &fakeDevice{c.Identifier, c.Size, hold(sockets[0])}
	return i, os.WriteFile(f.Path(i), nil, 0o600)
}

func (f *fake) Reconfigure(i int, c kernel.Change, sockets ...*os.File) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.devices[i]
	if d == nil || d.identifier != c.Identifier {
		return kernel.ErrNoDevice
	}
	if len(sockets) == 0 && f.unfit != nil {
		return f.unfit
	}
	if d.size = c.Size; len(sockets) == 0 {
		return nil
	}
	if alive, err := kernel.Taken(d.sock); err != nil || alive {
		f.refused++
		return err
	}
	_ = d.sock.Close()
	d.sock = hold(sockets[0])
	return nil
}

func (f *fake) Disconnect(i int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.devices[i]; d != nil {
		_ = d.sock.Close()
		delete(f.devices, i)
	}
	return nil
}

func (f *fake) Tune(int) error               { return nil }
func (f *fake) Missing(int, uint16) []string { return []string{"write-zeroes"} }
func (f *fake) Path(i int) string            { return filepath.Join(f.dir, fmt.Sprintf("nbd%d", i)) }
func (f *fake) CheckNode(int) error          { return f.noNode }

// read reads a block as the kernel does, on whatever socket the device has; it sends again when that ends.
func (f *fake) read(i int) []byte {
	f.t.Helper()
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(time.Millisecond) {
		f.mu.Lock()
		d := f.devices[i]
		f.mu.Unlock()
		if d == nil {
			continue
		}
		q := make([]byte, 28)
		binary.BigEndian.PutUint32(q, 0x25609513)
		binary.BigEndian.PutUint64(q[8:], 9)
		binary.BigEndian.PutUint32(q[24:], 512)
		reply := make([]byte, 16+512)
		_, err := d.sock.Write(q)
		if err == nil {
			_, err = io.ReadFull(d.sock, reply)
		}
		if err == nil {
			if code := binary.BigEndian.Uint32(reply[4:]); code != 0 {
				f.t.Fatalf("the device had error %d", code)
			}
			return reply[16:]
		}
	}
	f.t.Fatal("the device's read was not answered")
	return nil
}

// disk is a device whose first byte is itself.
type disk byte

func (d disk) ReadAt(p []byte, _ int64) (int, error)  { p[0] = byte(d); return len(p), nil }
func (d disk) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (d disk) Sync() error                            { return nil }

func export(d disk, size int64) nbd.Export { return nbd.NewDeviceExport(d, nbd.Info{Size: size}, 0) }

type run struct {
	*Manager
	links string
}

func start(t *testing.T, f *fake, dir string, change func(*Options)) *run {
	t.Helper()
	srv, err := nbd.New(nbd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Server: srv, File: filepath.Join(dir, "devices.json"), Identity: "c.1", Links: filepath.Join(dir, "links"),
		Open: func() (Driver, error) { return f, nil }, InUse: func(string) error { return nil }, Retry: time.Millisecond,
	}
	if change != nil {
		change(&o)
	}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return &run{m, o.Links}
}

func want(t *testing.T, f *fake, first byte) {
	t.Helper()
	if got := f.read(0)[0]; got != first {
		t.Fatalf("the device reads %d, want %d", got, first)
	}
}

func TestDeviceOutlivesItsAgent(t *testing.T) {
	f, dir := newFake(t), t.TempDir()
	m := start(t, f, dir, nil)
	m.Offer("db/data", export(1, 4096))
	i, err := m.Attach(Spec{Volume: "db/data", Index: kernel.AnyIndex})
	if err != nil {
		t.Fatal(err)
	}
	wantInfo := Info{
		Spec:   Spec{"db/data", kernel.AnyIndex, DefaultTimeout, DefaultDeadTimeout},
		Device: f.Path(0), Link: filepath.Join(m.links, "db/data"), Lacks: []string{"write-zeroes"}, Served: i.Served,
	}
	if diff := cmp.Diff(wantInfo, i); diff != "" {
		t.Error(diff)
	}
	if to, err := os.Readlink(i.Link); to != f.Path(0) || err != nil {
		t.Errorf("the stable name leads to %q, %v", to, err)
	}
	want(t, f, 1)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if len(f.devices) != 1 {
		t.Fatal("the device has gone with its agent")
	}

	m = start(t, f, dir, nil) // the next agent: it serves as soon as the volume is open
	if l := m.List(); len(l) != 1 || l[0].Served || l[0].Error == "" {
		t.Errorf("before the volume is open: %+v", l)
	}
	m.Offer("db/data", export(2, 8192))
	want(t, f, 2)
	if f.devices[0].size != 8192 {
		t.Error("the device does not have the volume's new size")
	}
	m.Withdraw("db/data") // the volume closes, say because its group was changed, and opens again
	m.Offer("db/data", export(3, 8192))
	want(t, f, 3)

	if err := m.Detach("db/data", false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(i.Link); len(f.devices) != 0 || !os.IsNotExist(err) {
		t.Error("something remains of the device", err)
	}
	_ = m.Close()
	if l := start(t, f, dir, nil).List(); len(l) != 0 {
		t.Errorf("a detached device has come back: %+v", l)
	}
}

// What is refused is not attached, now or after a restart.
func TestRefusedAttachLeavesNothing(t *testing.T) {
	f, dir := newFake(t), t.TempDir()
	f.noNode = errors.New("there is no node")
	m := start(t, f, dir, nil)
	m.Offer("db/data", export(1, 4096))
	if _, err := m.Attach(Spec{Volume: "db/data", Index: kernel.AnyIndex}); !errors.Is(err, f.noNode) {
		t.Fatalf("attach: %v", err)
	}
	if len(f.devices) != 0 {
		t.Errorf("%d devices are set up", len(f.devices))
	}
	_ = m.Close()
	if l := start(t, f, dir, nil).List(); len(l) != 0 {
		t.Errorf("it is attached after a restart: %+v", l)
	}
}

// The old agent's socket lives on for a while: its process is slow to die. A new socket is not taken before.
func TestSocketIsHandedOverUntilItIsTaken(t *testing.T) {
	f, dir := newFake(t), t.TempDir()
	old, theirs, err := kernel.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Connect(kernel.Config{Index: 0, Size: 4096, Identifier: "flotilla:c.1:db/data"}, theirs); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	if err := writeSpecs(filepath.Join(dir, "devices.json"), []Spec{{"db/data", kernel.AnyIndex, time.Second, time.Second}}); err != nil {
		t.Fatal(err)
	}
	m := start(t, f, dir, nil)
	m.Offer("db/data", export(4, 4096))
	for refused := 0; refused < 3; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		refused = f.refused
		f.mu.Unlock()
	}
	if l := m.List(); l[0].Served || !strings.Contains(l[0].Error, kernel.ErrNotTaken.Error()) {
		t.Errorf("while the old socket lives: %+v", l[0])
	}
	_ = old.Close()
	want(t, f, 4)
}

// After a reboot there is no device: it is made again.
func TestDeviceIsMadeAgainAfterAReboot(t *testing.T) {
	f, dir := newFake(t), t.TempDir()
	m := start(t, f, dir, nil)
	m.Offer("db/data", export(1, 4096))
	if _, err := m.Attach(Spec{Volume: "db/data", Index: 0}); err != nil {
		t.Fatal(err)
	}
	_ = m.Close()
	_ = f.Disconnect(0)
	m = start(t, f, dir, nil)
	m.Offer("db/data", export(5, 4096))
	want(t, f, 5)
}

// kept is a Keeper of the test's process.
type kept map[string]*os.File

func (k kept) Take(name string) *os.File { f := k[name]; delete(k, name); return f }
func (k kept) Keep(name string, f *os.File) error {
	fd, err := unix.Dup(int(f.Fd()))
	k[name] = os.NewFile(uintptr(fd), name)
	return err
}

// With a keeper the very socket goes to the next agent, with what waits in it.
func TestSocketIsKeptForTheNextAgent(t *testing.T) {
	f, dir, k := newFake(t), t.TempDir(), kept{}
	keep := func(o *Options) { o.Keeper = k }
	m := start(t, f, dir, keep)
	m.Offer("db/data", export(1, 4096))
	if _, err := m.Attach(Spec{Volume: "db/data", Index: 0}); err != nil {
		t.Fatal(err)
	}
	want(t, f, 1)
	sock := f.devices[0].sock
	_ = m.Close()
	if len(k) != 1 {
		t.Fatal("no socket was kept")
	}
	m = start(t, f, dir, keep)
	m.Offer("db/data", export(2, 4096))
	want(t, f, 2)
	if f.devices[0].sock != sock || f.refused != 0 {
		t.Error("the device was given another socket")
	}
}

func TestRefusals(t *testing.T) {
	f, dir := newFake(t), t.TempDir()
	busy := errors.New("mounted")
	m := start(t, f, dir, func(o *Options) { o.InUse = func(string) error { return busy } })
	attach := func(s Spec) error { _, err := m.Attach(s); return err }
	m.Offer("db/data", export(1, 4096))
	m.Offer("db/odd", export(1, 1000))
	for want, err := range map[string]error{
		"volume is not served here": attach(Spec{Volume: "db/none"}),
		"time-out 1.5s":             attach(Spec{Volume: "db/data", Timeout: 1500 * time.Millisecond}),
		"device -2":                 attach(Spec{Volume: "db/data", Index: -2}),
		"no multiple of 512":        attach(Spec{Volume: "db/odd", Index: 0}),
		"not attached":              m.Detach("db/data", false),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	if err := attach(Spec{Volume: "db/data", Index: 0}); err != nil {
		t.Fatal(err)
	}
	if err := attach(Spec{Volume: "db/data", Index: 1}); !errors.Is(err, ErrAttached) {
		t.Error(err)
	}
	if err := m.Detach("db/data", false); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "--force") {
		t.Error(err)
	}
	want(t, f, 1) // a refused detach leaves it as it was
	if err := m.Detach("db/data", true); err != nil {
		t.Error(err)
	}
}

func TestFileThatIsDamaged(t *testing.T) {
	for want, text := range map[string]string{
		"repair it":   "{",
		"version 2":   `{"version": 2, "devices": []}`,
		"time-out 0s": `{"version": 1, "devices": [{"volume": "a/b"}]}`,
	} {
		path := filepath.Join(t.TempDir(), "devices.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readSpecs(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}
