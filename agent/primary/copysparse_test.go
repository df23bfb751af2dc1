package primary_test

import (
	"bytes"
	"iter"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/agent/primary"
	"flotilla/blockdev"
	"flotilla/nbd"
	"flotilla/wire"
)

// received returns the frames that came, but for the first ones.
func (w *world) received(from int) []*wire.Body {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.frames[from:])
}

// TestHolesAreNotRead copies a large volume that is nearly all holes: only what has data is read and travels with data, a
// hole is one zero for each portion. The target held something else before.
func TestHolesAreNotRead(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const portions = 4000
		const size = portions * portionSize
		src, dst := blockdev.NewMemory(size), blockdev.NewMemory(size)
		data := bytes.Repeat([]byte{7}, 4096)
		for i := range int64(20) {
			off := i * (size / 20)
			if _, err := src.WriteAt(data, off); err != nil {
				t.Fatal(err)
			}
			if _, err := dst.WriteAt(bytes.Repeat([]byte{0xee}, 3<<20), off); err != nil {
				t.Fatal(err)
			}
		}
		w := newWorld(t, cluster.Async, primary.Limits{Extent: 64 << 10})
		w.sources["/src/a"], w.targets[1] = src, dst
		w.propose(*w.createVolume(volumeSpec{"a", size}))
		began := time.Now()
		w.eventually("the copy is applied", func() bool {
			_, g := w.view()
			return g.Volumes[1].CopiedAt != 0 && g.Applied >= g.Volumes[1].CopiedAt
		})
		st := w.group().Volumes[0]
		if st.Read > 20*(64<<10) || st.Read+st.Zeroed != size {
			t.Errorf("%d bytes were read and %d found to be holes, of %d", st.Read, st.Zeroed, int64(size))
		}
		var writes, zeroes, bytesSent int
		for _, b := range w.received(0) {
			for i := range b.Updates {
				switch u := &b.Updates[i]; u.Kind {
				case wire.KindWrite:
					writes++
					bytesSent += len(u.Data)
				case wire.KindZero:
					zeroes++
				}
			}
		}
		if writes > 20*16 || bytesSent > 20*(64<<10) || zeroes > portions+20*32 {
			t.Errorf("%d writes with %d bytes and %d zeroes were sent", writes, bytesSent, zeroes)
		}
		for i := range int64(20) {
			for _, off := range []int64{i * (size / 20), i*(size/20) + 4096, i*(size/20) + 2<<20} {
				want, have := make([]byte, 4096), make([]byte, 4096)
				if _, err := src.ReadAt(want, off); err != nil {
					t.Fatal(err)
				}
				if _, err := dst.ReadAt(have, off); err != nil || !bytes.Equal(want, have) {
					t.Fatalf("at offset %d source and target differ, %v", off, err)
				}
			}
		}
		if d := time.Since(began); d > time.Minute {
			t.Errorf("it took %v", d)
		}
		w.shut()
	})
}

// nosy is a source that calls somebody when it has been asked for its holes.
type nosy struct {
	*blockdev.Memory
	asked func(off int64)
}

func (d *nosy) Extents(off, length int64) iter.Seq2[blockdev.Extent, error] {
	all := slices.Collect(func(yield func(blockdev.Extent) bool) {
		for e := range d.Memory.Extents(off, length) {
			if !yield(e) {
				return
			}
		}
	})
	d.asked(off)
	return func(yield func(blockdev.Extent, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// TestWritesIntoHoles: a client writes into a hole when the copier has just seen that it is one.
func TestWritesIntoHoles(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small)
		src := &nosy{Memory: blockdev.NewMemory(64 << 20), asked: func(int64) {}}
		w.sources["/src/a"], w.targets[1] = src, blockdev.NewMemory(64<<20)
		if _, err := w.targets[1].WriteAt(bytes.Repeat([]byte{0xee}, 64<<20), 0); err != nil {
			t.Fatal(err)
		}
		var left atomic.Int64
		left.Store(8)
		src.asked = func(off int64) {
			n := left.Add(-1)
			if n < 0 || w.host.p.Export(1) == nil {
				return
			}
			for _, at := range []int64{0, 1 << 20, 9 << 20} { // the first extent, and later ones
				if (n%4 == 0 || at > 0) && off+at < 64<<20 {
					go w.write(1, off+at, bytes.Repeat([]byte{byte(n + 1)}, 4096))
				}
			}
			time.Sleep(time.Millisecond) // they are done, but where the copier holds the range
		}
		w.propose(*w.createVolume(volumeSpec{"a", 64 << 20}))
		w.sizeOf(1)
		w.settled()
		if left.Load() > 0 {
			t.Error("the copier has not asked for holes: the test shows nothing")
		}
		w.shut()
	})
}

// TestTrimsReplicateAsSuch: a trim and a write of zeroes travel without data, over portion borders, and as what they are.
func TestTrimsReplicateAsSuch(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, cluster.Async, small, volumeSpec{"a", 8 << 20})
		w.sizeOf(1)
		w.write(1, 0, bytes.Repeat([]byte{1}, 8<<20))
		w.settled()
		before := len(w.received(0))
		if err := w.request(opOf(nbd.OpTrim, 512<<10, 2<<20), 1); err != nil {
			t.Fatal(err)
		}
		if err := w.request(opOf(nbd.OpWriteZeroes, 4<<20, 3<<20), 1); err != nil {
			t.Fatal(err)
		}
		w.settled()
		length := map[wire.Kind]uint32{}
		for _, b := range w.received(before) {
			for i := range b.Updates {
				length[b.Updates[i].Kind] += b.Updates[i].Length
			}
		}
		if length[wire.KindTrim] != 2<<20 || length[wire.KindZero] != 3<<20 || length[wire.KindWrite] != 0 {
			t.Errorf("bytes by kind: %v", length)
		}
		w.shut()
	})
}
