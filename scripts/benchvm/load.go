package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"flotilla/internal/fio"
	"flotilla/internal/pages"

	"golang.org/x/sys/unix"
)

// runFio runs a job against a device.
func (w *world) runFio(j fio.Job, device string) (measured, error) {
	args := j.Args(fio.Span{Size: w.spec.Size, Runtime: w.spec.Runtime, Ramp: w.spec.Ramp}, "--ioengine=libaio", "--direct=1", "--filename="+device)
	c := exec.CommandContext(w.ctx, args[0], args[1:]...)
	c.Dir = w.spec.Dir
	out, err := c.CombinedOutput()
	if err != nil {
		return measured{}, fmt.Errorf("fio on %s: %w: %s", device, err, out)
	}
	o, err := j.Parse(out)
	if j.Block == "1m" {
		return measured{Value: o.Bytes / 1e6, Unit: "MB/s"}, err
	}
	return measured{Value: o.IOPS, Unit: "IOPS"}, err
}

// runPages writes pages until the time is over, and waits until all of it is on the target.
func (w *world) runPages(r *row, c contender, who string) (m measured, err error) {
	contents, free, err := load(w.spec.Contents[r.pages])
	if err != nil {
		return m, err
	}
	defer free()
	device := c.device(who)
	link, err := c.link()
	if err != nil {
		return m, err
	}
	folded, err := c.folded(w.ctx, who)
	if err != nil {
		return m, err
	}
	ctx, cancel := context.WithTimeout(w.ctx, w.spec.Linked)
	defer cancel()
	var done sync.WaitGroup
	var written atomic.Int64
	errs := make([]error, r.writers)
	began := time.Now()
	for i := range r.writers {
		done.Go(func() {
			errs[i] = writePages(ctx, device, contents, r.request, w.spec.Size, rand.New(rand.NewPCG(6, uint64(i))), &written)
		})
	}
	done.Wait()
	took := time.Since(began).Seconds()
	for _, err := range errs {
		if err != nil {
			return m, err
		}
	}
	if err := c.settle(w.ctx, who); err != nil {
		return m, err
	}
	whole := time.Since(began).Seconds()
	linkAfter, err := c.link()
	if err != nil {
		return m, err
	}
	foldedAfter, err := c.folded(w.ctx, who)
	if err != nil {
		return m, err
	}
	bytes := float64(written.Load())
	return measured{
		Value: bytes / whole / 1e6, Unit: "MB/s", Taken: bytes / took / 1e6, Link: float64(linkAfter-link) / whole / 1e6,
		Folded: float64(foldedAfter-folded) / bytes,
	}, nil
}

// writePages writes one request after the other, each a run of the contents at a place of the device that are both drawn.
func writePages(ctx context.Context, device string, contents []byte, request int, size int64, r *rand.Rand, written *atomic.Int64) (err error) {
	fd, err := unix.Open(device, unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", device, err)
	}
	defer unix.Close(fd)
	for ctx.Err() == nil {
		from := r.IntN((len(contents)-request)/pages.Size+1) * pages.Size
		n, err := unix.Pwrite(fd, contents[from:from+request], r.Int64N(size/int64(request))*int64(request))
		if err != nil || n != request {
			return fmt.Errorf("write %d bytes to %s: %d, %w", request, device, n, err)
		}
		written.Add(int64(n))
	}
	return nil
}

// load reads a file into memory that suits direct I/O.
func load(path string) (content []byte, free func(), err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read pages: %w", err)
	}
	mem, err := unix.Mmap(-1, 0, len(text), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, fmt.Errorf("have memory for pages: %w", err)
	}
	copy(mem, text)
	return mem, func() { _ = unix.Munmap(mem) }, nil // it was mapped
}
