//go:build linux

package kernel

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// Whoever holds the other end has taken the socket; nobody has when the last end is closed.
func TestTaken(t *testing.T) {
	ours, theirs, err := SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	held, err := unix.Dup(int(theirs.Fd())) // as the kernel holds it
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	if taken, err := Taken(ours); !taken || err != nil {
		t.Errorf("taken %v, %v while somebody holds it", taken, err)
	}
	if err := unix.Close(held); err != nil {
		t.Fatal(err)
	}
	if taken, err := Taken(ours); taken || err != nil {
		t.Errorf("taken %v, %v when nobody holds it", taken, err)
	}
}

func TestModuleThatCannotBeLoaded(t *testing.T) {
	missing := errors.New("modules.dep: no such file")
	err := loadModule(func() error { return missing }, func() error { return errors.New("not found in path") }, "6.1.0-test")
	for _, want := range []string{"6.1.0-test", "linux-image-amd64", "linux-modules-extra-6.1.0-test", "modules.dep"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	if !errors.Is(err, ErrUnsupported) {
		t.Error("the error is not ErrUnsupported")
	}
	err = loadModule(func() error { return unix.EPERM }, func() error { return missing }, "x")
	if !errors.Is(err, ErrPrivilege) || !strings.Contains(err.Error(), "root") {
		t.Errorf("error %v does not ask for root", err)
	}
	if err := loadModule(func() error { return missing }, func() error { return nil }, "x"); err != nil {
		t.Errorf("modprobe has loaded it, and the error is %v", err)
	}
}

func TestCompressedModules(t *testing.T) {
	var gz, zs bytes.Buffer
	g := gzip.NewWriter(&gz)
	_, _ = g.Write([]byte("module"))
	_ = g.Close()
	z, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = z.Write([]byte("module"))
	_ = z.Close()
	for name, data := range map[string]io.Reader{"nbd.ko.gz": &gz, "nbd.ko.zst": &zs} {
		r, err := unpack(name, data)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); string(got) != "module" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if r, err := unpack("nbd.ko", nil); r != nil || err != nil {
		t.Error("a plain module is not unpacked", err)
	}
	if _, err := unpack("nbd.ko.lz4", nil); err == nil {
		t.Error("an unknown compression was not refused")
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for _, tc := range []struct {
		from, is error
		say      string
	}{
		{unix.EPERM, ErrPrivilege, "root"},
		{unix.EBUSY, ErrBusy, "another index"},
		{unix.EINVAL, ErrNoDevice, "not set up"},
		{unix.ENOMEM, unix.ENOMEM, "set up nbd3"},
	} {
		if err := explain("set up nbd3", tc.from); !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.say) {
			t.Errorf("%v is explained by %q", tc.from, err)
		}
	}
	k := &Kernel{dev: t.TempDir()}
	if err := k.CheckNode(3); err == nil || !strings.Contains(err.Error(), "devtmpfs") {
		t.Errorf("a missing node: %v", err)
	}
	if err := os.WriteFile(k.Path(3), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.CheckNode(3); err == nil {
		t.Error("an ordinary file was taken for a device")
	}
}

// Each end of a pair takes a request of the largest size as a whole, before anybody reads.
func TestPairHoldsALargeRequest(t *testing.T) {
	ours, theirs, err := SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	f, err := ours.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	request := make([]byte, 28+512<<10)
	for i, end := range []*os.File{f, theirs} {
		n, err := unix.SendmsgN(int(end.Fd()), request, nil, nil, unix.MSG_DONTWAIT)
		if n != len(request) || err != nil {
			t.Errorf("end %d takes %d of %d bytes, %v", i, n, len(request), err)
		}
	}
}
