package blockdev

import (
	"errors"
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

// preadFull fills p from byte off of fd on.
func preadFull(fd int, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, err
		case n == 0: // The file was made shorter behind our back.
			return done, io.ErrUnexpectedEOF
		default:
			done += n
		}
	}
	return done, nil
}

// pwriteFull stores p from byte off of fd on.
func pwriteFull(fd int, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, err
		case n == 0:
			return done, io.ErrShortWrite
		default:
			done += n
		}
	}
	return done, nil
}

// retry calls f until it is not interrupted by a signal.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// ioctl passes a pointer to arg, whose type has to be the one that the kernel
// reads or writes for this request.
func ioctl[T int32 | uint32 | uint64 | [2]uint64](fd int, request uintptr, arg *T) error {
	return retry(func() error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg))); errno != 0 {
			return errno
		}
		return nil
	})
}

// isUnsupported reports whether err means that the kernel, the file system or
// the device does not know the operation at all.
func isUnsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) ||
		errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENODEV)
}

// directAlignment asks the kernel which alignment direct I/O on fd needs for
// offsets and lengths, and for memory, in bytes. A kernel before 6.1, or a file
// system that does not say, yields fallback for both.
func directAlignment(fd, fallback int) (offset, memory int) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err != nil || st.Mask&unix.STATX_DIOALIGN == 0 || st.Dio_offset_align == 0 || st.Dio_mem_align == 0 {
		return fallback, fallback
	}
	return int(st.Dio_offset_align), int(st.Dio_mem_align)
}
