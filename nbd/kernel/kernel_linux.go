package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Options say where things are. The zero value is right but in tests.
type Options struct {
	Sys string // where sysfs is; default /sys
	Dev string // where device nodes are; default /dev
	// Load loads the module when the kernel does not know the family. Default: LoadModule.
	Load func() error
}

// Kernel is the kernel's NBD client. It holds nothing open; its methods may be called from many goroutines.
type Kernel struct {
	Sysfs
	dev    string
	family uint16
	group  uint32
}

// Open finds the kernel's NBD client, and loads its module where need be.
func Open(o Options) (*Kernel, error) {
	if o.Dev == "" {
		o.Dev = "/dev"
	}
	if o.Load == nil {
		o.Load = LoadModule
	}
	f, err := netlink.GenlFamilyGet(familyName)
	if errors.Is(err, unix.ENOENT) {
		if err := o.Load(); err != nil {
			return nil, err
		}
		f, err = netlink.GenlFamilyGet(familyName)
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the netlink family %q: %w: %w", familyName, err, ErrUnsupported)
	}
	k := &Kernel{Sysfs: Sysfs{o.Sys}, dev: o.Dev, family: f.ID}
	for _, g := range f.Groups {
		if g.Name == groupName {
			k.group = g.ID
		}
	}
	return k, nil
}

// Path returns where the node of a device is.
func (k *Kernel) Path(index int) string { return filepath.Join(k.dev, "nbd"+strconv.Itoa(index)) }

// CheckNode reports whether a device can be opened by its path.
func (k *Kernel) CheckNode(index int) error {
	info, err := os.Stat(k.Path(index))
	if err != nil || info.Mode()&os.ModeDevice == 0 || info.Mode()&os.ModeCharDevice != 0 {
		return fmt.Errorf("nbd%d is set up but %s is no block device: mount devtmpfs on %s, or run udev", index, k.Path(index), k.dev)
	}
	return nil
}

// Connect makes a device that speaks to the peers of the sockets, and returns its index. The kernel keeps the sockets; the
// caller closes its own.
func (k *Kernel) Connect(c Config, sockets ...*os.File) (int, error) {
	if err := c.check(); err != nil {
		return 0, err
	}
	fds, err := numbers(sockets)
	if err != nil {
		return 0, err
	}
	if len(fds) == 0 {
		return 0, fmt.Errorf("set up an NBD device: no socket was given")
	}
	doing := "set up an NBD device"
	if c.Index != AnyIndex {
		doing = fmt.Sprintf("set up nbd%d", c.Index)
	}
	m, err := k.do(connectRequest(&c, fds))
	if err != nil {
		return 0, explain(doing, err)
	}
	if m.index < 0 {
		return 0, fmt.Errorf("%s: the kernel did not say which one it is", doing)
	}
	return m.index, nil
}

// Reconfigure changes a device and replaces those of its sockets that are dead by the new ones. It does not say whether it
// has: see [Taken].
func (k *Kernel) Reconfigure(index int, c Change, sockets ...*os.File) error {
	fds, err := numbers(sockets)
	if err != nil {
		return err
	}
	_, err = k.do(reconfigureRequest(index, &c, fds))
	return explain(fmt.Sprintf("reconfigure nbd%d", index), err)
}

// Disconnect takes a device down: what is under way fails. A device that is not set up stays as it is.
func (k *Kernel) Disconnect(index int) error {
	_, err := k.do(indexRequest(cmdDisconnect, index))
	if err == nil {
		k.scan(index)
	}
	return explain(fmt.Sprintf("disconnect nbd%d", index), err)
}

// scan has the kernel look for partitions, which it does when a device is opened: those of a device that was taken down would
// stay until somebody does. It is not worth failing for.
func (k *Kernel) scan(index int) {
	if f, err := os.OpenFile(k.Path(index), os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
		_ = f.Close()
	}
}

// Status returns what the driver says of all devices.
func (k *Kernel) Status() ([]State, error) {
	m, err := k.do(indexRequest(cmdStatus, AnyIndex))
	return m.devices, explain("ask for the NBD devices", err)
}

func numbers(sockets []*os.File) ([]int, error) {
	if len(sockets) > MaxSockets {
		return nil, fmt.Errorf("give an NBD device %d sockets: at most %d", len(sockets), MaxSockets)
	}
	var fds []int
	for _, s := range sockets {
		fds = append(fds, int(s.Fd()))
	}
	return fds, nil
}

// do sends a request, and returns the answer; a command without one is answered by an empty message.
func (k *Kernel) do(r *request) (message, error) {
	q := nl.NewNetlinkRequest(int(k.family), unix.NLM_F_ACK)
	q.AddData(&nl.Genlmsg{Command: r.command, Version: familyVersion})
	for _, a := range r.attrs {
		q.AddData(a)
	}
	answers, err := q.Execute(unix.NETLINK_GENERIC, k.family)
	if err != nil || len(answers) == 0 {
		return message{index: -1}, err
	}
	return parseMessage(answers[0])
}

// explain says what a user can do about an error of the driver.
func explain(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w: it needs the capability CAP_SYS_ADMIN: run the agent as root", doing, ErrPrivilege)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%s: %w: choose another index, or leave the choice to the kernel", doing, ErrBusy)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s: %w, or it is not set up, or by somebody else (the kernel's log says which)", doing, ErrNoDevice)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func isNoDevice(err error) bool { return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) }
