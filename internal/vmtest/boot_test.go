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
	"testing"
	"time"

	"flotilla/internal/vm"
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
func (b *boot) run(t *testing.T, k *vm.Kernel, p binaries) {
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
		t.Logf("%s: power lost after %v\n%s", b.name, first.took.Round(time.Second), vm.Tail(filepath.Join(dir, "output"), 4096))
	}
	last := b.live(t, dir, k, p, disks)
	if !last.ok {
		t.Fatalf("%s failed:\n%s", b.name, last.report())
	}
	t.Logf("%s in %v\n%s", b.name, last.took.Round(time.Second), vm.Tail(filepath.Join(dir, "output"), 16<<10))
}

// life is what has become of one boot.
type life struct {
	vm.Machine
	ok      bool
	killed  bool // it was ready, and was killed for that
	verdict string
	err     error // of the machine's process
	took    time.Duration
}

// live boots the machine once.
func (b *boot) live(t *testing.T, dir string, k *vm.Kernel, p binaries, disks []string) life {
	t.Helper()
	verdict := filepath.Join(dir, "verdict")
	if err := os.Remove(verdict); err != nil && !errors.Is(err, os.ErrNotExist) { // an earlier life's
		t.Fatal(err)
	}
	patience := k.Slower * *patienceFlag
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(patience)*(bootTime+time.Duration(*roundsFlag)*roundTime))
	defer cancel()
	l := life{Machine: vm.Machine{Kernel: k, Dir: dir, Memory: 1400, Work: 800, Disks: disks}}
	l.Program = append([]string{p.guest, "-flotilla", p.flotilla, "-dir", filepath.Join(dir, "work"), "-keep", dir, "-modules", string(k.Modules),
		"-disks", strings.Join(l.DiskNames(), ","), "-rounds", fmt.Sprint(*roundsFlag), "-patience", fmt.Sprint(patience)}, b.scenarios...)
	for i, word := range l.Program {
		l.Program[i] = "'" + word + "'"
	}
	began := time.Now()
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
				l.killed = true
				cancel()
				return
			}
		}
	}()
	l.err = l.Run(ctx)
	close(watch)
	<-done
	l.took = time.Since(began)
	text, err := os.ReadFile(verdict)
	l.verdict = strings.TrimSpace(string(text))
	l.ok = err == nil && l.verdict == "ok"
	return l
}

// report shows what the machine and its agents have said last.
func (l *life) report() string {
	return fmt.Sprintf("after %v (machine: %v): %s\n%s", l.took.Round(time.Second), l.err, l.verdict, l.Said(6000))
}
