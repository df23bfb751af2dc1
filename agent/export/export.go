// Package export makes an NBD export of a block device: of a promoted target, of a clone, or of a source volume.
//
//	srv.AddExport("db/data", export.New(dev, export.Options{Size: volume.Size}))
//
// A trim reads as zeroes, a flush covers what was completed before it on whatever connection, and holes of the device
// show in block status. The device stays its owner's: who withdraws the export closes it afterwards.
package export

import (
	"errors"
	"fmt"

	"flotilla/blockdev"
	"flotilla/nbd"
)

// maxPreferred bounds the request size that is recommended to clients, in bytes.
const maxPreferred = 1 << 20

// Options say what of a device is shown, and how.
type Options struct {
	// Size is the size in bytes that clients see: a target device may be larger than its volume. 0 stands for the
	// device's own; more than that is cut to it.
	Size     int64
	ReadOnly bool
	// Inline is the length in bytes up to which reads and writes are done on the goroutine that reads the connection:
	// right for memory and cached files. 0 gives every request a worker.
	Inline      int64
	Description string
}

// New returns an export of the device.
func New(dev blockdev.Device, opt Options) nbd.Export {
	size := dev.Size()
	if opt.Size > 0 {
		size = min(size, opt.Size)
	}
	return nbd.NewDeviceExport(adapter{dev}, nbd.Info{
		Size:           size,
		PreferredBlock: uint32(min(dev.BlockSizes().Preferred, maxPreferred)),
		ReadOnly:       opt.ReadOnly,
		Description:    opt.Description,
	}, opt.Inline)
}

// adapter gives a block device the methods and the errors that package nbd wants.
type adapter struct{ dev blockdev.Device }

var (
	_ nbd.Device  = adapter{}
	_ nbd.Trimmer = adapter{}
	_ nbd.Zeroer  = adapter{}
	_ nbd.Mapper  = adapter{}
)

// ReadAt implements nbd.Device.
func (a adapter) ReadAt(p []byte, off int64) (int, error) {
	n, err := a.dev.ReadAt(p, off)
	return n, explain(err)
}

// WriteAt implements nbd.Device.
func (a adapter) WriteAt(p []byte, off int64) (int, error) {
	n, err := a.dev.WriteAt(p, off)
	return n, explain(err)
}

// Sync implements nbd.Device.
func (a adapter) Sync() error { return explain(a.dev.Flush()) }

// Trim implements nbd.Trimmer.
func (a adapter) Trim(off, length int64) error { return explain(a.dev.Trim(off, length)) }

// WriteZeroes implements nbd.Zeroer. Whether it would be fast is not known beforehand.
func (a adapter) WriteZeroes(off, length int64, noHole, fast bool) error {
	if fast {
		return fmt.Errorf("write %d zeroes at offset %d quickly: %w", length, off, nbd.ENOTSUP)
	}
	return explain(a.dev.WriteZeroes(off, length, !noHole))
}

// Extents implements nbd.Mapper.
func (a adapter) Extents(off, length int64, add func(int64, nbd.ExtentFlags) bool) error {
	for e, err := range blockdev.Extents(a.dev, off, length) {
		if err != nil {
			return explain(err)
		}
		var flags nbd.ExtentFlags
		if e.Hole {
			flags = nbd.ExtentHole | nbd.ExtentZero
		}
		if !add(e.Length, flags) {
			return nil
		}
	}
	return nil
}

// explain adds to a device's own errors the value that NBD has for them; errors of the system are mapped by package nbd.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, blockdev.ErrOutOfRange):
		return errors.Join(err, nbd.EINVAL)
	case errors.Is(err, blockdev.ErrReadOnly):
		return errors.Join(err, nbd.EPERM)
	case errors.Is(err, blockdev.ErrClosed):
		return errors.Join(err, nbd.ESHUTDOWN)
	case errors.Is(err, blockdev.ErrFlushFailed):
		return errors.Join(err, nbd.EIO)
	}
	return err
}
