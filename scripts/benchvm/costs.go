package main

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// costs is what programs pay for what they do all the time. In a virtual machine that can be hundreds of times what it is on this
// machine, and then weighs on whoever works outside of the kernel: a ratio is read with it in mind.
type costs struct {
	Call  time.Duration `json:"call"`  // a system call that does nothing
	Clock time.Duration `json:"clock"` // reading the time
	Trip  time.Duration `json:"trip"`  // a byte through a pipe to another thread, and one back
}

func (c costs) String() string {
	return fmt.Sprintf("a system call takes %.3g µs, the clock %.3g µs, another thread's answer %.3g µs",
		microseconds(c.Call), microseconds(c.Clock), microseconds(c.Trip))
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// costTimes is how often each is done.
const costTimes = 1000

// measureCosts measures where it runs.
func measureCosts() (c costs, err error) {
	each := func(f func()) time.Duration {
		began := time.Now()
		for range costTimes {
			f()
		}
		return time.Since(began) / costTimes
	}
	c.Call = each(func() { unix.Getppid() })
	var now time.Time
	c.Clock = each(func() { now = time.Now() })
	_ = now
	var there, back [2]int
	for _, p := range []*[2]int{&there, &back} {
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return c, fmt.Errorf("make a pipe: %w", err)
		}
		defer unix.Close(p[0])
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var b [1]byte
		for n, err := unix.Read(there[0], b[:]); n == 1 && err == nil; n, err = unix.Read(there[0], b[:]) {
			_, _ = unix.Write(back[1], b[:]) // who waits for it then gets an end
		}
		_ = unix.Close(back[1])
	}()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var b [1]byte
	c.Trip = each(func() {
		if err == nil {
			_, err = unix.Write(there[1], b[:])
		}
		if err == nil {
			_, err = unix.Read(back[0], b[:])
		}
	})
	_ = unix.Close(there[1])
	<-ended
	return c, err
}
