package kernel

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// socketBuffer is what each socket of a pair holds on its way, in bytes: some of the largest requests or answers, so that who
// sends one need not wait until it is read in pieces.
const socketBuffer = 1 << 20

// SocketPair returns two connected sockets: one for the server, one for the kernel, to be closed once the kernel has it.
func SocketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", os.NewSyscallError("socketpair", err))
	}
	for _, fd := range fds {
		// Who may not have more than the system's limit has that.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
		}
	}
	theirs = os.NewFile(uintptr(fds[1]), "nbd")
	ours, err = FileConn(os.NewFile(uintptr(fds[0]), "nbd"))
	if err != nil {
		_ = theirs.Close() // the other error says it all
		return nil, nil, err
	}
	return ours, theirs, nil
}

// FileConn makes a connection of a file that is a socket, and closes the file.
func FileConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("use a socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("use a socket: it is a %T, not a Unix one", c)
	}
	return u, nil
}

// Taken reports whether anybody, and so the kernel, holds the other end of a pair. It is asked after the caller has closed
// that end: when the kernel has not taken it, that was the last one.
func Taken(ours *net.UnixConn) (bool, error) {
	raw, err := ours.SyscallConn()
	if err != nil {
		return false, err
	}
	var events int16
	var perr error
	if err := raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		for {
			if _, perr = unix.Poll(p, 0); perr != unix.EINTR {
				break
			}
		}
		events = p[0].Revents
	}); err != nil {
		return false, err
	}
	if perr != nil {
		return false, os.NewSyscallError("poll", perr)
	}
	return events&(unix.POLLHUP|unix.POLLRDHUP|unix.POLLERR) == 0, nil
}
