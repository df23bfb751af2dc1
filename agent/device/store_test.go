//go:build linux

package device

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestStoreTellsTheManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if OpenStore(func(string) string { return "" }) != nil {
		t.Error("a store without a manager")
	}
	s := OpenStore(func(key string) string { return map[string]string{"NOTIFY_SOCKET": path}[key] })
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := s.Keep("device=db/data", w); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	text, rights := make([]byte, 256), make([]byte, 64)
	n, rn, _, _, err := l.ReadMsgUnix(text, rights)
	if diff := cmp.Diff("FDSTORE=1\nFDNAME=device=db/data", string(text[:n])); diff != "" || err != nil {
		t.Error(diff, err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatal(fds, err)
	}
	s.found["device=db/data"] = os.NewFile(uintptr(fds[0]), "device=db/data") // as the next run finds it
	f := s.Take("device=db/data")
	if f == nil {
		t.Fatal("what was kept is not there")
	}
	if _, err := f.WriteString("x"); err != nil {
		t.Error(err)
	}
	_ = f.Close()
	if n, err := l.Read(text); string(text[:n]) != "FDSTOREREMOVE=1\nFDNAME=device=db/data" || err != nil {
		t.Errorf("%q, %v", text[:n], err)
	}
	if s.Take("device=db/data") != nil {
		t.Error("it was taken twice")
	}
}
