package vm

import (
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestAlarms: a machine is sent its kernel's alarms while it runs, and one without them is not.
func TestAlarms(t *testing.T) {
	for every, want := range map[time.Duration]int{0: 3, 10 * time.Millisecond: 7} {
		k := &Kernel{alarm: every, command: func(*Machine, string) ([]string, error) {
			return []string{"sh", "-c", "trap 'exit 7' ALRM; for i in $(seq 50); do sleep 0.01; done; exit 3"}, nil
		}}
		err := (&Machine{Kernel: k, Dir: t.TempDir()}).Run(t.Context())
		if errors.Is(err, syscall.EPERM) {
			t.Skip(fmt.Errorf("a process namespace wants root: %w", err))
		}
		var ended *exec.ExitError
		if !errors.As(err, &ended) || ended.ExitCode() != want {
			t.Errorf("an alarm every %v: %v, want exit code %d", every, err, want)
		}
	}
}
