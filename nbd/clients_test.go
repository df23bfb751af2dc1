package nbd_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flotilla/nbd"
)

// tool runs an external NBD client and returns what it printed. The test is
// skipped if it is missing, unless FLOTILLA_REQUIRE_TOOLS is 1.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("FLOTILLA_REQUIRE_TOOLS") == "1" {
			t.Fatalf("%s is missing", name)
		}
		t.Skipf("%s is missing", name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sparseImage writes a file of 16 MiB with data, a hole and data.
func sparseImage(t *testing.T) (path string, data []byte) {
	t.Helper()
	data = make([]byte, 16*mib)
	_, _ = rand.Read(data[:5*mib])
	_, _ = rand.Read(data[12*mib:])
	path = filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, data
}

// forModes runs f with a memory export of 16 MiB in every mode.
func forModes(t *testing.T, f func(t *testing.T, e *memory, s *running)) {
	for name, m := range map[string]mode{"inline": inline, "worker": worker, "async": async} {
		t.Run(name, func(t *testing.T) {
			e := newMemory(16*mib, m)
			f(t, e, start(t, nbd.Limits{}, one(e)))
		})
	}
}

func TestNbdinfo(t *testing.T) {
	e := newMemory(16*mib, inline)
	s := start(t, nbd.Limits{}, map[string]nbd.Export{"disk": e, "second": newMemory(mib, inline)})
	uri := "nbd+unix:///disk?socket=" + s.socket
	var info struct {
		Exports []map[string]any
	}
	if err := json.Unmarshal([]byte(tool(t, "nbdinfo", "--json", uri)), &info); err != nil {
		t.Fatal(err)
	}
	got := info.Exports[0]
	for key, want := range map[string]any{
		"export-name": "disk", "export-size": 16.0 * mib, "is_read_only": false, "can_flush": true, "can_fua": true,
		"can_trim": true, "can_zero": true, "can_fast_zero": true, "can_multi_conn": true, "can_df": true,
		"can_cache": true, "block_size_minimum": 1.0, "block_size_preferred": 4096.0, "block_size_maximum": 32.0 * mib,
	} {
		if got[key] != want {
			t.Errorf("%s: %v, want %v", key, got[key], want)
		}
	}
	if out := tool(t, "nbdinfo", "--list", "--json", s.uri()); !strings.Contains(out, `"second"`) {
		t.Errorf("list: %s", out)
	}
	e.mu.Lock()
	e.data[4096*3], e.holes[3] = 1, false
	e.mu.Unlock()
	out := strings.Join(strings.Fields(tool(t, "nbdinfo", "--map", uri)), " ")
	if want := "0 12288 3 hole,zero 12288 4096 0 data 16384 16760832 3 hole,zero"; out != want {
		t.Errorf("map: %s, want %s", out, want)
	}
}

func TestNbdcopyThereAndBack(t *testing.T) {
	path, data := sparseImage(t)
	forModes(t, func(t *testing.T, e *memory, s *running) {
		tool(t, "nbdcopy", "--flush", path, s.uri())
		if !bytes.Equal(e.snapshot(), data) {
			t.Error("the export differs from the image")
		}
		if e.flushes.Load() == 0 {
			t.Error("no flush arrived")
		}
		back := filepath.Join(t.TempDir(), "back")
		tool(t, "nbdcopy", "--connections=4", s.uri(), back)
		if got, _ := os.ReadFile(back); !bytes.Equal(got, data) {
			t.Error("the copy differs from the export")
		}
	})
}

func TestNbdsh(t *testing.T) {
	s := start(t, nbd.Limits{}, one(newMemory(16*mib, async)))
	script := `
import nbd, errno
for structured in (True, False):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    if structured: h.add_meta_context("base:allocation")
    h.set_strict_mode(0)
    h.connect_uri("` + s.uri() + `")
    assert h.get_structured_replies_negotiated() == structured
    h.pwrite(b"x" * 70000, 12345, nbd.CMD_FLAG_FUA)
    assert h.pread(70002, 12344) == b"\0" + b"x" * 70000 + b"\0"
    h.zero(4096, 16384, nbd.CMD_FLAG_NO_HOLE)
    h.trim(4096, 20480, nbd.CMD_FLAG_FUA)
    h.cache(4096, 0)
    h.flush()
    assert h.pread(8192, 16384) == bytes(8192)
    def fails(want, f, *args):
        try: f(*args)
        except nbd.Error as e: assert e.errnum == want, (e, want)
        else: assert False, "no error"
    size = h.get_size()
    fails(errno.EINVAL, h.pread, 512, size)
    fails(errno.ENOSPC, h.pwrite, b"x" * 512, size)
    fails(errno.ENOSPC, h.zero, 512, size)
    fails(errno.EINVAL, h.trim, 512, size)
    fails(errno.EINVAL, h.pread, 512, 0, nbd.CMD_FLAG_REQ_ONE)
    if structured:
        got = []
        h.block_status(16384, 16384, lambda c, o, e, err: got.append((c, o, e)) and 0, nbd.CMD_FLAG_REQ_ONE)
        assert got == [("base:allocation", 16384, [4096, 0])], got
    # many in flight, completed out of order
    bufs = [bytearray([i]) * 5000 for i in range(200)]
    for i, b in enumerate(bufs): h.aio_pwrite(b, 1000000 + i * 5000)
    while h.aio_in_flight(): h.poll(-1)
    for i, b in enumerate(bufs): assert h.pread(5000, 1000000 + i * 5000) == b
    h.shutdown()
print("good")
`
	// The bindings belong to the system's Python; nbdsh is its module nbd.
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import nbd").Run(); err != nil {
		tool(t, "nbdsh", "--version") // tells that it is missing
		t.Fatalf("nbdsh is there, but %s cannot import nbd", python)
	}
	if out := tool(t, python, "-c", script); !strings.Contains(out, "good") {
		t.Error(out)
	}
	if out := tool(t, python, "-m", "nbd", "-u", s.uri(), "-c", "print(h.get_size())"); strings.TrimSpace(out) != "16777216" {
		t.Errorf("nbdsh: %q", out)
	}
}

func TestQemuImg(t *testing.T) {
	path, data := sparseImage(t)
	forModes(t, func(t *testing.T, e *memory, s *running) {
		tool(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", path, s.uri())
		if !bytes.Equal(e.snapshot(), data) {
			t.Error("the export differs from the image")
		}
		tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", path, s.uri())
		var extents []struct {
			Start, Length int64
			Data          bool
		}
		out := tool(t, "qemu-img", "map", "--output=json", "-f", "raw", s.uri())
		if err := json.Unmarshal([]byte(out), &extents); err != nil {
			t.Fatal(err)
		}
		if len(extents) != 3 || !extents[0].Data || extents[1].Data || extents[1].Start != 5*mib || extents[1].Length != 7*mib {
			t.Errorf("map: %s", out)
		}
	})
}

func TestQemuIO(t *testing.T) {
	forModes(t, func(t *testing.T, e *memory, s *running) {
		out := tool(t, "qemu-io", "-f", "raw",
			"-c", "aio_write -P 0x11 0 1M", "-c", "aio_write -P 0x22 1M 64k", "-c", "aio_flush",
			"-c", "write -f -P 0x33 2M 4k", "-c", "write -z 512k 64k", "-c", "discard 1M 32k", "-c", "flush",
			"-c", "read -P 0x11 0 512k", "-c", "read -P 0 512k 64k", "-c", "read -P 0x22 1081344 32k", "-c", "read -P 0x33 2M 4k",
			s.uri())
		if strings.Contains(out, "failed") || strings.Contains(out, "rror") {
			t.Error(out)
		}
		if e.fuas.Load() == 0 {
			t.Error("no FUA arrived")
		}
	})
}

func TestFioVerifies(t *testing.T) {
	forModes(t, func(t *testing.T, e *memory, s *running) {
		tool(t, "fio", "--name=verify", "--ioengine=nbd", "--uri="+s.uri(), "--size=16M", "--rw=randwrite",
			"--bsrange=512-128k", "--iodepth=32", "--verify=crc32c", "--verify_fatal=1", "--fsync=64")
		if e.flushes.Load() == 0 {
			t.Error("no flush arrived")
		}
	})
}
