package kernel

import (
	"errors"
	"fmt"
	"time"
)

// AnyIndex leaves the choice of the device to the kernel.
const AnyIndex = -1

// MaxSockets is the most sockets that one device is given.
const MaxSockets = 8

// Client flags.
const (
	// DestroyOnDisconnect removes /dev/nbdX when it is disconnected; devices that the module made at its start stay otherwise.
	DestroyOnDisconnect ClientFlags = 1 << iota
	// DisconnectOnClose disconnects when the last user closes the device.
	DisconnectOnClose
)

// ClientFlags change what the driver does with a device.
type ClientFlags uint64

// Config describes a device to be made.
type Config struct {
	Index       int    // the X of /dev/nbdX, or AnyIndex
	Size        int64  // bytes, a multiple of BlockSize
	BlockSize   int    // bytes, a power of two from 512 to the page size
	ServerFlags uint16 // transmission flags, see nbd.Info.TransmissionFlags
	ClientFlags ClientFlags
	// Timeout is after how long without an answer a request is sent again, in whole seconds. It must be at least 1 s: with
	// none, requests that a dead server has taken would wait for ever.
	Timeout time.Duration
	// DeadTimeout is how long I/O waits for a new socket before it fails, in whole seconds; 0 does not wait at all.
	DeadTimeout time.Duration
	// Identifier is found in /sys/block/nbdX/backend, by which the device is known again; from Linux 5.14 on.
	Identifier string
}

var (
	// ErrUnsupported is wrapped where this system has no NBD client at all.
	ErrUnsupported = errors.New("no NBD client in the kernel")
	// ErrPrivilege is wrapped when the process may not attach devices.
	ErrPrivilege = errors.New("not permitted")
	// ErrBusy is wrapped when the device asked for is in use.
	ErrBusy = errors.New("device is in use")
	// ErrNoDevice is wrapped when there is no such device.
	ErrNoDevice = errors.New("no such device")
	// ErrNotTaken is returned when the kernel has not taken a new socket, because it believes the old one to be alive.
	ErrNotTaken = errors.New("the kernel still holds the old socket")
)

// maxIdentifier bounds an identifier: sysfs shows at most a page.
const maxIdentifier = 1024

func (c *Config) check() error {
	switch {
	case c.Index < AnyIndex || c.Index >= 1<<20:
		return fmt.Errorf("check NBD device: index %d: choose from 0 to %d", c.Index, 1<<20-1)
	case c.BlockSize < 512 || c.BlockSize > 1<<16 || c.BlockSize&(c.BlockSize-1) != 0:
		return fmt.Errorf("check NBD device: block size %d is not a power of two from 512 on", c.BlockSize)
	case c.Size <= 0 || c.Size%int64(c.BlockSize) != 0:
		return fmt.Errorf("check NBD device: size %d is no multiple of the block size %d", c.Size, c.BlockSize)
	case c.Timeout < time.Second || c.Timeout%time.Second != 0:
		return fmt.Errorf("check NBD device: time-out %v: give whole seconds, at least one", c.Timeout)
	case c.DeadTimeout < 0 || c.DeadTimeout%time.Second != 0:
		return fmt.Errorf("check NBD device: dead-connection time-out %v: give whole seconds", c.DeadTimeout)
	case len(c.Identifier) > maxIdentifier:
		return fmt.Errorf("check NBD device: identifier of %d bytes is longer than %d", len(c.Identifier), maxIdentifier)
	}
	return nil
}

// Change is what Reconfigure changes of a device. Zero fields leave what is.
type Change struct {
	Size        int64 // bytes
	BlockSize   int   // bytes
	Timeout     time.Duration
	DeadTimeout time.Duration
	Identifier  string // must be the device's own, if it has one
}

// State is what the driver says of one device.
type State struct {
	Index     int
	Connected bool // it is set up; its sockets may be dead all the same
}
