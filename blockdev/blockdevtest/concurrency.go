package blockdevtest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"flotilla/blockdev"
)

// testNeighbours lets writers work in turns of one byte range each that are much
// smaller than a sector, so that each sector has several owners. A device that
// merges sectors without care loses bytes here.
func testNeighbours(t *testing.T, d blockdev.Device) {
	const writers, rounds, width, area = 8, 12, 100, 16 << 10
	base := d.Size() - area // Includes an end that fills no sector.
	for round := range rounds {
		model := make([]byte, area)
		all := pattern(uint64(round), area)
		var wg sync.WaitGroup
		errs := make([]error, writers)
		for w := range writers {
			wg.Go(func() {
				for at := w * width; at < area && errs[w] == nil; at += writers * width {
					p := all[at:min(at+width, area)]
					_, errs[w] = d.WriteAt(p, base+int64(at))
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatalf("write: %v", err)
		}
		copy(model, all)
		wantContent(t, d, model, base)
	}
}

// testMixedNeighbours gives each goroutine ranges of its own, of sizes around a
// sector and next to those of others, in which it does everything at random and
// checks what it finds.
func testMixedNeighbours(t *testing.T, d blockdev.Device) {
	const workers, rounds, slot = 6, 150, 3000
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() { errs[w] = mixedNeighbour(d, rand.New(rand.NewPCG(seed, uint64(w))), w, workers, rounds, slot) })
	}
	wg.Go(func() { // Readers of everything may see anything, but must not do harm.
		p := make([]byte, MinSize/4)
		for range 20 {
			if _, err := d.ReadAt(p, 0); err != nil {
				errs[0] = errors.Join(errs[0], err)
			}
		}
	})
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// mixedNeighbour owns slot number w of each stripe of as many slots as workers.
func mixedNeighbour(d blockdev.Device, r *rand.Rand, w, workers, rounds, slot int) error {
	const stripes = 4
	models := make([][]byte, stripes)
	for i := range models {
		models[i] = make([]byte, slot)
	}
	for round := range rounds {
		stripe := r.IntN(stripes)
		base := int64((stripe*workers + w) * slot)
		model := models[stripe]
		at := r.IntN(slot)
		n := r.IntN(slot-at) + 1
		part := model[at : at+n]
		off := base + int64(at)
		var err error
		switch r.IntN(6) {
		case 0:
			err = d.Trim(off, int64(n))
			clear(part)
		case 1:
			err = d.WriteZeroes(off, int64(n), r.IntN(2) == 0)
			clear(part)
		case 2:
			err = d.Flush()
		default:
			for i := range part {
				part[i] = byte(r.UintN(256))
			}
			_, err = d.WriteAt(part, off)
		}
		if err != nil {
			return fmt.Errorf("worker %d, round %d, range %d+%d: %w", w, round, off, n, err)
		}
		got := make([]byte, slot)
		if _, err := d.ReadAt(got, base); err != nil {
			return err
		}
		if i := firstDifference(got, model); i >= 0 {
			return fmt.Errorf("worker %d, round %d, after range %d+%d: byte at %d is %#x, want %#x",
				w, round, off, n, base+int64(i), got[i], model[i])
		}
	}
	return nil
}

// testOverlap changes whole blocks and parts of them at the same time. Either may
// win where they overlap, but what was there before must not come back.
func testOverlap(t *testing.T, d blockdev.Device) {
	const block, part = 8192, 100
	old, whole, piece := pattern(8, block), bytes.Repeat([]byte{0}, block), pattern(9, part)
	aligned := append(blockdev.AlignedBuffer(block)[:0], whole...)
	for round := range 90 {
		write(t, d, old, block)
		var werr, perr error
		var wg sync.WaitGroup
		wg.Go(func() {
			switch round % 3 {
			case 0:
				_, werr = d.WriteAt(aligned, block)
			case 1:
				werr = d.Trim(block, block)
			case 2:
				werr = d.WriteZeroes(block, block, false)
			}
		})
		wg.Go(func() { _, perr = d.WriteAt(piece, block+1000) })
		wg.Wait()
		if err := errors.Join(werr, perr); err != nil {
			t.Fatal(err)
		}
		wantContent(t, d, whole[:1000], block)
		wantContent(t, d, whole[1000+part:], block+1000+part)
	}
}

// testCloseWaits closes under load. Each call either works or says that the
// device is closed; none may reach a descriptor that belongs to somebody else by
// then.
func testCloseWaits(t *testing.T, d blockdev.Device) {
	const workers = 4
	var wg sync.WaitGroup
	var started sync.WaitGroup
	errs := make([]error, workers)
	started.Add(workers)
	for w := range workers {
		wg.Go(func() {
			p := pattern(uint64(w), 5000)
			for i := 0; errs[w] == nil; i++ {
				if _, errs[w] = d.WriteAt(p, int64(w)*8192); errs[w] == nil {
					_, errs[w] = d.ReadAt(p, int64(w)*8192)
				}
				if i == 0 {
					started.Done()
				}
			}
		})
	}
	started.Wait()
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	wg.Wait()
	for _, err := range errs {
		if !errors.Is(err, blockdev.ErrClosed) {
			t.Errorf("call under close: %v, want closed", err)
		}
	}
}

func testClosed(t *testing.T, d blockdev.Device) {
	size := d.Size()
	if err := d.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	_, rerr := d.ReadAt(make([]byte, 1), 0)
	_, werr := d.WriteAt(make([]byte, 1), 0)
	for op, err := range map[string]error{
		"read": rerr, "write": werr, "flush": d.Flush(), "trim": d.Trim(0, 1), "zero": d.WriteZeroes(0, 1, true), "close": d.Close(),
	} {
		if !errors.Is(err, blockdev.ErrClosed) {
			t.Errorf("%s after close: %v, want closed", op, err)
		}
	}
	if d.Size() != size {
		t.Errorf("size after close is %d, was %d", d.Size(), size)
	}
}
