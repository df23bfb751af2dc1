package agent

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"
)

func TestListenNamesWhatIsInTheWay(t *testing.T) {
	l, err := listenTCP("listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := listenTCP("nbd.listen", l.Addr().String()); !errors.Is(err, ErrAddressInUse) ||
		!strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "nbd.listen") || !strings.Contains(err.Error(), "ss -ltnp") {
		t.Errorf("port in use: %v", err)
	}
	if _, err := listenTCP("listen", "203.0.113.1:7431"); err == nil || !strings.Contains(err.Error(), "ip address") {
		t.Errorf("foreign address: %v", err)
	}
}

func TestListenIsForTCPAlone(t *testing.T) {
	l, err := listenTCP("listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	protocol := 0
	if failed := c.Control(func(fd uintptr) { protocol, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL) }); failed != nil || err != nil || protocol != unix.IPPROTO_TCP {
		t.Errorf("protocol %d, %v, %v", protocol, failed, err)
	}
}

func TestListenUnix(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix("nbd.unix", path); !errors.Is(err, ErrAddressInUse) {
		t.Errorf("served socket: %v", err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := listenUnix("nbd.unix", path)
	if err != nil {
		t.Fatalf("left-over socket: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix("nbd.unix", file); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
}

// pipes is a listener whose connections are given to it.
type pipes struct {
	net.Listener
	conns chan net.Conn
}

func (p *pipes) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p *pipes) Close() error {
	close(p.conns)
	return nil
}

// Above its limit a listener takes the next connection only when another has ended, and an end counts once.
func TestLimitedListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &pipes{conns: make(chan net.Conn, 4)}
		for range 4 {
			near, far := net.Pipe()
			base.conns <- near
			defer far.Close()
		}
		l := newLimited(base, 1)
		var accepted []net.Conn
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				accepted = append(accepted, c)
			}
		}()
		for want := 1; want <= 3; want++ {
			synctest.Wait()
			if len(accepted) != want {
				t.Fatalf("%d connections are open, want %d with all before them closed", len(accepted), want)
			}
			for _, c := range accepted { // each is closed again and again, which frees one place in all
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
		}
		synctest.Wait()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		for _, c := range accepted {
			_ = c.Close()
		}
		<-ended
	})
}
