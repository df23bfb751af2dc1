package device

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"flotilla/nbd"
	"flotilla/nbd/kernel"
)

// attachment is one device of the kernel's, and the goroutine that serves it.
type attachment struct {
	m      *Manager
	spec   Spec
	ctx    context.Context // ends with a detach, or the manager
	cancel context.CancelFunc
	ended  chan struct{}

	// sizing is held over system calls, from the look at an export's size until the kernel has it: it only rises.
	sizing sync.Mutex

	mu       sync.Mutex
	export   nbd.Export
	offered  chan struct{}      // closed while there is an export
	stop     context.CancelFunc // ends the serving of export; nil while there is none
	idle     chan struct{}      // closed while nothing is served
	serving  context.Context
	at       int // index, -1 while not known
	device   string
	lacks    []string
	err      error
	isServed bool
}

func newAttachment(m *Manager, s Spec) *attachment {
	a := &attachment{m: m, spec: s, ended: make(chan struct{}), offered: make(chan struct{}), idle: make(chan struct{}), at: -1}
	close(a.idle)
	a.ctx, a.cancel = context.WithCancel(m.ctx)
	return a
}

func (a *attachment) linkPath() string {
	return filepath.Join(a.m.opt.Links, filepath.FromSlash(a.spec.Volume))
}

func (a *attachment) info() Info {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := Info{Spec: a.spec, Device: a.device, Link: a.linkPath(), Served: a.isServed, Lacks: a.lacks}
	switch {
	case a.err != nil:
		i.Error = a.err.Error()
	case a.export == nil:
		i.Error = ErrNotOffered.Error()
	}
	return i
}

func (a *attachment) index() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.at
}

// setExport begins to serve an export, nil for none.
func (a *attachment) setExport(e nbd.Export) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e == nil || a.export != nil {
		return
	}
	a.export = e
	a.serving, a.stop = context.WithCancel(a.ctx)
	close(a.offered)
}

// withdraw ends the serving of the export and waits for what is under way.
func (a *attachment) withdraw() {
	a.mu.Lock()
	if a.export == nil {
		a.mu.Unlock()
		return
	}
	a.stop()
	a.export, a.stop = nil, nil
	a.offered = make(chan struct{})
	idle := a.idle
	a.mu.Unlock()
	<-idle
}

// current waits for an export. While it is served, idle is open.
func (a *attachment) current() (e nbd.Export, serving context.Context, ok bool) {
	for {
		a.mu.Lock()
		if a.export != nil && a.ctx.Err() == nil {
			a.idle = make(chan struct{})
			e, serving = a.export, a.serving
			a.mu.Unlock()
			return e, serving, true
		}
		offered := a.offered
		a.mu.Unlock()
		select {
		case <-a.ctx.Done():
			return nil, nil, false
		case <-offered:
		}
	}
}

func (a *attachment) setState(served bool, err error) {
	a.mu.Lock()
	changed := err != nil && (a.err == nil || a.err.Error() != err.Error())
	a.isServed, a.err = served, err
	a.mu.Unlock()
	if changed {
		a.m.opt.Logger.Warn("a device is not served", "volume", a.spec.Volume, "error", err)
		a.m.opt.Events("device.unavailable", a.spec.Volume, "error", err.Error())
	}
}

// run serves the device until the attachment ends. conn is its first socket, nil when there is none yet.
func (a *attachment) run(conn *net.UnixConn) {
	defer close(a.ended)
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	kept := false
	if conn == nil {
		conn = a.takeKept()
		kept = conn != nil
	}
	pause := a.m.opt.Retry
	for {
		e, serving, ok := a.current()
		if !ok {
			return
		}
		var err error
		switch {
		case conn == nil:
			conn, err = a.again(e)
		case kept: // the agent before may have ended before it could say that the volume has grown
			if err := a.fit(e); err != nil {
				a.m.opt.Logger.Warn("a device keeps its old size", "volume", a.spec.Volume, "error", err)
			}
		}
		kept = false
		if err == nil {
			pause = a.m.opt.Retry
			a.setState(true, nil)
			err = a.serve(serving, conn, e)
			conn = nil
			a.setState(false, nil)
		} else {
			a.setState(false, err)
		}
		a.mu.Lock()
		close(a.idle)
		a.mu.Unlock()
		if a.ctx.Err() != nil {
			return
		}
		if err != nil {
			select {
			case <-a.ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, 100*a.m.opt.Retry)
		}
	}
}

// serve answers what comes over the socket until it ends.
func (a *attachment) serve(ctx context.Context, conn *net.UnixConn, e nbd.Export) error {
	parked, err := a.m.opt.Server.ServeResumable(ctx, conn, e)
	if parked == nil {
		return err
	}
	defer parked.Close()
	if a.m.ctx.Err() == nil || a.m.opt.Keeper == nil {
		return err
	}
	if kerr := a.m.opt.Keeper.Keep(keptName(a.spec.Volume), parked); kerr != nil {
		a.m.opt.Logger.Warn("a device's socket is not kept for the next agent: its I/O waits for the time-out", "volume", a.spec.Volume, "error", kerr)
	}
	return err
}

func keptName(volume string) string { return "device=" + volume }

// takeKept returns the socket that the agent before has left, nil if it has left none that is of use.
func (a *attachment) takeKept() *net.UnixConn {
	if a.m.opt.Keeper == nil {
		return nil
	}
	f := a.m.opt.Keeper.Take(keptName(a.spec.Volume))
	if f == nil {
		return nil
	}
	conn, err := kernel.FileConn(f)
	if err != nil {
		return nil
	}
	d, dev, there, err := a.find()
	alive := false
	if err == nil && there {
		alive, err = kernel.Taken(conn)
	}
	if err != nil || !alive {
		_ = conn.Close() // the device was disconnected, or is of before a reboot
		return nil
	}
	a.settle(d, dev.Index)
	return conn
}

func (a *attachment) find() (d Driver, dev kernel.Device, there bool, err error) {
	a.m.turn.Lock()
	d, err = a.m.open()
	a.m.turn.Unlock()
	if err == nil {
		dev, there, err = d.Find(a.m.identifier(a.spec.Volume))
	}
	return d, dev, there, err
}

// again gets the kernel a new socket.
func (a *attachment) again(e nbd.Export) (*net.UnixConn, error) {
	a.m.turn.Lock()
	d, err := a.m.open()
	a.m.turn.Unlock()
	if err != nil {
		return nil, err
	}
	return a.link(d, e)
}

// link gives the kernel a socket: for the device with the volume's identifier, or for a new one.
func (a *attachment) link(d Driver, e nbd.Export) (conn *net.UnixConn, err error) {
	a.sizing.Lock()
	defer a.sizing.Unlock()
	info := e.Info()
	block, err := blockOf(a.spec.Volume, &info)
	if err != nil {
		return nil, err
	}
	id := a.m.identifier(a.spec.Volume)
	dev, there, err := d.Find(id)
	if err != nil {
		return nil, err
	}
	ours, theirs, err := kernel.SocketPair()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = ours.Close()
		}
	}()
	index := dev.Index
	if there {
		err = d.Reconfigure(index, kernel.Change{
			Size: info.Size, Timeout: a.spec.Timeout, DeadTimeout: a.spec.DeadTimeout, Identifier: id,
		}, theirs)
	} else {
		index, err = d.Connect(kernel.Config{
			Index: a.spec.Index, Size: info.Size, BlockSize: int(block), ServerFlags: info.TransmissionFlags(),
			Timeout: a.spec.Timeout, DeadTimeout: a.spec.DeadTimeout, Identifier: id,
		}, theirs)
	}
	err = errors.Join(err, theirs.Close())
	if err != nil {
		return nil, err
	}
	taken, err := kernel.Taken(ours)
	if err != nil {
		return nil, err
	}
	if !taken {
		return nil, fmt.Errorf("give nbd%d a new socket: %w", index, kernel.ErrNotTaken)
	}
	a.settle(d, index)
	a.mu.Lock()
	a.lacks = d.Missing(index, info.TransmissionFlags())
	a.mu.Unlock()
	return ours, nil
}

// settle notes which device it is, makes its queue's settings and its stable name. Neither is worth failing for.
func (a *attachment) settle(d Driver, index int) {
	a.mu.Lock()
	a.at, a.device = index, d.Path(index)
	a.mu.Unlock()
	if err := d.Tune(index); err != nil {
		a.m.opt.Logger.Info("a device keeps some of its queue's settings", "volume", a.spec.Volume, "error", err)
	}
	if err := makeLink(a.linkPath(), d.Path(index)); err != nil {
		a.m.opt.Logger.Warn("a device has no stable name", "volume", a.spec.Volume, "error", err)
	}
}

// unlink removes the stable name, if it is that of this device.
func (a *attachment) unlink() error {
	a.mu.Lock()
	device := a.device
	a.mu.Unlock()
	path := a.linkPath()
	if to, err := os.Readlink(path); err != nil || to != device {
		return nil // gone, or another's
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the stable name of a device: %w", err)
	}
	_ = os.Remove(filepath.Dir(path)) // the group's directory, if it was its last
	return nil
}
