package nbd

import (
	"errors"
	"fmt"
	"io"
)

// Device is a block device with blocking methods. They may be called from many
// goroutines at once.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Sync makes all completed writes durable.
	Sync() error
}

// Trimmer is a Device that can discard a range of length bytes.
type Trimmer interface {
	Trim(offset, length int64) error
}

// Zeroer is a Device that can zero a range of length bytes. noHole asks for
// the range to stay allocated. With fast it must be quicker than a write or
// fail at once with an error that wraps ENOTSUP.
type Zeroer interface {
	WriteZeroes(offset, length int64, noHole, fast bool) error
}

// Mapper is a Device that knows which of its ranges hold data. It calls add
// for consecutive extents from offset on until add returns false or length
// bytes are covered.
type Mapper interface {
	Extents(offset, length int64, add func(length int64, flags ExtentFlags) bool) error
}

// NewDeviceExport makes an export of a device. Flush, FUA and several
// connections are offered, and what the device's optional interfaces allow;
// info.Features is ignored but for CanFastZero.
//
// Reads and writes of up to inline bytes run on the goroutine that reads the
// connection, one after the other: right for memory and cached files, where
// a hand-over costs more than the copy. 0 gives every request a worker.
func NewDeviceExport(d Device, info Info, inline int64) Export {
	e := &deviceExport{dev: d, info: info, inline: inline}
	fast := info.Features & CanFastZero
	e.info.Features = CanFlush | CanFUA | CanMultiConn
	if _, ok := d.(Trimmer); ok {
		e.info.Features |= CanTrim
	}
	if _, ok := d.(Zeroer); ok {
		e.info.Features |= CanWriteZeroes | fast
	}
	if _, ok := d.(Mapper); ok {
		e.info.Features |= CanExtents
	}
	return e
}

type deviceExport struct {
	dev    Device
	info   Info
	inline int64
}

func (e *deviceExport) Info() Info { return e.info }

func (e *deviceExport) Try(r *Request) bool {
	if r.Length > e.inline || r.FUA || (r.Op != OpRead && r.Op != OpWrite) {
		return false
	}
	e.Serve(r)
	return true
}

func (e *deviceExport) Serve(r *Request) {
	err := e.do(r)
	if err == nil && r.FUA && r.Op != OpFlush && r.Op != OpRead && r.Op != OpBlockStatus {
		err = e.dev.Sync()
	}
	r.Done(err)
}

func (e *deviceExport) do(r *Request) error {
	switch r.Op {
	case OpRead:
		n, err := e.dev.ReadAt(r.Data(), r.Offset)
		if n == len(r.Data()) && errors.Is(err, io.EOF) {
			return nil // io.ReaderAt may say so at the very end
		}
		return err
	case OpWrite:
		_, err := e.dev.WriteAt(r.Data(), r.Offset)
		return err
	case OpFlush:
		return e.dev.Sync()
	case OpTrim:
		return e.dev.(Trimmer).Trim(r.Offset, r.Length)
	case OpWriteZeroes:
		return e.dev.(Zeroer).WriteZeroes(r.Offset, r.Length, r.NoHole, r.FastZero)
	case OpBlockStatus:
		return e.dev.(Mapper).Extents(r.Offset, r.Length, r.AddExtent)
	}
	return fmt.Errorf("%w: %v", EINVAL, r.Op)
}
