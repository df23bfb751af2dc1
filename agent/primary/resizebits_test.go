package primary

import (
	"errors"
	"math/rand/v2"
	"path"
	"testing"

	"flotilla/agent/vfs/crashfs"
)

const grownSize = 5 * sectorBits * 4096

// openGrown opens the bits of logShape's volume, which grows to grownSize.
func openGrown(t *testing.T, fsys *crashfs.FS, extent int64) (*activity, error) {
	t.Helper()
	shape := logShape
	shape.extent = extent
	a, _, reason := openGrowing(&stateFile{fs: fsys, name: path.Join("/log", "7.bits")}, shape, bitReach{reach: grownSize, finest: logShape.extent}, false)
	return a, reason
}

func newGrown(t *testing.T, seed uint64) (*crashfs.FS, *activity) {
	t.Helper()
	fsys := crashfs.New(seed)
	if err := fsys.MkdirAll("/log"); err != nil {
		t.Fatal(err)
	}
	a, err := openGrown(t, fsys, logShape.extent)
	if err != nil {
		t.Fatal(err)
	}
	a.resync()
	for {
		i, n, _, _, ok := a.nextCopy(100)
		if !ok {
			break
		}
		a.copied(i, n, 1)
	}
	if _, err := a.clean(1, 0, maxExtents, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := a.commit(); err != nil {
		t.Fatal(err)
	}
	return fsys, a
}

// TestGrowBitsCrash cuts the power at the k-th operation while bits grow and writes go on: what is there afterwards is of the
// old size or of the new one, has every bit that was durable, and no other that the new range would have.
func TestGrowBitsCrash(t *testing.T) {
	sizes := map[int64]int{}
	for seed := range Rounds(40) {
		for k := 1; ; k++ {
			fsys, a := newGrown(t, seed)
			rng := rand.New(rand.NewPCG(seed, 3))
			written, tried := map[int]bool{}, map[int]bool{}
			touch := func() error {
				i := rng.IntN(a.ext.Len())
				tried[i] = true
				err := a.touch(int64(i)*4096, 4096)
				if err == nil {
					written[i] = true
				}
				a.dirtied(int64(i)*4096, 4096)
				return err
			}
			fsys.CutAt(k)
			err := touch()
			if err == nil {
				err = a.grow(grownSize, 0)
			}
			grown := err == nil
			for n := 0; n < 3 && err == nil; n++ {
				err = touch()
			}
			whole := !fsys.Down()
			fsys.PowerCut()
			_ = a.close()
			fsys.Restart()
			b, reason := openGrown(t, fsys, logShape.extent)
			if reason != nil {
				t.Fatalf("seed %d, cut at %d: %v", seed, k, reason)
			}
			sizes[b.size()]++
			if grown && b.size() != grownSize {
				t.Fatalf("seed %d, cut at %d: the bits were grown, and are of %d bytes", seed, k, b.size())
			}
			for i := range b.ext.Len() {
				if bit := b.ext.Bit(i); (written[i] && !bit) || (bit && !tried[i]) {
					t.Fatalf("seed %d, cut at %d: extent %d was written: %v; its bit is set: %v", seed, k, i, written[i], bit)
				}
			}
			if whole {
				break
			}
		}
	}
	if sizes[logShape.size] == 0 || sizes[grownSize] == 0 || len(sizes) != 2 {
		t.Errorf("sizes after the cuts: %v", sizes)
	}
}

// TestGrowBitsOfAnotherCopy: the new range of a target that was replaced is not taken for zeroes.
func TestGrowBitsOfAnotherCopy(t *testing.T) {
	_, a := newGrown(t, 1)
	a.recopy(5)
	if err := a.grow(grownSize, 0); !errors.Is(err, errOtherCopy) || a.size() != logShape.size {
		t.Errorf("the bits have grown to %d bytes: %v", a.size(), err)
	}
	if err := a.grow(grownSize, 5); err != nil || a.ext.Marked() != logShape.extents() {
		t.Errorf("%d bits set, %v", a.ext.Marked(), err)
	}
	a.recopy(6)
	if a.ext.Marked() != a.ext.Len() || a.ext.Len() != grownSize/4096 {
		t.Errorf("after the target was replaced %d of %d bits are set", a.ext.Marked(), a.ext.Len())
	}
}

// TestGrownBitsCoarser: a volume that has grown so far that its extents would be larger keeps them while it is open, and
// finds its bits in larger ones when it is opened anew.
func TestGrownBitsCoarser(t *testing.T) {
	fsys, a := newGrown(t, 1)
	if err := a.grow(grownSize, 0); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 5, 1000, a.ext.Len() - 1} {
		if err := a.touch(int64(i)*4096, 4096); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	want := map[int]bool{0: true, 1: true, 250: true, grownSize/4/4096 - 1: true}
	for range 2 {
		b, reason := openGrown(t, fsys, 4*logShape.extent)
		if reason != nil || b.size() != grownSize || b.ext.Marked() != len(want) {
			t.Fatalf("%d bits of %d bytes are set, %v", b.ext.Marked(), b.size(), reason)
		}
		for i := range want {
			if !b.ext.Bit(i) {
				t.Errorf("bit %d is not set", i)
			}
		}
		if err := b.touch(0, 1); err != nil { // writes them anew
			t.Fatal(err)
		}
		if err := b.close(); err != nil {
			t.Fatal(err)
		}
	}
}
