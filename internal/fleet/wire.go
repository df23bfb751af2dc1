package fleet

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// wireFrames is how many frames are under way in each direction: with more the sender's device drops, as a full queue does.
	wireFrames = 1 << 14
	frameMax   = 1 << 16
)

// Wire is a link through this program, which passes on each Ethernet frame after a delay: not every kernel has netem. Its ends
// are taps, which are gone when it is closed.
type Wire struct {
	ends  [2]*os.File
	delay atomic.Int64 // nanoseconds, in each direction
	done  sync.WaitGroup
}

// frame is one that is under way.
type frame struct {
	due  time.Time
	data []byte
}

// newWire makes a tap in each of two namespaces, and joins them.
func (s *Spawner) newWire(a *Namespace, nameA string, b *Namespace, nameB string) (*Wire, error) {
	w := &Wire{}
	for i, end := range []struct {
		ns   *Namespace
		name string
	}{{a, nameA}, {b, nameB}} {
		err := s.do(func() error {
			return end.ns.within(func() (err error) {
				w.ends[i], err = openTap(end.name)
				return err
			})
		})
		if err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	w.carry(w.ends[0], w.ends[1])
	w.carry(w.ends[1], w.ends[0])
	return w, nil
}

// openTap makes a device in the thread's namespace. It is there while the file is open.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make device %s: open /dev/net/tun: %w", name, err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make device %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// SetDelay sets what each frame waits from now on. Frames do not overtake each other.
func (w *Wire) SetDelay(d time.Duration) { w.delay.Store(int64(d)) }

// Close ends the link and takes its devices away.
func (w *Wire) Close() error {
	var errs []error
	for _, f := range w.ends {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	w.done.Wait()
	return errors.Join(errs...)
}

// carry passes frames on until an end is closed.
func (w *Wire) carry(from, to *os.File) {
	queue := make(chan frame, wireFrames)
	w.done.Go(func() {
		defer close(queue)
		buf := make([]byte, frameMax)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			queue <- frame{time.Now().Add(time.Duration(w.delay.Load())), append([]byte(nil), buf[:n]...)}
		}
	})
	w.done.Go(func() {
		for f := range queue {
			time.Sleep(time.Until(f.due))
			_, _ = to.Write(f.data) // a device that is down, or gone, loses it
		}
	})
}
