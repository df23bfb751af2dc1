// Package vm boots virtual machines for one program each, with this machine's files as root: User Mode Linux, an ordinary process
// with one processor, or qemu with a distribution's own kernel and two.
//
//	k, err := vm.Find("uml", dir)
//	m := vm.Machine{Kernel: k, Dir: dir, Memory: 1200, Work: 700, Modules: []string{"nbd nbds_max=4"}, Program: …}
//	err = m.Run(ctx) // until the program inside has ended, or ctx
//
// In Dir are, when Run has returned: work, where the machine had a file system in memory; output, what the program printed;
// dmesg, what the kernel said, and console; and *.log of the work directory. The program tells by a file of its own how it ended.
//
//	vm.go       a machine's life
//	uml.go      User Mode Linux
//	qemu.go     qemu, and which accelerator works here; first.go, its first root
//	modules.go  kernel modules, and what they need
package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// endTime is how long output is waited for when the machine has been killed.
const endTime = 5 * time.Second

// ErrMissing is wrapped when something is not installed.
var ErrMissing = errors.New("run scripts/test-deps.sh")

// Kernel is something that boots, ready to be used.
type Kernel struct {
	Name    string // for people: what it is, and how it runs
	Modules Modules
	Slower  int // how much longer waits are than with User Mode Linux

	alarm   time.Duration // how often it is sent an alarm, 0 for never: see umlAlarm
	disk    string        // format of the names that it gives disks, for their letters
	command func(m *Machine, script string) ([]string, error)
}

// Find prepares a kernel: "uml", or "qemu" with the one in QEMU_KERNEL. dir is for what a trial leaves.
func Find(name, dir string) (*Kernel, error) {
	switch name {
	case "uml":
		return findUML()
	case "qemu":
		return findQEMU(dir)
	}
	return nil, fmt.Errorf("kernel %q: there are uml and qemu", name)
}

// Machine is a virtual machine for one program.
type Machine struct {
	Kernel  *Kernel
	Dir     string   // for its files; it exists, and its path is short and without spaces
	Memory  int      // MiB
	Work    int      // MiB of the file system in memory on Dir/work
	Disks   []string // files of this machine; the program has them as DiskNames
	Modules []string // kernel modules, with their parameters; what they need comes first
	Tmpfs   []string // directories that get an empty file system in memory, so that nothing is left in this machine's
	Program []string // what runs inside, as root; a shell reads it
}

// DiskNames returns the machine's disks as they are called inside.
func (m *Machine) DiskNames() (out []string) {
	for i := range m.Disks {
		out = append(out, fmt.Sprintf(m.Kernel.disk, 'a'+i))
	}
	return out
}

// initScript is the first process. It ends the machine whatever happens. It writes nothing out first: a device may wait for a
// process, and what this machine reads was written through.
const initScript = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/shm
mount -t tmpfs -o size=%[2]dm tmp %[1]s/work
busybox ip link set lo up
%[3]s%[4]s >%[1]s/output 2>&1
dmesg >%[1]s/dmesg
cp %[1]s/work/*.log %[1]s/ 2>/dev/null
busybox poweroff -n -f
`

// init returns the text of the first process.
func (m *Machine) init() (string, error) {
	var prepare strings.Builder
	for _, line := range m.Modules {
		name, params, _ := strings.Cut(line, " ")
		files, err := m.Kernel.Modules.Order(name)
		if err != nil {
			return "", err
		}
		for i, f := range files {
			words := "busybox insmod " + f
			if i == len(files)-1 {
				words += " " + params
			}
			fmt.Fprintf(&prepare, "grep -q '^%s ' /proc/modules || %s\n", loadedName(f), words)
		}
	}
	for _, dir := range m.Tmpfs {
		fmt.Fprintf(&prepare, "mount -t tmpfs tmp %s\n", dir)
	}
	return fmt.Sprintf(initScript, m.Dir, m.Work, prepare.String(), strings.Join(m.Program, " ")), nil
}

// Run boots the machine and returns when it has ended, killed as by a power failure if ctx ended before.
func (m *Machine) Run(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(m.Dir, "work"), 0o755); err != nil {
		return fmt.Errorf("make the machine's directory: %w", err)
	}
	text, err := m.init()
	if err != nil {
		return err
	}
	script := filepath.Join(m.Dir, "init")
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		return fmt.Errorf("write the machine's first program: %w", err)
	}
	words, err := m.Kernel.command(m, script)
	if err != nil {
		return err
	}
	console, err := os.Create(filepath.Join(m.Dir, "console"))
	if err != nil {
		return fmt.Errorf("make the machine's console: %w", err)
	}
	defer console.Close()
	c := contained(ctx, words...)
	c.Stdout, c.Stderr = console, console
	if err := c.Start(); err != nil {
		return fmt.Errorf("start the virtual machine: %w", err)
	}
	stop := m.Kernel.alarms(c.Process)
	err = c.Wait()
	stop()
	if err != nil {
		return fmt.Errorf("run the virtual machine: %w", err)
	}
	return nil
}

// alarms sends a machine's process its alarms until it is stopped.
func (k *Kernel) alarms(p *os.Process) (stop func()) {
	if k.alarm == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var sender sync.WaitGroup
	sender.Go(func() {
		for t := time.NewTicker(k.alarm); ; {
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
				_ = p.Signal(syscall.SIGALRM) // it may just have ended
			}
		}
	})
	return func() {
		cancel()
		sender.Wait()
	}
}

// contained is a command in a process namespace of its own: everything in it ends with its first process, which ends with this
// program. User Mode Linux has a process for each of its own, and qemu has a server beside it.
func contained(ctx context.Context, words ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, words[0], words[1:]...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWPID}
	c.WaitDelay = endTime
	return c
}

// Said returns the ends of what the machine left in files, for people who look for a cause.
func (m *Machine) Said(bytes int) string {
	logs, _ := filepath.Glob(filepath.Join(m.Dir, "*.log")) // the pattern is right
	var out strings.Builder
	for _, f := range append([]string{"output", "dmesg", "console"}, logs...) {
		length := bytes
		if strings.HasPrefix(filepath.Base(f), "stuck-") { // what an agent did when nothing went on
			length = 200_000
		}
		fmt.Fprintf(&out, "--- %s\n%s\n", filepath.Base(f), Tail(filepath.Join(m.Dir, filepath.Base(f)), length))
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
