package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"flotilla/internal/demo"
)

// demoTime bounds what tests wait for, for machines that do much at the same time.
const demoTime = 4 * time.Minute

// demoDir is a directory of its own with a short path, that must be empty at the end.
func demoDir(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("a demo runs for some ten seconds")
	}
	dir, err := os.MkdirTemp("", "fl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if pids := processesOf(t, dir); len(pids) > 0 {
		t.Errorf("processes %v still run", pids)
	}
}

// processesOf returns the processes that have a path in a directory on their command line.
func processesOf(t *testing.T, dir string) (pids []string) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte(dir+"/")) { // otherwise it has ended meanwhile
			pids = append(pids, filepath.Base(filepath.Dir(path)))
		}
	}
	return pids
}

// program is this test's own binary under the name by which it is the command.
func program(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("flotilla")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// demoOf prepares a small demo that logs its story.
func demoOf(t *testing.T, o demo.Options) (*demo.Figures, string, error) {
	t.Helper()
	var story bytes.Buffer
	o.Program, o.Out, o.Size = program(t), &story, 16<<20
	if o.Run == 0 {
		o.Run = time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), demoTime)
	defer cancel()
	figures, err := demo.Run(ctx, o)
	t.Logf("%s\n%v", &story, err)
	return figures, story.String(), err
}

func TestDemo(t *testing.T) {
	dir := demoDir(t)
	f, story, err := demoOf(t, demo.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, dir)
	if f.Verdict != "proven" || f.FailedWrites != 0 || f.Components != 3 || f.Compared != 32<<20 || f.CopyBytes != 32<<20 || len(f.Streams) != 4 || f.Degraded {
		t.Errorf("figures %+v", f)
	}
	for name, v := range map[string]float64{
		"copy": f.CopySeconds, "sent": float64(f.SentBytes), "written": float64(f.WrittenBytes), "takeover": f.Takeover,
		"promote": f.PromoteSeconds, "set": float64(f.Set), "record": float64(f.ChainRecord), "RPO": f.RPOWorst,
	} {
		if v <= 0 {
			t.Errorf("%s: %v", name, v)
		}
	}
	for _, s := range f.Streams {
		if s.Recovered == 0 || s.Recovered > s.Issued {
			t.Errorf("stream %+v", s)
		}
	}
	if !strings.Contains(story, "The chain across both hosts is intact") || !strings.Contains(story, "8. The figures") {
		t.Error("the story is not whole")
	}
}

// The only component comes back with its journal; and the image is what the user names.
func TestDemoOfOneComponent(t *testing.T) {
	dir := demoDir(t)
	source := filepath.Join(t.TempDir(), "source")
	text := bytes.Repeat([]byte("what the user has\n"), 70000)
	if err := os.WriteFile(source, text, 0o400); err != nil {
		t.Fatal(err)
	}
	f, story, err := demoOf(t, demo.Options{Dir: dir, Components: 1, Source: source, Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	if f.Verdict != "proven" || f.Killed != "component1" || !f.Degraded || !strings.Contains(story, "started again") {
		t.Errorf("figures %+v", f)
	}
	kept, err := filepath.Glob(filepath.Join(dir, "*", "volume1.target"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept %v, %v", kept, err)
	}
	target, err := os.ReadFile(kept[0])
	if err != nil || !bytes.HasPrefix(target, text) {
		t.Errorf("the target does not begin with the source: %v", err)
	}
	if pids := processesOf(t, dir); len(pids) > 0 {
		t.Errorf("processes %v still run", pids)
	}
}

// The proof must be able to fail.
func TestDemoFindsDamage(t *testing.T) {
	dir := demoDir(t)
	f, _, err := demoOf(t, demo.Options{Dir: dir, BeforeProof: func(targets []string) error {
		f, err := os.OpenFile(targets[1], os.O_RDWR, 0)
		if err != nil {
			return err
		}
		b := make([]byte, 1)
		_, err = f.ReadAt(b, 1<<20+77)
		b[0] ^= 0x10
		_, werr := f.WriteAt(b, 1<<20+77)
		return errors.Join(err, werr, f.Close())
	}})
	want := "1 blocks of volume volume2 differ; the first: offset 1048576 of volume2 should hold the image that it began with and holds bytes that nobody wrote"
	if !errors.Is(err, demo.ErrDiffers) || !strings.Contains(err.Error(), want) || !strings.Contains(f.Verdict, want) {
		t.Errorf("got %v, figures %+v", err, f)
	}
	nothingLeft(t, dir)
}

// demoProcess starts the command, and waits until its story has come to a step.
func demoProcess(t *testing.T, dir, step string) *exec.Cmd {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program(t), "demo", "--size", "16MiB", "--components", "2")
	c.Env = append(os.Environ(), "TMPDIR="+dir)
	c.Stdout, c.Stderr = w, w
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	limit := time.AfterFunc(demoTime, func() { _ = c.Process.Kill() })
	t.Cleanup(func() { limit.Stop() })
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var story []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(story, []byte(step)) {
		n, err := r.Read(buf)
		if story = append(story, buf[:n]...); err != nil {
			t.Fatalf("the story ended before %q: %s", step, story)
		}
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for { // until the last process that has the pipe is gone
			n, err := r.Read(buf)
			if story = append(story, buf[:n]...); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		<-drained
		_ = r.Close()
		t.Logf("%s", story)
	})
	return c
}

func TestDemoInterrupted(t *testing.T) {
	for _, tc := range []struct {
		signal syscall.Signal
		step   string
	}{{syscall.SIGINT, "2. "}, {syscall.SIGTERM, "4. "}} {
		t.Run(tc.signal.String(), func(t *testing.T) {
			dir := demoDir(t)
			c := demoProcess(t, dir, tc.step)
			if err := c.Process.Signal(tc.signal); err != nil {
				t.Fatal(err)
			}
			if err := c.Wait(); c.ProcessState.ExitCode() != exitError {
				t.Errorf("it ended with %v", err)
			}
			nothingLeft(t, dir)
		})
	}
}

// Agents do not outlive a demo that was killed itself.
func TestDemoKilled(t *testing.T) {
	dir := demoDir(t)
	c := demoProcess(t, dir, "4. ")
	if pids := processesOf(t, dir); len(pids) < 5 {
		t.Errorf("only %v run", pids)
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // it was killed
	limit := time.After(demoTime)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for len(processesOf(t, dir)) > 0 {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("processes %v outlive the demo", processesOf(t, dir))
		}
	}
}

func TestDemoRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no component": {[]string{"--components", "0"}, "--components 0: at least 1"},
		"no time":      {[]string{"--seconds", "0"}, "--seconds 0: at least 1"},
		"small":        {[]string{"--size", "1MiB"}, "choose whole MiB from 16MiB"},
		"no source":    {[]string{"--source", "/nonexistent"}, "/nonexistent"},
		"argument":     {[]string{"x"}, "x"},
	} {
		t.Run(name, func(t *testing.T) {
			c := exec.Command(program(t), append([]string{"demo", "--json"}, tc.args...)...)
			dir := t.TempDir()
			c.Env = append(os.Environ(), "TMPDIR="+dir)
			var stdout, stderr bytes.Buffer
			c.Stdout, c.Stderr = &stdout, &stderr
			if err := c.Run(); c.ProcessState.ExitCode() != exitUsage || !strings.Contains(stderr.String(), tc.want) {
				t.Errorf("%v: %s", err, &stderr)
			}
			if stdout.Len() > 0 && !json.Valid(stdout.Bytes()) {
				t.Errorf("no JSON: %s", &stdout)
			}
			nothingLeft(t, dir)
		})
	}
}
