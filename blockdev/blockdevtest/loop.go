package blockdevtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// RequireToolsEnv names the environment variable that, set to 1, makes tests
// fail instead of being skipped when the machine lacks what they need.
const RequireToolsEnv = "FLOTILLA_REQUIRE_TOOLS"

// SkipOrFail skips the test because the machine lacks something, or fails it if
// RequireToolsEnv says so.
func SkipOrFail(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(RequireToolsEnv) == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// RequireLoop skips the test, as SkipOrFail does, where there are no loop devices or this process may not use them.
func RequireLoop(t testing.TB) {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		SkipOrFail(t, "test needs loop devices: %v", err)
	}
	control.Close()
}

// LoopConfig describes a loop device.
type LoopConfig struct {
	// Size is that of the new sparse file below the device, in bytes.
	Size int64
	// SectorSize is the logical sector size in bytes, a power of two from 512 to 4096.
	SectorSize int
	// Backing is the path for the new file; empty means one that goes with the test.
	Backing string
	// ReadOnly makes the device write-protected.
	ReadOnly bool
}

// loopAttempts bounds how often Loop tries again when another process takes the
// free loop device that the kernel had named.
const loopAttempts = 64

// Loop attaches a loop device and returns its path and that of the file below.
// The device is detached when the test ends, or when its process dies. Without
// root or loop devices the test is skipped as SkipOrFail does.
func Loop(t testing.TB, c LoopConfig) (device, backing string) {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		SkipOrFail(t, "test needs loop devices: %v", err)
	}
	defer control.Close()
	if c.Backing == "" {
		c.Backing = filepath.Join(t.TempDir(), "loop")
	}
	file, err := os.OpenFile(c.Backing, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(c.Size); err != nil {
		t.Fatal(err)
	}
	for range loopAttempts {
		loop, err := attach(control, file, c)
		if errors.Is(err, unix.EBUSY) {
			time.Sleep(10 * time.Millisecond) // who has it may be about to attach it
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { // With the last descriptor the device detaches itself.
			if err := loop.Close(); err != nil {
				t.Errorf("detach %s: %v", loop.Name(), err)
			}
		})
		return loop.Name(), c.Backing
	}
	t.Fatalf("no loop device stayed free in %d attempts", loopAttempts)
	return "", ""
}

func attach(control, file *os.File, c LoopConfig) (*os.File, error) {
	number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("find a free loop device: %w", err)
	}
	loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open the free loop device: %w", err)
	}
	config := unix.LoopConfig{
		Fd:   uint32(file.Fd()),
		Size: uint32(c.SectorSize),
		Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
	}
	if c.ReadOnly {
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &config); err != nil {
		return nil, errors.Join(fmt.Errorf("attach %s: %w", loop.Name(), err), loop.Close())
	}
	return loop, nil
}
