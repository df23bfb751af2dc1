package device

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Store is the file descriptor store of the service's manager, as systemd offers it to units with FileDescriptorStoreMax
// (sd_notify(3), sd_listen_fds(3)): what is put there comes back to the next run of the service. It is a Keeper.
type Store struct {
	notify string              // path of the manager's socket
	found  map[string]*os.File // what the run before has left
}

// firstListenFD is the number of the first descriptor that a manager passes on.
const firstListenFD = 3

// OpenStore takes what the run before has left, and the environment's word of it. It returns nil where there is no manager.
// It is called once, before anything else opens a file.
func OpenStore(getenv func(string) string) *Store {
	s := &Store{notify: getenv("NOTIFY_SOCKET"), found: map[string]*os.File{}}
	if s.notify == "" {
		return nil
	}
	n, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return s
	}
	for i, name := range strings.Split(getenv("LISTEN_FDNAMES"), ":") {
		if i < n && strings.HasPrefix(name, keptName("")) {
			unix.CloseOnExec(firstListenFD + i)
			s.found[name] = os.NewFile(uintptr(firstListenFD+i), name)
		}
	}
	return s
}

// Take implements Keeper. The manager forgets the socket before anybody reads from it: a run that dies later must not leave
// one that stands in the middle of a request.
func (s *Store) Take(name string) *os.File {
	f := s.found[name]
	if f == nil {
		return nil
	}
	delete(s.found, name)
	if err := s.tell("FDSTOREREMOVE=1\nFDNAME="+name, nil); err != nil {
		_ = f.Close() // better a request that waits for the time-out
		return nil
	}
	return f
}

// Keep implements Keeper.
func (s *Store) Keep(name string, f *os.File) error {
	return s.tell("FDSTORE=1\nFDNAME="+name, unix.UnixRights(int(f.Fd())))
}

func (s *Store) tell(state string, rights []byte) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Sendmsg(fd, []byte(state), rights, &unix.SockaddrUnix{Name: s.notify}, 0) // "@" in front means what it does to the manager
		err = errors.Join(err, unix.Close(fd))
	}
	if err != nil {
		return fmt.Errorf("tell the service's manager: %w", err)
	}
	return nil
}
