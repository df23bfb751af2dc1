package proto

import "fmt"

// Errno is an error value of the NBD protocol ("Error values" in proto.md).
// The numbers are the protocol's own and the same on every system.
type Errno uint32

// The error values the protocol defines.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

// Error describes the value in words.
func (e Errno) Error() string {
	switch e {
	case EPERM:
		return "operation not permitted (NBD_EPERM)"
	case EIO:
		return "input/output error (NBD_EIO)"
	case ENOMEM:
		return "cannot allocate memory (NBD_ENOMEM)"
	case EINVAL:
		return "invalid argument (NBD_EINVAL)"
	case ENOSPC:
		return "no space left on device (NBD_ENOSPC)"
	case EOVERFLOW:
		return "value too large (NBD_EOVERFLOW)"
	case ENOTSUP:
		return "operation not supported (NBD_ENOTSUP)"
	case ESHUTDOWN:
		return "server is shutting down (NBD_ESHUTDOWN)"
	}
	return fmt.Sprintf("NBD error %d", uint32(e))
}
