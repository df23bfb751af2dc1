package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"flotilla/nbd/nbdclient"
)

const (
	blockSize = 4096
	// maxWaiting bounds the writes that were not answered. What is due while there are so many is sent later, and still
	// counts from when it was due.
	maxWaiting = 16384
	// connections is how many a volume has: NBD bounds the requests in flight of one.
	connections = 8
	ringSize    = 16 << 20
)

// sample is one write. Times are since the begin of the load.
type sample struct {
	due  time.Duration // when it was to be sent, whatever became of those before
	sent time.Duration // when it was given to the client
	done time.Duration // when its reply was there
	err  error
}

// latency counts from the schedule: a write that was sent late because those before it were not answered has waited, too.
func (s *sample) latency() time.Duration { return s.done - s.due }

// lag is how late this program was itself.
func (s *sample) lag() time.Duration { return s.sent - s.due }

// within selects the writes that were due in a time.
func within(from, to time.Duration) func(*sample) bool {
	return func(s *sample) bool { return s.due >= from && s.due < to }
}

// answered selects the writes that were answered in a time.
func answered(from, to time.Duration) func(*sample) bool {
	return func(s *sample) bool { return s.done >= from && s.done < to }
}

// load writes blocks at random places at a steady rate, on a schedule that heeds no replies (an open loop): who waits for
// the reply before the next write does not see what a stall does to those that would have come meanwhile.
type load struct {
	began time.Time
	stop  context.CancelFunc
	done  sync.WaitGroup
	slots chan struct{}
	ring  []byte

	mu      sync.Mutex
	samples []sample
}

// startLoad writes rate blocks a second, in turn to each of the volumes.
func startLoad(ctx context.Context, volumes []*volume, rate int) *load {
	l := &load{began: time.Now(), slots: make(chan struct{}, maxWaiting), ring: randomBytes(ringSize)}
	var schedule context.Context
	schedule, l.stop = context.WithCancel(ctx)
	l.done.Go(func() { l.run(schedule, ctx, volumes, rate) })
	return l
}

// run keeps the schedule until that ends. Writes under way are given up only with the program.
func (l *load) run(schedule, ctx context.Context, volumes []*volume, rate int) {
	r := rand.New(rand.NewPCG(1, uint64(rate)))
	t := time.NewTimer(0)
	defer t.Stop()
	for i := 0; ; i++ {
		due := time.Duration(i) * time.Second / time.Duration(rate)
		if wait := due - time.Since(l.began); wait > 0 {
			t.Reset(wait)
			select {
			case <-t.C:
			case <-schedule.Done():
				return
			}
		}
		select {
		case l.slots <- struct{}{}:
		case <-schedule.Done():
			return
		}
		v := volumes[i%len(volumes)]
		c := v.clients[i/len(volumes)%len(v.clients)]
		offset := r.Int64N(v.size/blockSize) * blockSize
		from := i % (ringSize / blockSize) * blockSize
		l.done.Go(func() {
			s := sample{due: due, sent: time.Since(l.began)}
			s.err = c.WriteAt(ctx, l.ring[from:from+blockSize], offset, 0)
			s.done = time.Since(l.began)
			<-l.slots
			l.mu.Lock()
			l.samples = append(l.samples, s)
			l.mu.Unlock()
		})
	}
}

// now is the time of the load.
func (l *load) now() time.Duration { return time.Since(l.began) }

// answerTime is how long replies are waited for when the schedule has ended.
const answerTime = time.Minute

// end stops the schedule, waits for the replies and returns all writes.
func (l *load) end() ([]sample, error) {
	l.stop()
	answered := make(chan struct{})
	go func() { // ends with the writes: at the latest with their context
		defer close(answered)
		l.done.Wait()
	}()
	select {
	case <-answered:
		return l.samples, nil
	case <-time.After(answerTime):
		return nil, fmt.Errorf("%d writes have no reply %v after the last was sent", len(l.slots), answerTime)
	}
}

// failures returns how many writes failed, and the first error.
func failures(samples []sample) (n int, first error) {
	for i := range samples {
		if err := samples[i].err; err != nil {
			if n == 0 {
				first = err
			}
			n++
		}
	}
	return n, first
}

// pressure writes as much as is taken: each of its writers sends the next block when the last was answered.
type pressure struct {
	stop     context.CancelFunc
	done     sync.WaitGroup
	answered atomic.Int64 // writes

	mu  sync.Mutex
	err error // the first write that failed
}

// startPressure writes blocks of length bytes at random places that are multiples of it.
func startPressure(ctx context.Context, v *volume, writers, length int) *pressure {
	p := &pressure{}
	ctx, p.stop = context.WithCancel(ctx)
	ring := randomBytes(4 * ringSize)
	for w := range writers {
		p.done.Go(func() {
			r := rand.New(rand.NewPCG(2, uint64(w)))
			c := v.clients[w%len(v.clients)]
			for i := w; ctx.Err() == nil; i += writers {
				from := i % (len(ring) / length) * length
				err := c.WriteAt(ctx, ring[from:from+length], r.Int64N(v.size/int64(length))*int64(length), 0)
				if err != nil && ctx.Err() == nil {
					p.mu.Lock()
					p.err = err
					p.mu.Unlock()
					return
				}
				p.answered.Add(1)
			}
		})
	}
	return p
}

// failed returns the error of a write that failed.
func (p *pressure) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return fmt.Errorf("a write failed: %w", p.err)
	}
	return nil
}

// end stops the writers. What is under way is given up.
func (p *pressure) end() {
	p.stop()
	p.done.Wait()
}

// randomBytes makes bytes that no compression makes less.
func randomBytes(n int) []byte {
	var seed [32]byte
	out := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(out) // it cannot fail
	return out
}

// dialAll opens the connections of a volume.
func (v *volume) dialAll(ctx context.Context) error {
	for range connections {
		c, err := v.primary.Dial(ctx, v.export())
		if err != nil {
			return err
		}
		v.clients = append(v.clients, c)
	}
	return nil
}

func closeAll(clients []*nbdclient.Client) {
	for _, c := range clients {
		_ = c.Close() // its server may have ended
	}
}
