package primary_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"flotilla/nbd"
	"flotilla/wire"
)

// request runs one request to its end.
func (w *world) request(r func(done func(*nbd.Request, error)) *nbd.Request, id wire.VolumeID) error {
	result := make(chan error, 1)
	w.begin(r, id, func(err error) { result <- err })
	return <-result
}

func (w *world) begin(r func(done func(*nbd.Request, error)) *nbd.Request, id wire.VolumeID, done func(error)) {
	e := w.host.p.Export(id)
	if e == nil {
		done(errNoExport)
		return
	}
	req := r(func(r *nbd.Request, err error) {
		if b := r.Buffer(); b != nil {
			b.Release()
		}
		done(err)
	})
	if !e.Try(req) {
		e.Serve(req)
	}
}

var errNoExport = errors.New("the volume is not open")

func writeOf(off int64, data []byte) func(func(*nbd.Request, error)) *nbd.Request {
	buf := nbd.NewBuffer(len(data))
	copy(buf.Bytes(), data)
	return func(done func(*nbd.Request, error)) *nbd.Request {
		return nbd.NewRequest(nbd.OpWrite, off, 0, buf, done)
	}
}

func opOf(op nbd.Op, off, length int64) func(func(*nbd.Request, error)) *nbd.Request {
	return func(done func(*nbd.Request, error)) *nbd.Request { return nbd.NewRequest(op, off, length, nil, done) }
}

func (w *world) write(id wire.VolumeID, off int64, data []byte) {
	w.t.Helper()
	if err := w.request(writeOf(off, data), id); err != nil {
		w.t.Fatalf("write %d bytes at %d: %v", len(data), off, err)
	}
}

// scribble makes random changes from several goroutines, overlapping, and returns when they are answered.
func (w *world) scribble(seed uint64, id wire.VolumeID, workers, each int) {
	w.t.Helper()
	var wg sync.WaitGroup
	size := w.sizeOf(id)
	for k := range workers {
		rng := rand.New(rand.NewPCG(seed, uint64(k)))
		wg.Go(func() {
			for range each {
				if err := w.request(randomChange(rng, size), id); err != nil {
					w.t.Errorf("seed %d: %v", seed, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func (w *world) sizeOf(id wire.VolumeID) int64 {
	w.t.Helper()
	w.eventually(fmt.Sprintf("volume %d is open", id), func() bool { return w.host.p.Export(id) != nil })
	return w.host.p.Export(id).Info().Size
}

// randomChange is a write, trim or zeroing, now and then across a portion border.
func randomChange(rng *rand.Rand, size int64) func(func(*nbd.Request, error)) *nbd.Request {
	length := int64(1+rng.IntN(16)) * 512
	if rng.IntN(8) == 0 {
		length = int64(1+rng.IntN(300)) * 4096
	}
	length = min(length, size)
	off := rng.Int64N((size-length)/512+1) * 512
	switch rng.IntN(10) {
	case 0:
		return opOf(nbd.OpTrim, off, length)
	case 1:
		return opOf(nbd.OpWriteZeroes, off, length)
	}
	data := make([]byte, length)
	fill := byte(1 + rng.IntN(255))
	for i := range data {
		data[i] = fill + byte(i>>9)
	}
	return writeOf(off, data)
}
