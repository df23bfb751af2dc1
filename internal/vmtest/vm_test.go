//go:build vmtest

package vmtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flotilla/internal/uml"
)

// kernelTime bounds one boot with its scenario.
const kernelTime = 280 * time.Second

// programs builds what runs inside, statically, once for all scenarios.
func programs(t *testing.T) (flotilla, guest string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"cmd/flotilla", "internal/vmtest/guest"} {
		c := exec.Command("go", "build", "-o", filepath.Join(dir, filepath.Base(name)), "./"+name)
		c.Dir, c.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	return filepath.Join(dir, "flotilla"), filepath.Join(dir, "guest")
}

func TestScenarios(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the guest's root is this machine's: run it as root")
	}
	if err := uml.Check(); err != nil {
		t.Fatal(err)
	}
	flotilla, guest := programs(t)
	for _, scenario := range []string{"attach", "filesystems", "database"} {
		t.Run(scenario, func(t *testing.T) {
			boot(t, guest, flotilla, scenario)
		})
	}
}

// boot runs one scenario in a virtual machine of its own.
func boot(t *testing.T, guest, flotilla, scenario string) {
	dir := t.TempDir()
	said := filepath.Join(dir, "verdict")
	m := uml.Machine{
		Dir: dir, Memory: 1200, Work: 700, Modules: []string{"drivers/block/nbd.ko nbds_max=4 max_part=16"},
		Program: []string{guest, "-flotilla", flotilla, "-dir", filepath.Join(dir, "work"), "-verdict", said, scenario},
	}
	ctx, cancel := context.WithTimeout(t.Context(), kernelTime)
	defer cancel()
	began := time.Now()
	runErr := m.Run(ctx)
	verdict, err := os.ReadFile(said)
	if err == nil && strings.TrimSpace(string(verdict)) == "ok" {
		t.Logf("%s in %v\n%s", scenario, time.Since(began).Round(time.Second), uml.Tail(filepath.Join(dir, "output"), 4096))
		return
	}
	t.Fatalf("scenario %s failed after %v (machine: %v): %s\n%s", scenario, time.Since(began).Round(time.Second), runErr, verdict, m.Said(6000))
}
