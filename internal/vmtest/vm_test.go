//go:build vmtest

package vmtest

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"flotilla/internal/vm"
)

var (
	kernelFlag   = flag.String("kernel", "uml", "what to boot: `uml`, or qemu with a distribution's kernel (QEMU_KERNEL)")
	onlyFlag     = flag.String("only", "", "one boot with these scenarios, separated by commas, that need no disks")
	atOnceFlag   = flag.Int("at-once", 2, "boots at a time")
	patienceFlag = flag.Int("patience", 1, "how much longer waits may take, on a machine that does much else")
	roundsFlag   = flag.Int("rounds", 0, "of power cuts; 0 is as many as fit into a few minutes")
)

// boots are the scenarios, those together in one machine that do not disturb each other. The longest boots come first.
var boots = []boot{
	{name: "powercuts", scenarios: []string{"powercuts"}, disks: []int64{1280 << 20, 2 << 30, 1280 << 20, 192 << 20, 1 << 30, 192 << 20}},
	{name: "attach", scenarios: []string{"mistakes", "attach", "partitions", "restarts"}},
	{name: "filesystems", scenarios: []string{"filesystems", "sparse", "resize"}},
	{name: "database", scenarios: []string{"database", "dead"}},
	{name: "powerloss", scenarios: []string{"powerloss"}, disks: []int64{512 << 20, 1 << 30, 2 << 30, 2 << 30}, ready: "ready"},
	{name: "promote", scenarios: []string{"promote"}},
}

func TestMain(m *testing.M) {
	go watchOwner()
	os.Exit(m.Run())
}

// watchOwner ends this program, and so its machines, when whoever has started it is gone: `go test`, and what FLOTILLA_OWNER
// names by its process, such as make. Nobody else would do that if these are killed.
func watchOwner() {
	parent, owner := os.Getppid(), os.Getenv("FLOTILLA_OWNER")
	for range time.Tick(500 * time.Millisecond) {
		_, err := os.Stat(filepath.Join("/proc", owner))
		if os.Getppid() != parent || err != nil {
			os.Exit(1)
		}
	}
}

func TestScenarios(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the guest's root is this machine's: run it as root")
	}
	k, err := vm.Find(*kernelFlag, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", k.Name)
	p := programs(t)
	if *onlyFlag != "" {
		(&boot{name: "only", scenarios: strings.Split(*onlyFlag, ",")}).run(t, k, p)
		return
	}
	queue := make(chan *boot, len(boots))
	for i := range boots {
		queue <- &boots[i]
	}
	close(queue)
	var running sync.WaitGroup
	for range *atOnceFlag {
		running.Go(func() {
			for b := range queue { // t.Parallel would begin with any of them
				t.Run(b.name, func(t *testing.T) { b.run(t, k, p) })
			}
		})
	}
	running.Wait()
}

// A scenario that fails inside fails outside, with what it said.
func TestFailureIsSeen(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the guest's root is this machine's: run it as root")
	}
	k, err := vm.Find(*kernelFlag, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := boot{name: "failure", scenarios: []string{"no-such-scenario"}}
	if got := b.live(t, t.TempDir(), k, programs(t), nil); got.ok || !strings.Contains(got.verdict, `there is no scenario "no-such-scenario"`) {
		t.Errorf("a scenario that is not there: %s", got.report())
	}
}

// A machine does not outlive the program that has started it, however that ends.
func TestMachineDiesWithItsOwner(t *testing.T) {
	if os.Getenv("FLOTILLA_VM_SLEEPER") != "" {
		k, err := vm.Find(*kernelFlag, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		b := boot{name: "sleeper", scenarios: []string{"sleep"}}
		b.live(t, os.Getenv("FLOTILLA_VM_SLEEPER"), k, programs(t), nil)
		return
	}
	if os.Getuid() != 0 {
		t.Skip("the guest's root is this machine's: run it as root")
	}
	dir := t.TempDir()
	// A shell stands for `go test`: it is killed, and its child, this program, is not.
	c := exec.Command("sh", "-c", `"$0" "$@"; true`, os.Args[0], "-test.run=^TestMachineDiesWithItsOwner$", "-kernel="+*kernelFlag)
	c.Env = append(os.Environ(), "FLOTILLA_VM_SLEEPER="+dir, "FLOTILLA_OWNER=")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	wait(t, "the machine runs", func() bool {
		_, err := os.Stat(filepath.Join(dir, "asleep"))
		return err == nil && len(machines(t, dir)) > 0
	})
	t.Logf("processes %v", machines(t, dir))
	if err := c.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // it was killed
	wait(t, "the machine is gone", func() bool { return len(machines(t, dir)) == 0 })
}

func wait(t *testing.T, what string, ready func() bool) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); !ready(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// machines returns the processes whose command line names a directory, but for this one.
func machines(t *testing.T, dir string) (out []string) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		text, err := os.ReadFile(filepath.Join("/proc", p.Name(), "cmdline"))
		if err == nil && slices.ContainsFunc(strings.Split(string(text), "\x00"), func(w string) bool { return strings.Contains(w, dir) }) {
			out = append(out, p.Name())
		}
	}
	return out
}
