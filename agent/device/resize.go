package device

import (
	"fmt"
	"time"

	"flotilla/nbd"
	"flotilla/nbd/kernel"
)

// Resized tells that an export has become larger. Its device, if it has one, becomes so without anybody noticing but those
// who want to: the kernel tells of it by a uevent.
func (m *Manager) Resized(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.done.Go(func() { m.resized(name) })
	}
}

// resized tries until the kernel has the size, or there is nothing to be resized any more.
func (m *Manager) resized(name string) {
	m.turn.Lock() // after an attach that may have seen the old size
	m.mu.Lock()
	a, e := m.attached[name], m.exports[name]
	m.mu.Unlock()
	m.turn.Unlock()
	if a == nil || e == nil {
		return
	}
	for pause, told := m.opt.Retry, false; ; pause = min(2*pause, 100*m.opt.Retry) {
		err := a.fit(e)
		if err == nil {
			return
		}
		if !told {
			told = true
			m.opt.Logger.Warn("a device keeps its old size for now", "volume", name, "error", err)
			m.opt.Events("device.not-resized", name, "error", err.Error())
		}
		select {
		case <-a.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// fit gives the kernel's device the size of the export.
func (a *attachment) fit(e nbd.Export) error {
	d, dev, there, err := a.find()
	if err != nil || !there {
		return err // one that is not there gets its size when it is made
	}
	a.sizing.Lock()
	defer a.sizing.Unlock()
	info := e.Info()
	if dev.Size == info.Size {
		return nil
	}
	if _, err := blockOf(a.spec.Volume, &info); err != nil {
		return err
	}
	if err := d.Reconfigure(dev.Index, kernel.Change{Size: info.Size, Identifier: a.m.identifier(a.spec.Volume)}); err != nil {
		return err
	}
	a.m.opt.Events("device.resized", a.spec.Volume, "device", d.Path(dev.Index), "size", info.Size)
	return nil
}

// blockOf returns the block size of a device for an export, whose size must be a multiple of it.
func blockOf(volume string, info *nbd.Info) (int64, error) {
	block := int64(max(512, info.MinBlock))
	if info.Size%block != 0 {
		return 0, fmt.Errorf("volume %s has %d bytes, which is no multiple of %d: the kernel wants whole blocks", volume, info.Size, block)
	}
	return block, nil
}
