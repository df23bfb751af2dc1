// Package uml boots User Mode Linux: a kernel with nbd, DRBD and netem as an ordinary process, whose root is this machine's.
//
//	m := uml.Machine{Dir: dir, Memory: 1200, Work: 700, Modules: []string{"drivers/block/nbd.ko nbds_max=4"}, Program: …}
//	err := m.Run(ctx) // until the program inside has ended, or ctx
//
// In Dir are, when Run has returned: work, where the machine had a file system in memory; output, what the program printed;
// dmesg, what the kernel said, and console; and *.log of the work directory. The program tells by a file of its own how it ended.
package uml

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	program = "linux.uml"
	modules = "/usr/lib/uml/modules/*"
	// endTime is how long output is waited for when the machine has been killed.
	endTime = 5 * time.Second
)

// ErrMissing is wrapped when User Mode Linux is not installed.
var ErrMissing = errors.New("no User Mode Linux here: run scripts/test-deps.sh")

// Machine is a virtual machine for one program. It has one processor.
type Machine struct {
	Dir     string   // for its files; it exists, and its path is short and without spaces
	Memory  int      // MiB
	Work    int      // MiB of the file system in memory on Dir/work
	Modules []string // kernel modules below the modules' kernel directory, with their parameters, in order
	Tmpfs   []string // directories that get an empty file system in memory, so that nothing is left in this machine's
	Program []string // what runs inside, as root
}

// initScript is the first process. It ends the machine whatever happens.
const initScript = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs -o size=%[2]dm tmp %[1]s/work
busybox ip link set lo up
%[3]s%[4]s >%[1]s/output 2>&1
dmesg >%[1]s/dmesg
cp %[1]s/work/*.log %[1]s/ 2>/dev/null
sync
busybox poweroff -f
`

// Check reports what is missing.
func Check() error {
	_, err := moduleDir()
	return err
}

// moduleDir returns where the kernel's modules are.
func moduleDir() (string, error) {
	found, err := filepath.Glob(modules)
	if _, lookErr := exec.LookPath(program); lookErr != nil || err != nil || len(found) != 1 {
		return "", fmt.Errorf("look for %s and its modules in %s: %w", program, modules, ErrMissing)
	}
	return filepath.Join(found[0], "kernel"), nil
}

// Run boots the machine and returns when it has ended, killed if ctx ended before.
func (m *Machine) Run(ctx context.Context) error {
	kernel, err := moduleDir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(m.Dir, "work"), 0o755); err != nil {
		return fmt.Errorf("make the machine's directory: %w", err)
	}
	var prepare strings.Builder
	for _, name := range m.Modules {
		fmt.Fprintf(&prepare, "busybox insmod %s/%s\n", kernel, name)
	}
	for _, dir := range m.Tmpfs {
		fmt.Fprintf(&prepare, "mount -t tmpfs tmp %s\n", dir)
	}
	text := fmt.Sprintf(initScript, m.Dir, m.Work, prepare.String(), strings.Join(m.Program, " "))
	script := filepath.Join(m.Dir, "init")
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		return fmt.Errorf("write the machine's first program: %w", err)
	}
	console, err := os.Create(filepath.Join(m.Dir, "console"))
	if err != nil {
		return fmt.Errorf("make the machine's console: %w", err)
	}
	defer console.Close()
	c := exec.CommandContext(ctx, program, fmt.Sprintf("mem=%dM", m.Memory), "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "quiet",
		"init="+script, "con=null", "con0=fd:0,fd:1", "uml_dir="+m.Dir, "umid=vm")
	c.Stdout, c.Stderr = console, console
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = endTime
	err = c.Run()
	if c.Process != nil { // its helpers are processes of the same group
		if killErr := syscall.Kill(-c.Process.Pid, syscall.SIGKILL); !errors.Is(killErr, syscall.ESRCH) {
			err = errors.Join(err, killErr)
		}
	}
	if err != nil {
		return fmt.Errorf("run the virtual machine: %w", err)
	}
	return nil
}

// Said returns the ends of what the machine left in files, for people who look for a cause.
func (m *Machine) Said(bytes int) string {
	logs, _ := filepath.Glob(filepath.Join(m.Dir, "*.log")) // the pattern is right
	var out strings.Builder
	for _, f := range append([]string{"output", "dmesg", "console"}, logs...) {
		fmt.Fprintf(&out, "--- %s\n%s\n", filepath.Base(f), Tail(filepath.Join(m.Dir, filepath.Base(f)), bytes))
	}
	return out.String()
}

// Tail returns the end of a file, or why it cannot be read.
func Tail(path string, bytes int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-bytes):])
}
