//go:build vmtest

package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kernelTime bounds one boot with its scenario.
const kernelTime = 280 * time.Second

// init is the first process of the guest. It ends the machine whatever happens.
const initScript = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs -o size=700m tmp %[1]s/work
busybox ip link set lo up
busybox insmod %[2]s/kernel/drivers/block/nbd.ko nbds_max=%[5]s max_part=16
%[3]s -flotilla %[4]s -dir %[1]s/work -verdict %[1]s/verdict %[6]s >%[1]s/output 2>&1
dmesg >%[1]s/dmesg
cp %[1]s/work/*.log %[1]s/ 2>/dev/null
sync
busybox poweroff -f
`

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
	modules, err := filepath.Glob("/usr/lib/uml/modules/*")
	if _, lookErr := exec.LookPath("linux.uml"); lookErr != nil || err != nil || len(modules) != 1 {
		t.Fatalf("User Mode Linux is missing (%v, modules %v): run scripts/test-deps.sh", lookErr, modules)
	}
	flotilla, guest := programs(t)
	for _, scenario := range []string{"attach", "filesystems", "database"} {
		t.Run(scenario, func(t *testing.T) {
			boot(t, modules[0], guest, flotilla, scenario)
		})
	}
}

// boot runs one scenario in a virtual machine of its own.
func boot(t *testing.T, modules, guest, flotilla, scenario string) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "work"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "init")
	text := fmt.Sprintf(initScript, dir, modules, guest, flotilla, "4", scenario)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	console, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	ctx, cancel := context.WithTimeout(t.Context(), kernelTime)
	defer cancel()
	c := exec.CommandContext(ctx, "linux.uml", "mem=1200M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "quiet",
		"init="+script, "con=null", "con0=fd:0,fd:1", "uml_dir="+dir, "umid=vm")
	c.Stdout, c.Stderr = console, console
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = 5 * time.Second
	began := time.Now()
	runErr := c.Run()
	if c.Process != nil {
		if err := syscall.Kill(-c.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Error(err)
		}
	}
	verdict, err := os.ReadFile(filepath.Join(dir, "verdict"))
	if err == nil && strings.TrimSpace(string(verdict)) == "ok" {
		t.Logf("%s in %v\n%s", scenario, time.Since(began).Round(time.Second), tail(filepath.Join(dir, "output"), 4096))
		return
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	var shown strings.Builder
	for _, f := range append([]string{filepath.Join(dir, "output"), filepath.Join(dir, "dmesg"), filepath.Join(dir, "console")}, files...) {
		fmt.Fprintf(&shown, "--- %s\n%s\n", filepath.Base(f), tail(f, 6000))
	}
	t.Fatalf("scenario %s failed after %v (machine: %v): %s\n%s", scenario, time.Since(began).Round(time.Second), runErr, verdict, shown.String())
}

// tail returns the end of a file.
func tail(path string, n int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-n):])
}
