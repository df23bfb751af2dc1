package nbd_test

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"flotilla/nbd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const allFeatures = nbd.CanFlush | nbd.CanFUA | nbd.CanTrim | nbd.CanWriteZeroes | nbd.CanFastZero |
	nbd.CanCache | nbd.CanExtents | nbd.CanMultiConn

// memBlock is the granularity in which a memory export knows holes.
const memBlock = 4096

// memory is an export in memory. How it completes requests is up to mode.
type memory struct {
	info  nbd.Info
	mode  mode
	async sync.WaitGroup

	// hold, if not nil, may keep a request back (true): someone else
	// completes it with apply.
	hold func(*nbd.Request) bool

	flushes, fuas atomic.Int64

	mu    sync.RWMutex
	data  []byte
	holes []bool // of each memBlock
}

type mode int

const (
	inline mode = iota // on the goroutine that reads the connection
	worker             // on a worker
	async              // on a goroutine of the export
)

func newMemory(size int64, m mode) *memory {
	e := &memory{
		info:  nbd.Info{Size: size, Features: allFeatures, Description: "a test"},
		mode:  m,
		data:  make([]byte, size),
		holes: make([]bool, (size+memBlock-1)/memBlock),
	}
	for i := range e.holes {
		e.holes[i] = true
	}
	return e
}

func (e *memory) Info() nbd.Info { return e.info }

func (e *memory) Try(r *nbd.Request) bool {
	if e.hold != nil && e.hold(r) {
		return true
	}
	switch e.mode {
	case worker:
		return false
	case async:
		e.async.Go(func() { e.apply(r) })
	default:
		e.apply(r)
	}
	return true
}

func (e *memory) Serve(r *nbd.Request) { e.apply(r) }

// apply carries r out and completes it.
func (e *memory) apply(r *nbd.Request) {
	if r.FUA {
		e.fuas.Add(1)
	}
	switch r.Op {
	case nbd.OpRead:
		e.mu.RLock()
		copy(r.Data(), e.data[r.Offset:])
		e.mu.RUnlock()
	case nbd.OpWrite:
		e.mu.Lock()
		copy(e.data[r.Offset:], r.Data())
		for b := r.Offset / memBlock; b*memBlock < r.Offset+r.Length; b++ {
			e.holes[b] = false
		}
		e.mu.Unlock()
	case nbd.OpFlush:
		e.flushes.Add(1)
	case nbd.OpTrim, nbd.OpWriteZeroes:
		e.zero(r)
	case nbd.OpBlockStatus:
		e.mu.RLock()
		for at := r.Offset; ; {
			next := min((at/memBlock+1)*memBlock, e.info.Size)
			var flags nbd.ExtentFlags
			if e.holes[at/memBlock] {
				flags = nbd.ExtentHole | nbd.ExtentZero
			}
			if !r.AddExtent(next-at, flags) {
				break
			}
			at = next
		}
		e.mu.RUnlock()
	}
	r.Done(nil)
}

// snapshot returns a copy of the contents.
func (e *memory) snapshot() []byte {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return bytes.Clone(e.data)
}

func (e *memory) zero(r *nbd.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.data[r.Offset : r.Offset+r.Length])
	for b := (r.Offset + memBlock - 1) / memBlock; (b+1)*memBlock <= r.Offset+r.Length; b++ {
		e.holes[b] = !r.NoHole
	}
}

// running is a server with one export on a Unix socket.
type running struct {
	*nbd.Server
	socket string
	stop   func() error // ends Serve and returns its error
}

func (s *running) uri() string { return "nbd+unix:///?socket=" + s.socket }

func start(t testing.TB, limits nbd.Limits, exports map[string]nbd.Export) *running {
	t.Helper()
	srv, err := nbd.New(nbd.Options{Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range exports {
		if err := srv.AddExport(name, e); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, l) }()
	var once sync.Once
	var result error
	r := &running{Server: srv, socket: socket, stop: func() error {
		once.Do(func() { cancel(); result = <-served })
		return result
	}}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
		if n := srv.Stats().BufferBytes; n != 0 {
			t.Errorf("%d bytes of buffers are still in use", n)
		}
		for _, e := range exports {
			if m, ok := e.(*memory); ok {
				m.async.Wait()
			}
		}
	})
	return r
}

func one(e nbd.Export) map[string]nbd.Export { return map[string]nbd.Export{"disk": e} }

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("still waiting for: %s", what)
		}
	}
}
