package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrInUse is returned when another agent runs on the state directory.
var ErrInUse = errors.New("state directory is in use")

// stateDir is an agent's directory, held against other agents until release.
//
//	lock        flock of the running agent; its content is the process's number
//	admin.sock  the API for commands on this host
//	identity/   key, certificate and CA (of the first agent: the CA's key too)
//	control.db  Raft's log and snapshots
//	peers.json  where the cluster was found at the join
//	devices.json  exports that have a block device on this host
//	journal/    updates held for others, unless journal.dir names another place
//	spool/      what waits to be sent and is too much for memory, unless spool.dir names another place; its files have no names
//	primary/    activity logs and bitmaps of source volumes
//	secondary/  records of target volumes
type stateDir struct {
	path string
	lock *os.File
}

func adminSocket(dir string) string { return filepath.Join(dir, "admin.sock") }

// AdminSocket returns the path of the agent's API socket.
func (c *Config) AdminSocket() string { return adminSocket(c.StateDir) }

func (d *stateDir) identity() string  { return filepath.Join(d.path, "identity") }
func (d *stateDir) control() string   { return filepath.Join(d.path, "control.db") }
func (d *stateDir) peers() string     { return filepath.Join(d.path, "peers.json") }
func (d *stateDir) devices() string   { return filepath.Join(d.path, "devices.json") }
func (d *stateDir) primary() string   { return filepath.Join(d.path, "primary") }
func (d *stateDir) secondary() string { return filepath.Join(d.path, "secondary") }

// openStateDir makes the directory where it is missing and takes its lock.
func openStateDir(path string) (*stateDir, error) {
	if err := os.MkdirAll(filepath.Join(path, "identity"), 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	name := filepath.Join(path, "lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%w: %s belongs to the running agent with process ID %s: stop that one, or give this agent another state_dir",
				ErrInUse, path, lockHolder(f))
		} else {
			err = fmt.Errorf("lock %s: %w", name, err)
		}
		return nil, errors.Join(err, f.Close())
	}
	if err := writeLockHolder(f); err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", name, err), f.Close())
	}
	return &stateDir{path: path, lock: f}, nil
}

func lockHolder(f *os.File) string {
	text := make([]byte, 32)
	n, _ := f.ReadAt(text, 0) // the number is a help, its absence no further trouble
	if pid, err := strconv.Atoi(string(bytes.TrimSpace(text[:n]))); err == nil {
		return strconv.Itoa(pid)
	}
	return "(not yet written)"
}

func writeLockHolder(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// release gives the directory up. The lock file stays: removing it would let two agents lock two files of one name.
func (d *stateDir) release() error { return d.lock.Close() }
