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

// boot is a virtual machine and what runs in it.
type boot struct {
	name      string
	scenarios []string
	disks     []int64 // sizes in bytes; they are sparse files of the host
	// ready is a file with which the guest says that the machine may lose power. Then it is killed and booted again.
	ready string
}

// bootTime bounds one life of a machine, and each round asked for makes it longer.
const (
	bootTime  = 400 * time.Second
	roundTime = 60 * time.Second
)

// binaries are what runs inside, static.
type binaries struct{ flotilla, guest string }

// built are made once for all.
var built binaries

func programs(t *testing.T) binaries {
	t.Helper()
	if built.guest != "" {
		return built
	}
	dir, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	p := binaries{filepath.Join(dir, "vmtest-flotilla"), filepath.Join(dir, "vmtest-guest")}
	for path, name := range map[string]string{p.flotilla: "./cmd/flotilla", p.guest: "./internal/vmtest/guest"} {
		c := exec.Command("go", "build", "-o", path, name)
		c.Dir, c.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	built = p
	return p
}

// run boots the machine, twice if it is to lose power, and fails if a scenario does.
func (b *boot) run(t *testing.T, k *kernel, p binaries) {
	dir := t.TempDir()
	var disks []string
	for i, size := range b.disks {
		path := filepath.Join(dir, fmt.Sprintf("disk%d", i))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		disks = append(disks, path)
	}
	if b.ready != "" {
		first := b.live(t, dir, k, p, disks)
		if !first.killed {
			t.Fatalf("%s has ended before it was ready:\n%s", b.name, first.report())
		}
		t.Logf("%s: power lost after %v\n%s", b.name, first.took.Round(time.Second), tail(filepath.Join(dir, "output"), 4096))
	}
	last := b.live(t, dir, k, p, disks)
	if !last.ok {
		t.Fatalf("%s failed:\n%s", b.name, last.report())
	}
	t.Logf("%s in %v\n%s", b.name, last.took.Round(time.Second), tail(filepath.Join(dir, "output"), 16<<10))
}

// life is what has become of one boot.
type life struct {
	dir     string
	ok      bool
	killed  bool // it was ready, and was killed for that
	verdict string
	err     error // of the machine's process
	took    time.Duration
}

// initScript is the guest's first program: it ends the machine whatever happens. It writes nothing out first: a device may wait
// for an agent, and what the host reads was written through.
const initScript = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/shm
mount -t tmpfs -o size=800m tmp '%[1]s/work'
busybox ip link set lo up
'%[2]s' -flotilla '%[3]s' -dir '%[1]s/work' -keep '%[1]s' -modules '%[4]s' -disks '%[5]s' -rounds %[6]d -patience %[7]d %[8]s >'%[1]s/output' 2>&1
dmesg >'%[1]s/dmesg'
busybox poweroff -n -f
`

// live boots the machine once.
func (b *boot) live(t *testing.T, dir string, k *kernel, p binaries, disks []string) life {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "work"), 0o755), k.clear(dir)); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "init")
	text := fmt.Sprintf(initScript, dir, p.guest, p.flotilla, k.modules, strings.Join(k.disks[:len(disks)], ","), *roundsFlag, k.slower**patienceFlag, strings.Join(b.scenarios, " "))
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	console, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(k.slower**patienceFlag)*(bootTime+time.Duration(*roundsFlag)*roundTime))
	defer cancel()
	words := k.command(dir, script, disks)
	c := exec.CommandContext(ctx, words[0], words[1:]...)
	c.Stdout, c.Stderr = console, console
	// In a process namespace of its own everything ends with its first process, which ends with this program. User Mode Linux
	// has a process for each of its own.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWPID}
	c.WaitDelay = 5 * time.Second
	l := life{dir: dir}
	began := time.Now()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	watch, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(50 * time.Millisecond); b.ready != ""; {
			select {
			case <-watch:
				return
			case <-tick.C:
			}
			if info, err := os.Stat(filepath.Join(dir, b.ready)); err == nil && info.ModTime().After(began) {
				l.killed = c.Process.Kill() == nil
				return
			}
		}
	}()
	l.err = c.Wait()
	close(watch)
	<-done
	l.took = time.Since(began)
	verdict, err := os.ReadFile(filepath.Join(dir, "verdict"))
	l.verdict = strings.TrimSpace(string(verdict))
	l.ok = err == nil && l.verdict == "ok"
	return l
}

// report shows what the machine and its agents have said last.
func (l *life) report() string {
	files, _ := filepath.Glob(filepath.Join(l.dir, "*.log"))
	var shown strings.Builder
	fmt.Fprintf(&shown, "after %v (machine: %v): %s\n", l.took.Round(time.Second), l.err, l.verdict)
	for _, f := range append([]string{filepath.Join(l.dir, "output"), filepath.Join(l.dir, "dmesg"), filepath.Join(l.dir, "console")}, files...) {
		length := 6000
		if strings.HasPrefix(filepath.Base(f), "stuck-") { // what an agent did when nothing went on
			length = 200_000
		}
		fmt.Fprintf(&shown, "--- %s\n%s\n", filepath.Base(f), tail(f, length))
	}
	return shown.String()
}

// tail returns the end of a file.
func tail(path string, n int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-n):])
}
