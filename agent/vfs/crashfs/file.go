package crashfs

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"syscall"

	"flotilla/agent/vfs"
)

// sector is what a disk writes whole or not at all.
const sector = 512

// inode is a file's content. It outlives its names, as on Linux.
type inode struct {
	cache []byte
	disk  []byte
	log   []change // since the last flush, oldest first
}

// change is one unflushed write or change of length.
type change struct {
	off      int64
	data     []byte
	truncate bool // the length became off; data is empty
}

// file is one open handle.
type file struct {
	fs     *FS
	inode  *inode
	name   string
	life   int
	closed bool
}

// begin admits an operation on the handle. f.fs.mu is held.
func (f *file) begin(kind Kind) (half bool, err error) {
	if f.closed {
		return false, fmt.Errorf("%s %s: %w", kind, f.name, os.ErrClosed)
	}
	if f.life != f.fs.life {
		return false, fmt.Errorf("%s %s: %w", kind, f.name, ErrDown)
	}
	return f.fs.begin(Op{kind, f.name})
}

// alive reports whether an operation on the handle can have any effect. f.fs.mu is held.
func (f *file) alive() bool { return !f.closed && f.life == f.fs.life && f.fs.state == up }

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if _, err := f.begin(Read); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("read %s at %d: %w", f.name, off, syscall.EINVAL)
	}
	if off >= int64(len(f.inode.cache)) {
		return 0, io.EOF
	}
	n := copy(p, f.inode.cache[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	admitted := f.alive()
	half, err := f.begin(Write)
	if half {
		f.inode.write(p, off)
		return 0, err
	}
	if err != nil {
		if !admitted {
			return 0, err
		}
		n := f.fs.rng.IntN(len(p) + 1)
		f.inode.write(p[:n], off)
		return n, err
	}
	if room := f.fs.room(f.inode, off+int64(len(p))); room < 0 {
		n := max(0, len(p)+int(room))
		f.inode.write(p[:n], off)
		return n, fmt.Errorf("write %s: %w", f.name, syscall.ENOSPC)
	}
	f.inode.write(p, off)
	return len(p), nil
}

func (f *file) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	half, err := f.begin(Truncate)
	if err == nil || half {
		f.inode.truncate(size)
	}
	return err
}

func (f *file) Allocate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	half, err := f.begin(Allocate)
	if err != nil && !half {
		return err
	}
	if f.fs.room(f.inode, size) < 0 {
		return fmt.Errorf("allocate %d bytes for %s: %w", size, f.name, syscall.ENOSPC)
	}
	if size > int64(len(f.inode.cache)) {
		f.inode.truncate(size)
	}
	return err
}

func (f *file) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if _, err := f.begin(Read); err != nil {
		return 0, err
	}
	return int64(len(f.inode.cache)), nil
}

func (f *file) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	admitted := f.alive()
	half, err := f.begin(Sync)
	switch {
	case half || !admitted: // Restart decides what was kept, or nothing happened.
	case err != nil:
		// Some of it got to the disk, the rest never will, and the cache goes on showing all of it.
		f.inode.disk = f.inode.survivors(f.fs.rng)
		f.inode.log = nil
	default:
		f.inode.flush()
	}
	return err
}

func (f *file) SyncData() error { return f.Sync() }

// Close implements vfs.File. It flushes nothing, and works without power.
func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return fmt.Errorf("close %s: %w", f.name, os.ErrClosed)
	}
	f.closed = true
	return nil
}

var _ vfs.File = (*file)(nil)

// room returns the bytes left once n is size bytes long; negative: so many too few. f.mu is held.
func (f *FS) room(n *inode, size int64) int64 {
	if f.space < 0 || (n != nil && size <= int64(len(n.cache))) {
		return 0
	}
	used := size
	for _, d := range f.dirs {
		for _, other := range d.now {
			if other != n {
				used += int64(len(other.cache))
			}
		}
	}
	return f.space - used
}

func (n *inode) write(p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	c := change{off: off, data: append([]byte(nil), p...)}
	n.cache = c.apply(n.cache)
	n.log = append(n.log, c)
}

func (n *inode) truncate(size int64) {
	c := change{off: size, truncate: true}
	n.cache = c.apply(n.cache)
	n.log = append(n.log, c)
}

func (n *inode) flush() {
	if len(n.log) == 0 {
		return
	}
	for _, c := range n.log {
		n.disk = c.apply(n.disk)
	}
	n.log = nil
}

// settle makes the file what the disk kept of it.
func (n *inode) settle(rng *rand.Rand) {
	n.disk = n.survivors(rng)
	n.log = nil
	n.cache = append([]byte(nil), n.disk...)
}

// survivors returns the disk's content after a random part of the log has reached it, sector by sector.
func (n *inode) survivors(rng *rand.Rand) []byte {
	disk := n.disk
	for _, c := range choose(rng, n.sectors()) {
		disk = c.apply(disk)
	}
	return disk
}

// sectors splits the log's writes at sector borders.
func (n *inode) sectors() []change {
	var out []change
	for _, c := range n.log {
		if c.truncate {
			out = append(out, c)
			continue
		}
		for off, data := c.off, c.data; len(data) > 0; {
			k := min(int64(len(data)), sector-off%sector)
			out = append(out, change{off: off, data: data[:k]})
			off, data = off+k, data[k:]
		}
	}
	return out
}

// apply returns the content after the change. It grows in place where it can; contents are never shared.
func (c change) apply(content []byte) []byte {
	end := c.off + int64(len(c.data))
	if have := int64(len(content)); c.truncate && end <= have {
		return content[:end]
	} else if end > have {
		content = append(content, make([]byte, end-have)...)
	}
	copy(content[c.off:], c.data)
	return content
}

// choose returns what of a log reaches the disk, in order: nothing, everything, a prefix, all but one, or any choice.
func choose[T any](rng *rand.Rand, log []T) []T {
	if len(log) == 0 {
		return nil
	}
	var out []T
	switch rng.IntN(5) {
	case 0:
	case 1:
		out = log
	case 2:
		out = log[:rng.IntN(len(log)+1)]
	case 3:
		skip := rng.IntN(len(log))
		out = append(append(out, log[:skip]...), log[skip+1:]...)
	default:
		for _, c := range log {
			if rng.IntN(2) == 0 {
				out = append(out, c)
			}
		}
	}
	return out
}
