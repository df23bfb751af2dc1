package kernel

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Links tells which devices have lost a socket, as the driver announces it.
type Links struct {
	file *os.File
	dead chan int
	done sync.WaitGroup
}

// WatchLinks begins to listen. Announcements that nobody takes are dropped: what counts is that somebody looks again.
func (k *Kernel) WatchLinks() (*Links, error) {
	if k.group == 0 {
		return nil, fmt.Errorf("listen to the NBD driver: this kernel has no multicast group %s: %w", groupName, ErrUnsupported)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("listen to the NBD driver: %w", os.NewSyscallError("socket", err))
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(k.group))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen to the NBD driver: join multicast group %d: %w", k.group, err), unix.Close(fd))
	}
	l := &Links{file: os.NewFile(uintptr(fd), "nbd links"), dead: make(chan int, 64)}
	l.done.Go(func() { l.read(k.family) })
	return l, nil
}

// Dead delivers the index of a device when one of its sockets is dead. It is closed by Close, and when listening fails.
func (l *Links) Dead() <-chan int { return l.dead }

// Close ends the listening.
func (l *Links) Close() error {
	err := l.file.Close()
	l.done.Wait()
	return err
}

func (l *Links) read(family uint16) {
	defer close(l.dead)
	buf := make([]byte, 64<<10)
	for {
		n, err := l.file.Read(buf)
		if errors.Is(err, unix.ENOBUFS) {
			continue // some were lost
		}
		if err != nil {
			return
		}
		for _, i := range deadIndices(buf[:n], family) {
			select {
			case l.dead <- i:
			default:
			}
		}
	}
}

// deadIndices returns the devices of which LINK_DEAD messages speak. What is something else, or malformed, is passed over.
func deadIndices(b []byte, family uint16) []int {
	var out []int
	for len(b) >= unix.NLMSG_HDRLEN {
		e := nl.NativeEndian()
		n, kind := int(e.Uint32(b)), e.Uint16(b[4:])
		if n < unix.NLMSG_HDRLEN || n > len(b) {
			return out
		}
		if kind == family {
			if m, err := parseMessage(b[unix.NLMSG_HDRLEN:n]); err == nil && m.command == cmdLinkDead && m.index >= 0 {
				out = append(out, m.index)
			}
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return out
}
