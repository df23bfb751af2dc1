// Package crashfs is a file system in memory that forgets what was not flushed, for tests of whatever must survive a
// power cut.
//
// Each file keeps two contents: the cache, which reads see, and the disk, which is what the last flush left plus the
// log of writes since. Names are kept the same way per directory. The events a test can bring about:
//
//   - PowerCut, or CutAt(n) for the n-th operation that changes something: every later operation fails with
//     ErrDown until Restart. Restart then settles what the disk kept of the unflushed: of every write none, all, a
//     prefix or any choice of its 512-byte sectors, and any choice of the unsynced name changes, all drawn from the seed.
//   - Kill, or KillAt(n): the process dies and the machine does not. Again all fails until Restart, but the cache stays.
//   - Hook: sees every operation first, and can make it fail. A write that fails may have written a part; a flush that
//     fails drops its pages as Linux does: the cache still shows them, a second flush reports success, and the disk
//     never gets them.
//   - SetSpace: the disk is full beyond so many bytes.
//   - Corrupt: rot. Flips bits of what is on the disk.
//
// The same seed and the same order of operations give the same outcome. A directory, once made, is durable.
package crashfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"sort"
	"sync"
	"syscall"

	"flotilla/agent/vfs"
)

// ErrDown is returned by every operation between a power cut or kill and Restart, and by handles from before it.
var ErrDown = errors.New("the machine or the process is down")

// Kind names an operation that a Hook sees.
type Kind string

// The operations. Read and Space change nothing and are not counted by Ops and CutAt.
const (
	Create   Kind = "create"
	Rename   Kind = "rename"
	Remove   Kind = "remove"
	SyncDir  Kind = "syncdir"
	Write    Kind = "write"
	Truncate Kind = "truncate"
	Allocate Kind = "allocate"
	Sync     Kind = "sync"
	Read     Kind = "read"
	Space    Kind = "space"
)

// Op is one operation about to happen. Sync stands for both Sync and SyncData.
type Op struct {
	Kind Kind
	Name string // full path; of a rename the old one
}

// FS is the file system. Make it with New.
type FS struct {
	mu    sync.Mutex
	rng   *rand.Rand
	dirs  map[string]*dir
	hook  func(Op) error
	ops   int   // changing operations so far
	cutAt int   // the power goes at this one; 0: never
	dieAt int   // the process dies after this one; 0: never
	space int64 // bytes all files may have together; negative: no limit
	state state
	life  int // rises at Restart; handles of an older life are dead
}

var _ vfs.FS = (*FS)(nil)

type state int

const (
	up state = iota
	killed
	cut
)

// dir holds the names of one directory: as seen now, as on disk, and the changes between.
type dir struct {
	now  map[string]*inode
	disk map[string]*inode
	log  []nameChange
}

// nameChange happens whole or not at all. An empty name means none.
type nameChange struct {
	gone  string
	name  string
	inode *inode
}

// New makes an empty file system with the directory "/".
func New(seed uint64) *FS {
	f := &FS{rng: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)), dirs: map[string]*dir{}, space: -1}
	f.dirs["/"] = newDir()
	return f
}

func newDir() *dir { return &dir{now: map[string]*inode{}, disk: map[string]*inode{}} }

// SetHook installs a function that is called before every operation and makes it fail by returning an error. It must
// not call the file system. Nil takes it away.
func (f *FS) SetHook(hook func(Op) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// SetSpace limits the bytes of all files together; writes and allocations beyond fail with ENOSPC. Negative: no limit.
func (f *FS) SetSpace(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.space = bytes
}

// Ops returns how many changing operations there have been.
func (f *FS) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// CutAt cuts the power at the n-th changing operation counted from now, the first being 1. That operation itself may
// still reach the disk, in part, like anything unflushed. Zero calls it off.
func (f *FS) CutAt(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cutAt = 0
	if n > 0 {
		f.cutAt = f.ops + n
	}
}

// KillAt lets the process die right after the n-th changing operation counted from now. Zero calls it off.
func (f *FS) KillAt(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dieAt = 0
	if n > 0 {
		f.dieAt = f.ops + n
	}
}

// PowerCut cuts the power now.
func (f *FS) PowerCut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = cut
}

// Kill ends the process but not the machine: what was written stays as it was seen, and what was not flushed
// is still not flushed.
func (f *FS) Kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == up {
		f.state = killed
	}
}

// Down reports whether everything fails until Restart.
func (f *FS) Down() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state != up
}

// Restart makes the file system work again after a power cut, having settled what the disk kept, or after a kill. If there was
// neither it cuts the power first.
func (f *FS) Restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	settle := f.state != killed
	f.state, f.cutAt, f.dieAt = up, 0, 0
	f.life++
	if !settle {
		return
	}
	seen := map[*inode]bool{}
	for _, name := range sortedKeys(f.dirs) {
		d := f.dirs[name]
		for _, c := range choose(f.rng, d.log) {
			c.apply(d.disk)
		}
		d.log = nil
		d.now = clone(d.disk)
		for _, base := range sortedKeys(d.now) {
			if n := d.now[base]; !seen[n] {
				seen[n] = true
				n.settle(f.rng)
			}
		}
	}
}

// Corrupt flips the bits of mask in one byte of a file, on disk and in the cache. It does not count as an operation.
func (f *FS) Corrupt(name string, off int64, mask byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.lookup(name)
	if err != nil {
		return err
	}
	if off < 0 || off >= int64(len(n.cache)) {
		return fmt.Errorf("corrupt %s: offset %d is outside its %d bytes", name, off, len(n.cache))
	}
	n.cache[off] ^= mask
	if off < int64(len(n.disk)) {
		n.disk[off] ^= mask
	}
	return nil
}

// begin counts and admits an operation. A non-nil error means it must not happen; half says that the power just went
// with it, so that its effect stays in the log of the unflushed. f.mu is held.
func (f *FS) begin(op Op) (half bool, err error) {
	if f.state != up {
		return false, fmt.Errorf("%s %s: %w", op.Kind, op.Name, ErrDown)
	}
	changes := op.Kind != Read && op.Kind != Space
	if changes {
		f.ops++
	}
	if f.hook != nil {
		if err := f.hook(op); err != nil {
			return false, fmt.Errorf("%s %s: %w", op.Kind, op.Name, err)
		}
	}
	if changes && f.cutAt != 0 && f.ops >= f.cutAt {
		f.state = cut
		return true, fmt.Errorf("%s %s: %w", op.Kind, op.Name, ErrDown)
	}
	if changes && f.dieAt != 0 && f.ops >= f.dieAt {
		f.state = killed // The next operation finds out.
	}
	return false, nil
}

func (f *FS) lookup(name string) (*inode, error) {
	if d := f.dirs[path.Dir(path.Clean(name))]; d != nil {
		if n := d.now[path.Base(name)]; n != nil {
			return n, nil
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// Create implements vfs.FS. Emptying an existing file makes a new one of the same name.
func (f *FS) Create(name string) (vfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.dirs[path.Dir(path.Clean(name))]
	if d == nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrNotExist}
	}
	half, err := f.begin(Op{Create, name})
	if err != nil && !half {
		return nil, err
	}
	n := &inode{}
	d.change(nameChange{name: path.Base(name), inode: n})
	if err != nil {
		return nil, err
	}
	return &file{fs: f, inode: n, name: name, life: f.life}, nil
}

// Open implements vfs.FS.
func (f *FS) Open(name string) (vfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.begin(Op{Read, name}); err != nil {
		return nil, err
	}
	n, err := f.lookup(name)
	if err != nil {
		return nil, err
	}
	return &file{fs: f, inode: n, name: name, life: f.life}, nil
}

// Rename implements vfs.FS, within one directory only.
func (f *FS) Rename(oldname, newname string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	where := path.Dir(path.Clean(oldname))
	if where != path.Dir(path.Clean(newname)) {
		return &fs.PathError{Op: "rename", Path: newname, Err: syscall.EXDEV}
	}
	half, err := f.begin(Op{Rename, oldname})
	if err != nil && !half {
		return err
	}
	n, lookupErr := f.lookup(oldname)
	if lookupErr != nil {
		return lookupErr
	}
	f.dirs[where].change(nameChange{gone: path.Base(oldname), name: path.Base(newname), inode: n})
	return err
}

// Remove implements vfs.FS.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	half, err := f.begin(Op{Remove, name})
	if err != nil && !half {
		return err
	}
	if _, lookupErr := f.lookup(name); lookupErr != nil {
		return lookupErr
	}
	f.dirs[path.Dir(path.Clean(name))].change(nameChange{gone: path.Base(name)})
	return err
}

// List implements vfs.FS.
func (f *FS) List(name string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.begin(Op{Read, name}); err != nil {
		return nil, err
	}
	d := f.dirs[path.Clean(name)]
	if d == nil {
		return nil, &fs.PathError{Op: "list", Path: name, Err: fs.ErrNotExist}
	}
	return sortedKeys(d.now), nil
}

// MkdirAll implements vfs.FS. It is not counted as an operation.
func (f *FS) MkdirAll(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != up {
		return fmt.Errorf("mkdir %s: %w", name, ErrDown)
	}
	for name = path.Clean(name); f.dirs[name] == nil; name = path.Dir(name) {
		f.dirs[name] = newDir()
	}
	return nil
}

// SyncDir implements vfs.FS. One that fails leaves some of the changes undone for good on disk.
func (f *FS) SyncDir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.dirs[path.Clean(name)]
	if d == nil {
		return &fs.PathError{Op: "syncdir", Path: name, Err: fs.ErrNotExist}
	}
	admitted := f.state == up
	half, err := f.begin(Op{SyncDir, name})
	switch {
	case half || !admitted: // Restart decides.
	case err != nil:
		for _, c := range choose(f.rng, d.log) {
			c.apply(d.disk)
		}
		d.log = nil
	default:
		d.disk, d.log = clone(d.now), nil
	}
	return err
}

// Space implements vfs.FS. Without SetSpace the disk has 1 TiB, of which nothing is used.
func (f *FS) Space(name string) (size, free int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.begin(Op{Space, name}); err != nil {
		return 0, 0, err
	}
	if f.space < 0 {
		return 1 << 40, 1 << 40, nil
	}
	return f.space, max(0, f.room(nil, 0)), nil
}

func (d *dir) change(c nameChange) {
	c.apply(d.now)
	d.log = append(d.log, c)
}

func (c nameChange) apply(names map[string]*inode) {
	if c.gone != "" {
		delete(names, c.gone)
	}
	if c.name != "" {
		names[c.name] = c.inode
	}
}

func clone(m map[string]*inode) map[string]*inode {
	out := make(map[string]*inode, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
