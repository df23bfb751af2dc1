package nbd

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stream is the connection under the server. For sockets it makes the vectored
// system calls itself, so that a payload and the next request come in with one
// call and many replies leave with one. Other connections (pipes, TLS) go
// through Read and Write.
//
// One goroutine reads and one writes at a time.
type stream struct {
	nc    net.Conn
	raw   syscall.RawConn // nil: not a socket
	stall time.Duration   // how long a blocked write may make no progress; 0: forever

	// State of the read and the write under way: RawConn wants a function, and
	// one made once does not allocate.
	readFn, writeFn   func(fd uintptr) bool
	readIov, writeIov []unix.Iovec
	readN, writeN     int
	readErr, writeErr error
	onBlock           func() // called when a read is about to wait
}

// maxIov is the number of pieces the kernel takes in one call (UIO_MAXIOV).
const maxIov = 1024

func newStream(nc net.Conn, stall time.Duration) *stream {
	s := &stream{nc: nc, stall: stall}
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			s.raw = raw
		}
	}
	s.readFn = s.tryRead
	s.writeFn = s.tryWrite
	return s
}

// readv reads at least one byte into first and, once that is full, second.
// first must not be empty.
func (s *stream) readv(first, second []byte) (int, error) {
	if s.raw == nil {
		s.blocked()
		return s.nc.Read(first)
	}
	s.readIov = appendIov(s.readIov[:0], first)
	if len(second) > 0 {
		s.readIov = appendIov(s.readIov, second)
	}
	err := s.raw.Read(s.readFn)
	switch {
	case err != nil:
		return 0, err
	case s.readErr != nil:
		return 0, s.readErr
	case s.readN == 0:
		return 0, io.EOF
	}
	return s.readN, nil
}

func (s *stream) tryRead(fd uintptr) bool {
	n, err := vectored(unix.SYS_READV, fd, s.readIov)
	if err == unix.EAGAIN {
		s.blocked()
		return false
	}
	s.readN, s.readErr = n, sysError("readv", err)
	return true
}

func (s *stream) blocked() {
	if s.onBlock != nil {
		s.onBlock()
	}
}

// writev writes all of the pieces. It fails with os.ErrDeadlineExceeded when
// the peer takes nothing for the stall time.
func (s *stream) writev(pieces [][]byte) error {
	if s.raw == nil {
		if s.stall > 0 {
			_ = s.nc.SetWriteDeadline(time.Now().Add(s.stall))
		}
		for _, p := range pieces {
			if _, err := s.nc.Write(p); err != nil {
				return err
			}
		}
		return nil
	}
	for len(pieces) > 0 {
		s.writeIov = s.writeIov[:0]
		total := 0
		for len(pieces) > 0 && len(s.writeIov) < maxIov {
			if len(pieces[0]) > 0 {
				s.writeIov = appendIov(s.writeIov, pieces[0])
				total += len(pieces[0])
			}
			pieces = pieces[1:]
		}
		iov := s.writeIov
		for total > 0 {
			if err := s.raw.Write(s.writeFn); err != nil {
				return err
			}
			if s.writeErr != nil {
				return s.writeErr
			}
			total -= s.writeN
			s.writeIov = advance(s.writeIov, s.writeN)
		}
		s.writeIov = iov
	}
	return nil
}

func (s *stream) tryWrite(fd uintptr) bool {
	n, err := vectored(unix.SYS_WRITEV, fd, s.writeIov)
	if err == unix.EAGAIN {
		if s.stall > 0 { // each wait has its own deadline: what counts is progress
			_ = s.nc.SetWriteDeadline(time.Now().Add(s.stall))
		}
		return false
	}
	s.writeN, s.writeErr = n, sysError("writev", err)
	return true
}

// stopReads makes the read under way and all later ones fail with
// os.ErrDeadlineExceeded.
func (s *stream) stopReads() { _ = s.nc.SetReadDeadline(time.Unix(1, 0)) }

func sysError(call string, err syscall.Errno) error {
	if err == 0 {
		return nil
	}
	return os.NewSyscallError(call, err)
}

// vectored makes one readv or writev call; err is 0 on success.
func vectored(trap, fd uintptr, iov []unix.Iovec) (int, syscall.Errno) {
	for {
		n, _, err := syscall.Syscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)))
		switch err {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, err
		}
	}
}

func appendIov(iov []unix.Iovec, p []byte) []unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(p)}
	v.SetLen(len(p))
	return append(iov, v)
}

// advance drops the first n bytes of what iov describes.
func advance(iov []unix.Iovec, n int) []unix.Iovec {
	for n > 0 {
		if l := int(iov[0].Len); n >= l {
			iov, n = iov[1:], n-l
			continue
		}
		iov[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(iov[0].Base), n))
		iov[0].SetLen(int(iov[0].Len) - n)
		n = 0
	}
	return iov
}

// isHangup reports whether err only says that the peer or the server has
// closed the connection.
func isHangup(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
