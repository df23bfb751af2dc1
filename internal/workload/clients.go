package workload

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

// The pace of the clients: they share their machine with what they test.
const (
	writerEvery = 4 * time.Millisecond
	chainEvery  = 4 * time.Millisecond
	maxBlocks   = 16 // of one update
	flushEvery  = 64 // updates
)

// Clients are those who write to the primaries' volumes, and remember it.
type Clients struct {
	run     uint64
	started time.Time           // set by Start
	devices []*nbdclient.Client // one for each volume
	stop    context.CancelFunc
	rest    context.CancelFunc // no more updates are issued
	running sync.WaitGroup
	doomed  atomic.Bool
	slowest atomic.Int64 // reply since it was last taken, nanoseconds

	mu  sync.Mutex
	err error // the first write that failed, or panic
}

// NewClients returns clients of a run, whose number every block that they write bears.
func NewClients(run uint64) *Clients { return &Clients{run: run} }

// Now is the time of the run.
func (c *Clients) Now() time.Duration { return time.Since(c.started) }

// Use gives the clients a connection to the next volume. Close closes it.
func (c *Clients) Use(d *nbdclient.Client) { c.devices = append(c.devices, d) }

// Doom says that from now on a write may fail: its client then ends.
func (c *Clients) Doom() { c.doomed.Store(true) }

// Started returns when the first write was issued.
func (c *Clients) Started() time.Time { return c.started }

// Start begins to write: a writer for each volume, and the chain over both. failed is called once when a write fails
// that must not.
func (c *Clients) Start(ctx context.Context, volumes []*Volume, failed func(error)) {
	c.started = time.Now()
	ctx, c.stop = context.WithCancel(ctx)
	issuing, rest := context.WithCancel(ctx)
	c.rest = rest
	for i, v := range volumes {
		c.guarded(failed, func() error { return c.write(ctx, issuing, c.devices[i], v.Streams[0]) })
	}
	c.guarded(failed, func() error { return c.chain(ctx, issuing, volumes) })
}

// guarded runs f until the end; a panic of it is an error like others, so that the run is cleaned up.
func (c *Clients) guarded(failed func(error), f func() error) {
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

// Finish lets every client come to the end of its update, waits for them, and flushes the volumes: then everything that
// was issued was acknowledged, unless it fails.
func (c *Clients) Finish(ctx context.Context) error {
	c.rest()
	ended := make(chan struct{})
	go func() { // it ends with the clients, at the latest by Close
		c.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		return fmt.Errorf("wait for the reply to the last writes: %w", context.Cause(ctx))
	}
	c.mu.Lock()
	err := c.err
	c.mu.Unlock()
	for _, d := range c.devices {
		if ferr := d.Flush(ctx); ferr != nil {
			err = errors.Join(err, fmt.Errorf("flush at the end: %w", ferr))
		}
	}
	return err
}

// Close ends the clients and waits for them.
func (c *Clients) Close() {
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
func (c *Clients) put(ctx context.Context, d *nbdclient.Client, s *Stream, buf []byte, offset int64) (bool, error) {
	index := s.issue(offset, int64(len(buf)), c.Now())
	fill(buf, c.run, s.id, index, offset)
	err := d.WriteAt(ctx, buf, offset, 0)
	if err == nil && index%flushEvery == 0 {
		took := s.answer(index, c.Now())
		c.noteSlow(took)
		err = d.Flush(ctx)
	} else if err == nil {
		c.noteSlow(s.answer(index, c.Now()))
	}
	switch {
	case err == nil:
		return true, nil
	case c.doomed.Load() || ctx.Err() != nil:
		return false, nil
	}
	return false, fmt.Errorf("update %d of the %s failed, which no loss of a component may cause: %w", index, s.Name, err)
}

func (c *Clients) noteSlow(took time.Duration) {
	for {
		was := c.slowest.Load()
		if int64(took) <= was || c.slowest.CompareAndSwap(was, int64(took)) {
			return
		}
	}
}

// TakeSlowest returns the slowest reply since it was last asked for.
func (c *Clients) TakeSlowest() time.Duration { return time.Duration(c.slowest.Swap(0)) }

// write overwrites parts of a stream's area at random, at a steady pace.
func (c *Clients) write(ctx, issuing context.Context, d *nbdclient.Client, s *Stream) error {
	r := rand.New(rand.NewPCG(c.run, s.id))
	buf := make([]byte, maxBlocks*BlockSize)
	blocks := (s.end - s.start) / BlockSize
	return c.paced(issuing, writerEvery, func() (bool, error) {
		length := r.Int64N(min(maxBlocks, blocks)) + 1
		at := r.Int64N(blocks - length + 1)
		return c.put(ctx, d, s, buf[:length*BlockSize], s.start+at*BlockSize)
	})
}

// chain writes record after record, by turns on each volume; one is written only when the one before was acknowledged.
func (c *Clients) chain(ctx, issuing context.Context, volumes []*Volume) error {
	buf := make([]byte, BlockSize)
	record := int64(0)
	return c.paced(issuing, chainEvery, func() (bool, error) {
		i := record % int64(len(volumes))
		s := volumes[i].Streams[1]
		slot := record / int64(len(volumes)) % ((s.end - s.start) / BlockSize)
		record++
		return c.put(ctx, c.devices[i], s, buf, s.start+slot*BlockSize)
	})
}

// paced calls f again and again until it says that it is over.
func (c *Clients) paced(ctx context.Context, every time.Duration, f func() (bool, error)) error {
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
