package nbd

import (
	"errors"
	"io"
	"syscall"

	"flotilla/nbd/internal/proto"
)

// Errno is an error value of the NBD protocol. An Export may complete a
// request with one, wrapped or not, to choose what the client sees.
type Errno = proto.Errno

// The error values of the protocol.
const (
	EPERM     = proto.EPERM
	EIO       = proto.EIO
	ENOMEM    = proto.ENOMEM
	EINVAL    = proto.EINVAL
	ENOSPC    = proto.ENOSPC
	EOVERFLOW = proto.EOVERFLOW
	ENOTSUP   = proto.ENOTSUP
	ESHUTDOWN = proto.ESHUTDOWN
)

// errnoOf maps the error with which an export completed a request to the
// value sent to the client. fastZero allows ENOTSUP, which the protocol
// reserves for write-zeroes requests that had to be fast.
func errnoOf(err error, fastZero bool) Errno {
	if err == nil {
		return 0
	}
	code := EIO
	var own Errno
	var sys syscall.Errno
	switch {
	case errors.As(err, &own):
		code = own
	case errors.As(err, &sys):
		code = errnoOfSystem(sys)
	case errors.Is(err, io.ErrShortWrite):
		code = ENOSPC
	}
	switch {
	case code == 0: // an error must not look like success
		return EIO
	case code == ENOTSUP && !fastZero:
		return EINVAL
	}
	return code
}

func errnoOfSystem(e syscall.Errno) Errno {
	switch e {
	case syscall.EPERM, syscall.EACCES, syscall.EROFS:
		return EPERM
	case syscall.ENOMEM:
		return ENOMEM
	case syscall.EINVAL:
		return EINVAL
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return ENOSPC
	case syscall.EOVERFLOW:
		return EINVAL
	case syscall.ENOTSUP:
		return ENOTSUP
	case syscall.ESHUTDOWN:
		return ESHUTDOWN
	}
	return EIO
}
