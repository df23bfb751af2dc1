//go:build !linux

package kernel

import (
	"fmt"
	"net"
	"os"
	"runtime"
)

// Options are of no use here.
type Options struct {
	Sys, Dev string
	Load     func() error
}

// Kernel is never made here.
type Kernel struct{ Sysfs }

// Open says that only Linux has an NBD client.
func Open(Options) (*Kernel, error) { return nil, unsupported() }

// Path, CheckNode, Connect, Reconfigure, Disconnect, Status, SocketPair, FileConn and Taken are what they are on Linux; here
// nobody gets to them.
func (*Kernel) Path(int) string                            { return "" }
func (*Kernel) CheckNode(int) error                        { return unsupported() }
func (*Kernel) Connect(Config, ...*os.File) (int, error)   { return 0, unsupported() }
func (*Kernel) Reconfigure(int, Change, ...*os.File) error { return unsupported() }
func (*Kernel) Disconnect(int) error                       { return unsupported() }
func (*Kernel) Status() ([]State, error)                   { return nil, unsupported() }
func SocketPair() (*net.UnixConn, *os.File, error)         { return nil, nil, unsupported() }
func FileConn(*os.File) (*net.UnixConn, error)             { return nil, unsupported() }
func Taken(*net.UnixConn) (bool, error)                    { return false, unsupported() }
func isNoDevice(error) bool                                { return false }

func unsupported() error {
	return fmt.Errorf("attach a block device: %w: %s has none, Linux has", ErrUnsupported, runtime.GOOS)
}
