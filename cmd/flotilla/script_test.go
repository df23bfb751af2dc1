package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"flotilla": func() { os.Exit(run()) }})
}

// Each script of testdata/script runs real processes of the program. Besides testscript's own commands there are:
//
//	ports NAME…             sets $NAME to a TCP port that is free on the loopback
//	exits CODE command…     runs a command, which must end with that code; the output is kept for stdout and stderr
//	until REGEXP command…   runs a command again and again until its output, either one, matches
//	capture NAME command…   sets $NAME to what a command prints
//	agentfile NAME ROLES…   writes NAME.yaml for an agent that listens on $PORT_NAME, with a state directory of its own
//	image NAME SIZE         makes a sparse file
//	nbdwrite AGENT EXPORT BLOCK WORD   writes a block of 4 KiB with FUA; nbdread reads one and compares
//	terminate DIR           sends SIGTERM to the agent with that state directory
func TestScripts(t *testing.T) {
	// A socket's path is short, that of the work directory may be long.
	short, err := os.MkdirTemp("", "fl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after every process has ended
		if err := os.RemoveAll(short); err != nil {
			t.Error(err)
		}
	})
	testscript.Run(t, testscript.Params{
		Dir:      filepath.Join("testdata", "script"),
		Deadline: time.Now().Add(5 * time.Minute),
		Setup: func(env *testscript.Env) error {
			dir, err := os.MkdirTemp(short, "")
			env.Setenv("S", dir)
			env.Defer(func() { giveBack(dir) })
			return err
		},
		Condition: condition,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"ports": ports, "exits": exits, "until": until, "capture": capture, "agentfile": agentFile, "image": image, "terminate": terminate,
			"nbdwrite": nbdWrite, "nbdread": nbdRead,
		},
	})
}

// condition knows [loop]: there are loop devices, and this process may use them. Where tools are required the script finds
// out by failing.
func condition(name string) (bool, error) {
	if name != "loop" {
		return false, fmt.Errorf("there is no condition %q", name)
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return os.Getenv("FLOTILLA_REQUIRE_TOOLS") == "1", nil
	}
	return true, control.Close()
}

// giveBack takes from the host what a script that failed has left of mounts, swap files and loop devices in its directory.
func giveBack(dir string) {
	_ = syscall.Unmount(filepath.Join(dir, "mnt"), syscall.MNT_DETACH)
	if swaps, err := os.ReadFile("/proc/swaps"); err == nil && bytes.Contains(swaps, []byte(filepath.Join(dir, "swap")+" ")) {
		_ = exec.Command("swapoff", filepath.Join(dir, "swap")).Run()
	}
	backing, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range backing {
		if text, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(text), dir+"/") {
			_ = exec.Command("losetup", "-d", "/dev/"+filepath.Base(filepath.Dir(filepath.Dir(file)))).Run()
		}
	}
}

func ports(ts *testscript.TestScript, _ bool, names []string) {
	var open []net.Listener // all at once, so that they differ
	for _, name := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		open = append(open, l)
		ts.Setenv(name, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
	for _, l := range open {
		ts.Check(l.Close())
	}
}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		failed, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("run %v: %v", args[1:], err)
		}
		got = failed.ExitCode()
	}
	if got != want {
		ts.Fatalf("%v exited with %d, want %d", args[1:], got, want)
	}
}

// untilTime bounds the waits of scripts; it is generous, for machines that do much at the same time.
const untilTime = 90 * time.Second

func until(ts *testscript.TestScript, _ bool, args []string) {
	want, err := regexp.Compile("(?s)" + args[0])
	ts.Check(err)
	limit := time.After(untilTime)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var stdout, stderr bytes.Buffer
		quietly(ts, &stdout, &stderr, args[1:]...)
		if want.MatchString(stdout.String() + stderr.String()) {
			_, err := ts.Stdout().Write(stdout.Bytes())
			ts.Check(err)
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			ts.Fatalf("%v did not print %q within %v; last:\n%s%s", args[1:], args[0], untilTime, &stdout, &stderr)
		}
	}
}

// quietly runs a command without a word in the script's log. What it prints counts, not how it ends.
func quietly(ts *testscript.TestScript, stdout, stderr io.Writer, args ...string) {
	program := args[0]
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(dir, program)); err == nil {
			program = filepath.Join(dir, program)
			break
		}
	}
	c := exec.Command(program, args[1:]...)
	c.Dir, c.Stdout, c.Stderr = ts.MkAbs("."), stdout, stderr
	c.Env = append(os.Environ(), "PATH="+ts.Getenv("PATH"), "HOME="+ts.Getenv("HOME"))
	_ = c.Run()
}

func capture(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec(args[1], args[2:]...))
	out := ts.ReadFile("stdout")
	for len(out) > 0 && out[len(out)-1] == '\n' {
		out = out[:len(out)-1]
	}
	ts.Setenv(args[0], out)
}

func agentFile(ts *testscript.TestScript, _ bool, args []string) {
	name, roles := args[0], ""
	for i, r := range args[1:] {
		if i > 0 {
			roles += ", "
		}
		roles += r
	}
	dir := filepath.Join(ts.Getenv("S"), name)
	text := fmt.Sprintf("name: %s\nlisten: 127.0.0.1:%s\nstate_dir: %s\nroles: [%s]\njournal: {limit: 256MiB}\nnbd: {unix: %s.nbd}\n",
		name, ts.Getenv("PORT_"+name), dir, roles, dir)
	ts.Check(os.WriteFile(ts.MkAbs(name+".yaml"), []byte(text), 0o600))
}

func image(ts *testscript.TestScript, _ bool, args []string) {
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	f, err := os.Create(args[0])
	ts.Check(err)
	ts.Check(f.Truncate(size))
	ts.Check(f.Close())
}

func terminate(ts *testscript.TestScript, _ bool, args []string) {
	text, err := os.ReadFile(filepath.Join(args[0], "lock"))
	ts.Check(err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGTERM))
}
