// Package faulty wraps a block device so that chosen calls fail, for the tests
// of whatever stands on block devices.
//
//	dev := faulty.New(blockdev.NewMemory(1 << 20))
//	dev.Inject(faulty.Fault{Op: faulty.Write, Nth: 3})         // the third write from now fails with EIO
//	dev.Inject(faulty.Fault{Op: faulty.Any, Nth: k, Times: -1}) // the device dies at its k-th call
//	heal := dev.Inject(faulty.Fault{Op: faulty.Read, Offset: 4096, Length: 512, Times: -1}) // a bad sector
//	heal()
package faulty

import (
	"fmt"
	"iter"
	"slices"
	"sync"

	"flotilla/blockdev"

	"golang.org/x/sys/unix"
)

// Op names an operation of a device.
type Op int

// The operations. Any stands for each of them but Close.
const (
	Any Op = iota
	Read
	Write
	Flush
	Trim
	WriteZeroes
	Extents
	Close
	opCount
)

var opNames = [opCount]string{"any", "read", "write", "flush", "trim", "write-zeroes", "extents", "close"}

// String returns the name that ParseOp understands.
func (op Op) String() string {
	if op < 0 || op >= opCount {
		return fmt.Sprintf("op(%d)", int(op))
	}
	return opNames[op]
}

// ParseOp returns the operation of a name, for scripts of faults.
func ParseOp(name string) (Op, error) {
	if i := slices.Index(opNames[:], name); i >= 0 {
		return Op(i), nil
	}
	return 0, fmt.Errorf("parse operation %q: it is none of %v", name, opNames)
}

// Call describes one call of the device. Flush and Close have no range.
type Call struct {
	Op             Op
	Offset, Length int64
}

// Fault says which calls fail, and how.
type Fault struct {
	// Op is the operation that fails.
	Op Op
	// Offset and Length, in bytes, choose the calls that touch this range, so
	// never a Flush or Close. Length 0 chooses every call.
	Offset, Length int64
	// Nth is the first of the chosen calls that fails, counted from the
	// injection; 0 and 1 mean the next.
	Nth int
	// Times is how many calls fail from then on. 0 means 1, below 0 means all.
	Times int
	// Err is what they fail with; nil means EIO.
	Err error
	// Transfer is how many bytes a failing Read or Write moves first: a torn write.
	// A failing Close, whatever this says, closes the device below.
	Transfer int
	// Hook, if not nil, is called before the failure by the goroutine of the
	// call, with no lock held. It may block, which makes a device that hangs. If
	// OnlyHook is set the call then goes on and does not fail, which makes one
	// that is slow.
	Hook     func(Call)
	OnlyHook bool
}

// Device is a device whose calls can be made to fail. It owns the one below.
type Device struct {
	inner blockdev.Device

	mu     sync.Mutex
	faults []*armed     // guarded by mu; the first that applies to a call decides
	calls  [opCount]int // guarded by mu; calls[Any] counts all but Close
}

// armed is a fault and the number of chosen calls it has seen.
type armed struct {
	Fault
	seen int
}

var (
	_ blockdev.Device       = (*Device)(nil)
	_ blockdev.ExtentMapper = (*Device)(nil)
)

// New returns a device that does what inner does until faults are injected.
func New(inner blockdev.Device) *Device { return &Device{inner: inner} }

// Inject adds a fault and returns a function that takes it away again. Of
// several that apply to a call the oldest decides; the others count the call all
// the same.
func (d *Device) Inject(f Fault) (remove func()) {
	a := &armed{Fault: f}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = append(d.faults, a)
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.faults = slices.DeleteFunc(d.faults, func(o *armed) bool { return o == a })
	}
}

// Heal takes all faults away.
func (d *Device) Heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = nil
}

// Calls returns how often the operation was called so far, failures included.
func (d *Device) Calls(op Op) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[op]
}

// choose counts the call and returns the fault that decides it, or nil.
func (d *Device) choose(c Call) *Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls[c.Op]++
	if c.Op != Close {
		d.calls[Any]++
	}
	var chosen *Fault
	for _, a := range d.faults {
		if a.applies(c) && chosen == nil {
			chosen = &a.Fault
		}
	}
	return chosen
}

// applies counts the call if the fault is meant for it, and reports whether it
// has to fail.
func (a *armed) applies(c Call) bool {
	if a.Op != c.Op && (a.Op != Any || c.Op == Close) {
		return false
	}
	// Compared by differences, since a range that is out of bounds can overflow.
	if a.Length > 0 && (c.Length <= 0 || c.Offset-a.Offset >= a.Length || a.Offset-c.Offset >= c.Length) {
		return false
	}
	a.seen++
	late := a.seen - max(a.Nth, 1)
	return late >= 0 && (a.Times < 0 || late < max(a.Times, 1))
}

// before returns what the call has to fail with, or nil, and how much it moves.
func (d *Device) before(c Call) (transfer int, err error) {
	f := d.choose(c)
	if f == nil {
		return 0, nil
	}
	if f.Hook != nil {
		f.Hook(c)
	}
	if f.OnlyHook {
		return 0, nil
	}
	if err = f.Err; err == nil {
		err = unix.EIO
	}
	return f.Transfer, fmt.Errorf("%s %d bytes at offset %d: injected fault: %w", c.Op, c.Length, c.Offset, err)
}

// Size implements blockdev.Device.
func (d *Device) Size() int64 { return d.inner.Size() }

// Grow implements blockdev.Grower. No fault is meant for it.
func (d *Device) Grow() (int64, error) { return blockdev.Grow(d.inner) }

// BlockSizes implements blockdev.Device.
func (d *Device) BlockSizes() blockdev.BlockSizes { return d.inner.BlockSizes() }

// ReadAt implements blockdev.Device.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	return d.transfer(Read, d.inner.ReadAt, p, off)
}

// WriteAt implements blockdev.Device.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	return d.transfer(Write, d.inner.WriteAt, p, off)
}

func (d *Device) transfer(op Op, move func([]byte, int64) (int, error), p []byte, off int64) (int, error) {
	transfer, fault := d.before(Call{Op: op, Offset: off, Length: int64(len(p))})
	if fault == nil {
		return move(p, off)
	}
	n, err := move(p[:min(max(transfer, 0), len(p))], off)
	if err != nil {
		return n, err // The device below has a reason of its own.
	}
	return n, fault
}

// Flush implements blockdev.Device.
func (d *Device) Flush() error {
	if _, err := d.before(Call{Op: Flush}); err != nil {
		return err
	}
	return d.inner.Flush()
}

// Trim implements blockdev.Device.
func (d *Device) Trim(off, length int64) error {
	if _, err := d.before(Call{Op: Trim, Offset: off, Length: length}); err != nil {
		return err
	}
	return d.inner.Trim(off, length)
}

// WriteZeroes implements blockdev.Device.
func (d *Device) WriteZeroes(off, length int64, mayTrim bool) error {
	if _, err := d.before(Call{Op: WriteZeroes, Offset: off, Length: length}); err != nil {
		return err
	}
	return d.inner.WriteZeroes(off, length, mayTrim)
}

// Extents implements blockdev.ExtentMapper. One iteration is one call.
func (d *Device) Extents(off, length int64) iter.Seq2[blockdev.Extent, error] {
	return func(yield func(blockdev.Extent, error) bool) {
		if _, err := d.before(Call{Op: Extents, Offset: off, Length: length}); err != nil {
			yield(blockdev.Extent{}, err)
			return
		}
		blockdev.Extents(d.inner, off, length)(yield)
	}
}

// Close implements blockdev.Device.
func (d *Device) Close() error {
	_, fault := d.before(Call{Op: Close})
	if err := d.inner.Close(); err != nil {
		return err
	}
	return fault
}
