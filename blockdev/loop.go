package blockdev

import (
	"errors"
	"fmt"

	"flotilla/blockdev/loop"
	"flotilla/blockdev/usage"
)

// LoopPrefix before the path of a regular file asks for a loop device on it: a block device of the kernel, which other
// programs can look at while it is open here, and which goes past the page cache where the file system can do that.
const LoopPrefix = "loop:"

// looped is a loop device that this process has attached, or has taken over. It is detached when it is closed, or when the
// process ends.
type looped struct {
	*raw
	attached *loop.Device
}

func openLoop(file string, opts Options) (Device, error) {
	if opts.Direct && opts.Buffered {
		return nil, fmt.Errorf("open %s%s: direct and buffered contradict each other; choose one", LoopPrefix, file)
	}
	// Before it is attached, for the device would be among its users then; who swaps to a file does not lock it.
	uses, err := usage.Of(file)
	if err != nil {
		return nil, fmt.Errorf("open %s%s: %w", LoopPrefix, file, err)
	}
	for i := 0; opts.Exclusive && i < len(uses); i++ {
		if !uses[i].Left {
			return nil, fmt.Errorf("open %s%s: %w: %s", LoopPrefix, file, ErrInUse, uses[i])
		}
	}
	d, err := loop.Attach(file, loop.Options{ReadOnly: opts.ReadOnly, Exclusive: opts.Exclusive, Cached: opts.Buffered})
	if errors.Is(err, loop.ErrInUse) {
		err = fmt.Errorf("%w: %w", ErrInUse, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s%s: %w", LoopPrefix, file, err)
	}
	opts.Exclusive = false // d has the claim
	dev, err := openPath(d.Path(), opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s%s: %w", LoopPrefix, file, err), d.Close())
	}
	r := dev.(*raw)
	r.path = fmt.Sprintf("%s%s (%s)", LoopPrefix, file, d.Path())
	return &looped{raw: r, attached: d}, nil
}

// Close implements Device. With the last descriptor the kernel detaches the device.
func (l *looped) Close() error {
	if err := l.raw.Close(); err != nil {
		return err
	}
	return l.attached.Close()
}

// Grow implements Grower: first the loop device takes in what its file has got.
func (l *looped) Grow() (int64, error) {
	if err := l.attached.Grow(); err != nil {
		return l.Size(), fmt.Errorf("ask %s for its size: %w", l.path, err)
	}
	return l.raw.Grow()
}
