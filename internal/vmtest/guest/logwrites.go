package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
)

// lossy is a disk that can lose power: what was not flushed is lost then, or not, write by write. It is made of three devices.
// The kernel's dm-log-writes passes everything on to live, and writes down in log what it was, and when it was flushed. shadow
// is what live was when power was lost last.
//
//	name ── dm-log-writes ──┬── live     everything
//	                        └── log      the writes and flushes, in order
//	shadow                               live at the last cut
//
// After a cut the writes that survive are taken out of log into shadow, and every range that was written is copied from there
// to live.
type lossy struct {
	name              string
	live, log, shadow string // devices
}

// cutMark stands in the log where power was lost.
const cutMark = "cut"

func (d *lossy) path() string { return "/dev/mapper/" + d.name }

// on switches the disk on, with an empty log.
func (d *lossy) on() error {
	f, err := os.Open(d.live)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return dm("create", d.name, "--table", fmt.Sprintf("0 %d log-writes %s %s", size/512, d.live, d.log))
}

// cut marks that power is lost now: what has been flushed by now is there, and of what has not anything may be.
func (d *lossy) cut() error { return dm("message", d.name, "0", "mark", cutMark) }

// off takes the disk away. Nobody may have it open. What was written since the cut is lost when settle is called.
func (d *lossy) off() error {
	return dm("remove", "--retry", d.name)
}

func dm(args ...string) error {
	c := exec.Command("dmsetup", args...)
	c.Env = append(os.Environ(), "DM_DISABLE_UDEV=1") // it makes the names in /dev/mapper itself
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("dmsetup %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// The log as dm-log-writes writes it (drivers/md/dm-log-writes.c): a sector with the head, then for each entry a sector that
// describes it, followed by its data. Numbers are little-endian, lengths are in sectors of the size that the head has.
//
//	0        8         16        24
//	| magic  | version | entries | sector size u32 |
//	| sector | sectors | flags   | length of mark  | mark … |
const (
	logMagic   = 0x6a736677736872
	logFlush   = 1 << 0
	logFUA     = 1 << 1
	logDiscard = 1 << 2
	logIsMark  = 1 << 3
)

// logged is one entry.
type logged struct {
	off, length int64 // bytes
	flags       uint64
	mark        string
	data        int64 // where its data are in the log
}

func (d *lossy) entries(f io.ReaderAt) ([]logged, error) {
	head := make([]byte, 512)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	n, sector := le.Uint64(head[16:]), int64(le.Uint32(head[24:]))
	if le.Uint64(head) != logMagic || le.Uint64(head[8:]) != 1 || sector < 512 || sector > 4096 || n > 1<<24 {
		return nil, fmt.Errorf("%s has no log of writes: %x", d.log, head[:28])
	}
	out := make([]logged, 0, n)
	for at := sector; n > 0; n-- {
		if _, err := f.ReadAt(head, at); err != nil {
			return nil, err
		}
		at += sector
		e := logged{off: int64(le.Uint64(head)) * sector, length: int64(le.Uint64(head[8:])) * sector, flags: le.Uint64(head[16:]), data: at}
		if e.flags&logIsMark != 0 {
			e.mark, e.length = string(head[32:min(512, 32+le.Uint64(head[24:]))]), 0
		} else if e.flags&logDiscard == 0 {
			at += e.length
		}
		out = append(out, e)
	}
	return out, nil
}

// tally says what a cut has cost.
type tally struct{ writes, flushed, survived, lost int }

// settle decides what has survived the last cut, and makes the disk that. It is off.
func (d *lossy) settle(r *rand.Rand) (t tally, err error) {
	var files []*os.File
	for _, path := range []string{d.log, d.shadow, d.live} {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return t, err
		}
		defer f.Close()
		if err := forget(f); err != nil {
			return t, err
		}
		files = append(files, f)
	}
	log, shadow, live := files[0], files[1], files[2]
	all, err := d.entries(log)
	if err != nil {
		return t, err
	}
	cut, flushed := false, false
	for _, e := range all {
		switch {
		case e.mark == cutMark:
			cut = true
		case cut && e.flags&logFlush != 0:
			flushed = true // what comes after it knew that what came before was durable: it is of a time that has not been
		}
		if e.length == 0 {
			continue
		}
		t.writes++
		switch {
		case !cut:
			t.flushed++
		case flushed || r.IntN(2) == 0:
			t.lost++
			continue
		default:
			t.survived++
		}
		if err := replay(log, shadow, e); err != nil {
			return t, err
		}
	}
	if !cut {
		return t, fmt.Errorf("the log of %s has no mark of the cut", d.name)
	}
	for _, e := range all {
		if err := copyRange(live, shadow, e.off, e.off, e.length); err != nil {
			return t, err
		}
	}
	for _, f := range []*os.File{shadow, live} {
		if err := errors.Join(f.Sync(), forget(f)); err != nil {
			return t, err
		}
	}
	return t, nil
}

// replay does to a disk what an entry says.
func replay(log, to *os.File, e logged) error {
	if e.flags&logDiscard != 0 {
		return writeZeroes(to, e.off, e.length)
	}
	return copyRange(to, log, e.off, e.data, e.length)
}

func copyRange(to, from *os.File, at, off, n int64) error {
	if n == 0 {
		return nil
	}
	_, err := io.Copy(io.NewOffsetWriter(to, at), io.NewSectionReader(from, off, n))
	return err
}

func writeZeroes(to *os.File, off, n int64) error {
	_, err := io.CopyN(io.NewOffsetWriter(to, off), zeroReader{}, n)
	return err
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// copyDevice makes a device what another is, where that is not zero; it was all zero.
func copyDevice(to, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	g, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer g.Close()
	block, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for off := int64(0); ; off += int64(len(block)) {
		n, err := f.ReadAt(block, off)
		if n > 0 && !bytes.Equal(block[:n], zero[:n]) {
			if _, err := g.WriteAt(block[:n], off); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return errors.Join(g.Sync(), forget(g))
		}
		if err != nil {
			return err
		}
	}
}
