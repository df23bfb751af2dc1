package primary

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"testing"

	"flotilla/agent/vfs"
	"flotilla/agent/vfs/crashfs"
	"flotilla/blockdev"
)

// places are where bits may lie.
var places = []place{inStateDir, atDeviceEnd}

type place string

const (
	inStateDir  place = "state directory"
	atDeviceEnd place = "end of the device"

	logName    = "/7.bits"
	keptName   = "/7.kept"
	deviceName = "/device"
)

// medium returns the place on a file system that may crash.
func (p place) medium(t *testing.T, fsys vfs.FS) bitMedium {
	t.Helper()
	if p == inStateDir {
		return &stateFile{fs: fsys, name: logName}
	}
	file, err := fsys.Open(deviceName)
	if errors.Is(err, fs.ErrNotExist) {
		if file, err = fsys.Create(deviceName); err == nil {
			err = errors.Join(file.Truncate(logLimits.endLength(logShape.size)+2*endUnit), file.Sync(), fsys.SyncDir("/"))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	size, err := file.Size()
	if err != nil {
		t.Fatal(err)
	}
	m, err := newDeviceEnd(fileDevice{file, size}, &logLimits, logShape.size)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var logLimits = Limits{Extent: logShape.extent}

// fileDevice is a device on a file system that may crash. The file holds only what lies behind the volume.
type fileDevice struct {
	vfs.File
	held int64 // bytes of the file
}

// fileDeviceFrom is the first byte that the file holds.
var fileDeviceFrom = logShape.size / endUnit * endUnit

func (d fileDevice) Size() int64 { return fileDeviceFrom + d.held }
func (d fileDevice) BlockSizes() blockdev.BlockSizes {
	return blockdev.BlockSizes{Logical: 512, Physical: 512, Preferred: 4096}
}
func (d fileDevice) ReadAt(p []byte, off int64) (int, error) {
	return d.File.ReadAt(p, off-fileDeviceFrom)
}
func (d fileDevice) WriteAt(p []byte, off int64) (int, error) {
	return d.File.WriteAt(p, off-fileDeviceFrom)
}
func (d fileDevice) Flush() error                 { return d.SyncData() }
func (d fileDevice) Trim(off, length int64) error { return d.WriteZeroes(off, length, true) }
func (d fileDevice) WriteZeroes(off, length int64, _ bool) error {
	_, err := d.WriteAt(make([]byte, length), off)
	return err
}

// open opens the log there.
func (p place) open(t *testing.T, fsys vfs.FS, shape bitShape) (*activity, bool, error) {
	t.Helper()
	a, fresh, reason := openActivity(p.medium(t, fsys), shape, false)
	if err := a.openKept(&stateFile{fs: fsys, name: keptName}); err != nil && reason == nil {
		reason = err
	}
	return a, fresh, reason
}

// corrupt flips bits of a byte of the log at rest.
func (p place) corrupt(t *testing.T, fsys *crashfs.FS, at int64) error {
	t.Helper()
	if p == inStateDir {
		return fsys.Corrupt(logName, at, 0x10)
	}
	return fsys.Corrupt(deviceName, p.medium(t, fsys).(*deviceEnd).off-fileDeviceFrom+at, 0x10)
}

// inPlaces runs a test for each of them.
func inPlaces(t *testing.T, test func(t *testing.T, p place)) {
	for _, p := range places {
		t.Run(string(p), func(t *testing.T) { test(t, p) })
	}
}

// oldBits are bits of an older version, of which every third is set.
func oldBits(shape bitShape, version uint32) []byte {
	third := func(i int) bool { return i%3 == 0 }
	old := shape.appendHeaderOf(nil, version)
	if version == oldBitVersion {
		old = shape.appendOldHeader(nil)
	}
	for sec := range shape.sectors() {
		start := len(old)
		if version != oldBitVersion {
			old = shape.appendSector(old, sec, shape.keyOf(version), third)
			continue
		}
		old = shape.appendSector(old, sec, uint32(shape.volume), third)
		binary.LittleEndian.PutUint32(old[start:], oldBitSectorMagic)
		old = sealSector(old[:start+bitSector-4], start)
	}
	return old
}

// TestOldFormat reads bits of older versions, and writes them anew as of this one. What is kept beside them is of no use: who
// wrote them knew nothing of it.
func TestOldFormat(t *testing.T) {
	for _, first := range []uint32{oldBitVersion, bitVersionWithoutKept} {
		shape := logShape
		old := oldBits(shape, first)
		fsys := crashfs.New(1)
		if err := errors.Join(vfs.WriteFileAtomic(fsys, logName, old), vfs.WriteFileAtomic(fsys, keptName, allKept(shape))); err != nil {
			t.Fatal(err)
		}
		for _, version := range []uint32{first, bitVersion} {
			a, fresh, reason := inStateDir.open(t, fsys, shape)
			if fresh || reason != nil {
				t.Errorf("version %d: fresh %v, %v", version, fresh, reason)
			}
			for i := range shape.extents() {
				if a.ext.Bit(i) != (i%3 == 0) {
					t.Fatalf("version %d: the bit of extent %d is %v", version, i, a.ext.Bit(i))
				}
			}
			if n := a.ext.Keeps(); n != 0 {
				t.Errorf("version %d: %d extents are kept", version, n)
			}
			raw, err := vfs.ReadFile(fsys, logName, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if got := binary.LittleEndian.Uint32(raw[8:]); got != version {
				t.Errorf("version %d is on disk, not %d", got, version)
			}
			if err := errors.Join(a.commit(), a.close()); err != nil {
				t.Fatal(err)
			}
		}
		if first != oldBitVersion {
			continue
		}
		recopied := shape
		recopied.copy = 1
		if err := vfs.WriteFileAtomic(fsys, logName, old); err != nil {
			t.Fatal(err)
		}
		if a, _, reason := inStateDir.open(t, fsys, recopied); reason == nil || a.ext.Marked() != shape.extents() {
			t.Errorf("bits of version 1 count for another copy: %d set, %v", a.ext.Marked(), reason)
		}
	}
}

func FuzzParseSector(f *testing.F) {
	f.Add(logShape.appendSector(nil, 1, logShape.key(), func(i int) bool { return i%3 == 0 }))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < bitSector {
			return
		}
		bits, ok := parseSector(raw, 1, bitSectorMagic, logShape.key())
		if !ok {
			return
		}
		again := logShape.appendSector(nil, 1, logShape.key(), func(i int) bool { return bitAt(bits, i-logShape.first(1)) })
		if got, ok := parseSector(again, 1, bitSectorMagic, logShape.key()); !ok || string(got) != string(bits) {
			t.Error("a sector does not survive being written again")
		}
	})
}
