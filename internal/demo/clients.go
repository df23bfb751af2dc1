package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"flotilla/nbd/nbdclient"
)

// The pace of the clients: a demo shares its machine.
const (
	writerEvery = 4 * time.Millisecond
	chainEvery  = 4 * time.Millisecond
	maxBlocks   = 16 // of one update
	flushEvery  = 64 // updates
)

// clients are those who write to the primaries' volumes, and remember it.
type clients struct {
	run     uint64
	started time.Time           // set by start
	devices []*nbdclient.Client // one for each volume
	stop    context.CancelFunc
	running sync.WaitGroup
	// doomed is set just before the primaries are killed: from then on a write may fail.
	doomed  atomic.Bool
	slowest atomic.Int64 // reply since it was last taken, nanoseconds

	mu  sync.Mutex
	err error // the first write that failed, or panic
}

func newClients(run uint64) *clients { return &clients{run: run} }

// now is the time of the run.
func (c *clients) now() time.Duration { return time.Since(c.started) }

// start begins to write: a writer for each volume, and the chain over both. failed is called once when a write fails
// that must not.
func (c *clients) start(ctx context.Context, volumes []*volume, failed func(error)) {
	c.started = time.Now()
	ctx, c.stop = context.WithCancel(ctx)
	for i, v := range volumes {
		c.guarded(failed, func() error { return c.write(ctx, c.devices[i], v.streams[0]) })
	}
	c.guarded(failed, func() error { return c.chain(ctx, volumes) })
}

// guarded runs f until the end; a panic of it is an error like others, so that the run is cleaned up.
func (c *clients) guarded(failed func(error), f func() error) {
	c.running.Go(func() {
		var err error
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("client panicked: %v", p)
			}
			if err == nil {
				return
			}
			c.mu.Lock()
			first := c.err == nil
			c.err = errors.Join(c.err, err)
			c.mu.Unlock()
			if first {
				failed(err)
			}
		}()
		err = f()
	})
}

// close ends the clients and waits for them.
func (c *clients) close() {
	if c.stop != nil {
		c.stop()
	}
	c.running.Wait()
	for _, d := range c.devices {
		_ = d.Close() // its server may be dead
	}
	c.devices = nil
}

// put writes one update of a stream. It reports false when the clients are to end.
func (c *clients) put(ctx context.Context, d *nbdclient.Client, s *stream, buf []byte, offset int64) (bool, error) {
	index := s.issue(offset, int64(len(buf)), c.now())
	fill(buf, c.run, s.id, index, offset)
	err := d.WriteAt(ctx, buf, offset, 0)
	if err == nil && index%flushEvery == 0 {
		took := s.answer(index, c.now())
		c.noteSlow(took)
		err = d.Flush(ctx)
	} else if err == nil {
		c.noteSlow(s.answer(index, c.now()))
	}
	switch {
	case err == nil:
		return true, nil
	case c.doomed.Load() || ctx.Err() != nil:
		return false, nil
	}
	return false, fmt.Errorf("update %d of the %s failed, which no loss of a component may cause: %w", index, s.name, err)
}

func (c *clients) noteSlow(took time.Duration) {
	for {
		was := c.slowest.Load()
		if int64(took) <= was || c.slowest.CompareAndSwap(was, int64(took)) {
			return
		}
	}
}

// takeSlowest returns the slowest reply since it was last asked for.
func (c *clients) takeSlowest() time.Duration { return time.Duration(c.slowest.Swap(0)) }

// write overwrites parts of a stream's area at random, at a steady pace.
func (c *clients) write(ctx context.Context, d *nbdclient.Client, s *stream) error {
	r := rand.New(rand.NewPCG(c.run, s.id))
	buf := make([]byte, maxBlocks*blockSize)
	blocks := (s.end - s.start) / blockSize
	return c.paced(ctx, writerEvery, func() (bool, error) {
		length := r.Int64N(min(maxBlocks, blocks)) + 1
		at := r.Int64N(blocks - length + 1)
		return c.put(ctx, d, s, buf[:length*blockSize], s.start+at*blockSize)
	})
}

// chain writes record after record, by turns on each volume; one is written only when the one before was acknowledged.
func (c *clients) chain(ctx context.Context, volumes []*volume) error {
	buf := make([]byte, blockSize)
	record := int64(0)
	return c.paced(ctx, chainEvery, func() (bool, error) {
		i := record % int64(len(volumes))
		s := volumes[i].streams[1]
		slot := record / int64(len(volumes)) % ((s.end - s.start) / blockSize)
		record++
		return c.put(ctx, c.devices[i], s, buf, s.start+slot*blockSize)
	})
}

// paced calls f again and again until it says that it is over.
func (c *clients) paced(ctx context.Context, every time.Duration, f func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if on, err := f(); !on || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
