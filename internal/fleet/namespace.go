package fleet

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Namespace is a network of its own, without a name: it is gone, with its devices, when it is closed and no process is in
// it any more, also when this program was killed. Making one wants CAP_SYS_ADMIN.
type Namespace struct{ file *os.File }

// ErrPrivilege is wrapped by the error of who may not make namespaces.
var ErrPrivilege = errors.New("network namespaces want root")

// NewNamespace makes a namespace with nothing in it but a loopback device that is down.
func (s *Spawner) NewNamespace() (*Namespace, error) {
	var ns Namespace
	err := s.do(func() error {
		own, err := current()
		if err != nil {
			return err
		}
		defer own.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			if errors.Is(err, unix.EPERM) {
				err = ErrPrivilege
			}
			return fmt.Errorf("make a network namespace: %w", err)
		}
		made, err := current()
		ns.file = made
		return errors.Join(err, enter(own))
	})
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return &ns, nil
}

// Close lets the namespace go.
func (n *Namespace) Close() error {
	if n == nil || n.file == nil {
		return nil
	}
	return n.file.Close()
}

// Path names the namespace to processes of this machine, such as ip, while it is open.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// current opens the thread's namespace.
func current() (*os.File, error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	return f, nil
}

func enter(f *os.File) error {
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter a network namespace: %w", err)
	}
	return nil
}

// within runs f on the calling thread, which must be locked, with the namespace as its network; nil is the thread's own.
func (n *Namespace) within(f func() error) error {
	if n == nil {
		return f()
	}
	own, err := current()
	if err != nil {
		return err
	}
	defer own.Close()
	if err := enter(n.file); err != nil {
		return err
	}
	return errors.Join(f(), enter(own))
}
