package demo

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flotilla/agent/api"
)

func TestTakeover(t *testing.T) {
	heard := func(s float64) *float64 { return &s }
	status := func(dead, rebuilding bool) *api.Status {
		return &api.Status{Components: []api.Component{
			{Agent: "a", Member: !dead, HeardSeconds: heard(0)},
			{Agent: "b", Member: true, HeardSeconds: heard(0), Rebuilding: rebuilding},
		}}
	}
	group := func(open, committed uint64) *api.Group { return &api.Group{Open: open, Committed: committed} }
	w := &takeover{killed: "a", calm: map[string]bool{}}
	for i, step := range []struct {
		s    *api.Status
		g    *api.Group
		done bool
	}{
		{status(false, false), group(7, 6), false}, // not yet declared lost
		{status(true, true), group(9, 6), false},   // from now on set 9 is what counts
		{status(true, true), group(11, 9), false},  // committed, but something is still copied
		{status(true, false), group(11, 8), false}, // not committed
		{status(true, true), group(12, 9), true},   // what is copied now is newer
	} {
		if got := w.done(step.s, step.g); got != step.done {
			t.Errorf("step %d: %v", i, got)
		}
	}
}

func TestOptions(t *testing.T) {
	good := Options{Program: "p", Out: io.Discard}
	if o, err := good.withDefaults(); err != nil || o.Components != 3 || o.Size != 64*mib {
		t.Errorf("%+v, %v", o, err)
	}
	for name, change := range map[string]func(o *Options){
		"no program":      func(o *Options) { o.Program = "" },
		"no story":        func(o *Options) { o.Out = nil },
		"components":      func(o *Options) { o.Components = -1 },
		"many components": func(o *Options) { o.Components = maxAgents + 1 },
		"small":           func(o *Options) { o.Size = mib },
		"odd":             func(o *Options) { o.Size = minSize + 1 },
		"short":           func(o *Options) { o.Run = 1 },
	} {
		o := good
		change(&o)
		if _, err := o.withDefaults(); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNarrator(t *testing.T) {
	var out bytes.Buffer
	n := &narrator{w: &out}
	n.title("A %s", "title")
	n.say("%s", strings.Repeat("word ", 30))
	p := n.progress("copy")
	for i := range int64(101) {
		p.at(i, 100)
	}
	p.at(100, 100)
	if got := out.String(); !strings.HasPrefix(got, "\n1. A title\n   word") || strings.Count(got, "copy:") != 4 || !strings.Contains(got, "copy: 100%") || strings.ContainsAny(got, "\r\x1b") {
		t.Errorf("plain: %q", got)
	}
	for line := range strings.Lines(out.String()) {
		if len(line) > lineWidth+1 {
			t.Errorf("a line of %d: %q", len(line), line)
		}
	}
	out.Reset()
	n = &narrator{w: &out, terminal: true}
	p = n.progress("copy")
	p.at(50, 100)
	n.say("done")
	if got := out.String(); !strings.Contains(got, strings.Repeat("█", barWidth/2)+strings.Repeat("·", barWidth/2)+"]  50%") || !strings.HasSuffix(got, "\r\x1b[K   done\n") {
		t.Errorf("terminal: %q", got)
	}
}

// Images are cut or filled up to their place, and never change what was given.
func TestImages(t *testing.T) {
	dir := t.TempDir()
	given := filepath.Join(dir, "given")
	text := bytes.Repeat([]byte("0123456789"), 1000)
	if err := os.WriteFile(given, text, 0o400); err != nil {
		t.Fatal(err)
	}
	im, err := givenImage(given, filepath.Join(dir, "image"))
	if err != nil || im.length != 10000 || im.ext4 {
		t.Fatalf("%+v, %v", im, err)
	}
	if err := sparseCopy(im.path, filepath.Join(dir, "volume"), mib); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "volume"))
	if err != nil || int64(len(got)) != mib || !bytes.Equal(got[:10000], text) || len(bytes.Trim(got[10000:], "\x00")) != 0 {
		t.Errorf("volume of %d bytes, %v", len(got), err)
	}
	if _, err := givenImage(filepath.Join(dir, "none"), filepath.Join(dir, "other")); !errors.Is(err, ErrOptions) {
		t.Errorf("no source: %v", err)
	}
	if err := checkRoom(dir, 1<<60); !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), "TMPDIR") {
		t.Errorf("room for an exbibyte: %v", err)
	}
}

// Without a tool for file systems there is an archive.
func TestArchive(t *testing.T) {
	dir := t.TempDir()
	files := filepath.Join(dir, "files")
	from := filepath.Join(dir, "from", "sub")
	if err := os.MkdirAll(from, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		if err := os.WriteFile(filepath.Join(from, name), []byte("content of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	count, err := gatherFrom(filepath.Dir(from), files, 3*blockSize)
	if err != nil || count != 2 {
		t.Fatalf("gathered %d, %v", count, err)
	}
	path := filepath.Join(dir, "image")
	if err := archive(path, files); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(text, []byte("content of b")) || bytes.Contains(text, []byte("content of c")) {
		t.Errorf("%v", err)
	}
}
