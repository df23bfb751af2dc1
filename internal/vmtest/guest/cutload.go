package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"flotilla/nbd/nbdclient"
)

// What the load of the power cuts writes: blocks of 4 KiB, most of them in a hot range, some anywhere.
const (
	cutBlockSize = 4096
	cutSector    = 512
	cutHot       = 32 << 20 // bytes
	cutWriters   = 8
	cutWide      = 20 // one write of so many goes anywhere
	cutFlush     = 20 * time.Millisecond
	cutExtent    = 1 << 20
)

// block is what is known of one block of the volume. Each write of it has a number.
type block struct {
	issued  uint64 // newest write that was begun
	durable uint64 // newest write that was answered before a flush that was answered
	busy    bool   // a write is under way
	at      time.Time
}

// cutLoad writes to a volume, remembers it through power cuts, and knows what must be on the source afterwards.
type cutLoad struct {
	size int64

	mu     sync.Mutex
	rand   *rand.Rand
	blocks map[int64]*block
	acked  map[int64]uint64 // since the last flush was issued
	writes int
}

func newCutLoad(size int64, seed uint64) *cutLoad {
	return &cutLoad{size: size, rand: rand.New(rand.NewPCG(seed, 1)), blocks: map[int64]*block{}, acked: map[int64]uint64{}}
}

// take chooses a block that nobody writes to.
func (l *cutLoad) take() (index int64, version uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		within := int64(cutHot)
		if l.rand.IntN(cutWide) == 0 {
			within = l.size
		}
		i := l.rand.Int64N(within / cutBlockSize)
		b := l.blocks[i]
		if b == nil {
			b = &block{}
			l.blocks[i] = b
		}
		if !b.busy {
			b.busy, b.at = true, time.Now()
			b.issued++
			return i, b.issued
		}
	}
}

// touch writes one block in each of the first n extents behind the hot range.
func (l *cutLoad) touch(ctx context.Context, d *nbdclient.Client, n int) error {
	buf := make([]byte, cutBlockSize)
	for e := range n {
		i := (int64(cutHot) + int64(e)*cutExtent) / cutBlockSize
		l.mu.Lock()
		b := l.blocks[i]
		if b == nil {
			b = &block{}
			l.blocks[i] = b
		}
		b.issued++
		b.busy, b.at = true, time.Now()
		version := b.issued
		l.mu.Unlock()
		if err := l.write(ctx, d, buf, i, version); err != nil {
			return err
		}
	}
	return l.flush(ctx, d)
}

func (l *cutLoad) write(ctx context.Context, d *nbdclient.Client, buf []byte, i int64, version uint64) error {
	fillCut(buf, i, version)
	err := d.WriteAt(ctx, buf, i*cutBlockSize, 0)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blocks[i].busy = false
	if err == nil {
		l.acked[i] = version
		l.writes++
	}
	return err
}

func (l *cutLoad) flush(ctx context.Context, d *nbdclient.Client) error {
	l.mu.Lock()
	acked := l.acked
	l.acked = map[int64]uint64{}
	l.mu.Unlock()
	if err := d.Flush(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, v := range acked {
		l.blocks[i].durable = max(l.blocks[i].durable, v)
	}
	return nil
}

// run writes until the connection ends. cut is called after a time; it must end it.
func (l *cutLoad) run(ctx context.Context, d *nbdclient.Client, after time.Duration, cut func() error) error {
	var clients sync.WaitGroup
	for range cutWriters {
		clients.Go(func() {
			for buf := make([]byte, cutBlockSize); ; {
				i, v := l.take()
				if l.write(ctx, d, buf, i, v) != nil {
					return // the power is cut
				}
			}
		})
	}
	clients.Go(func() {
		for tick := time.NewTicker(cutFlush); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if l.flush(ctx, d) != nil {
				return
			}
		}
	})
	var early error
	select {
	case <-time.After(after):
	case <-ctx.Done():
		early = ctx.Err()
	}
	err := cut()
	clients.Wait()
	l.mu.Lock()
	clear(l.acked) // nobody has said that it is durable
	l.mu.Unlock()
	return errors.Join(early, err)
}

// recent returns how many extents were written in the last time before now.
func (l *cutLoad) recent(d time.Duration, now time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := map[int64]bool{}
	for i, b := range l.blocks {
		if now.Sub(b.at) <= d {
			seen[i*cutBlockSize/cutExtent] = true
		}
	}
	return len(seen)
}

// verify looks at the source after a cut: of each block every sector is that of a write that was begun, and not older than what
// was flushed. It returns how many blocks have lost something that was not flushed, and takes what it finds for what is there.
func (l *cutLoad) verify(path string) (older int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := forget(f); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	buf := make([]byte, cutBlockSize)
	for i, b := range l.blocks {
		if _, err := f.ReadAt(buf, i*cutBlockSize); err != nil {
			return 0, err
		}
		oldest := b.issued
		for s := 0; s < cutBlockSize; s += cutSector {
			v, err := readCut(buf[s:s+cutSector], i, s)
			if err != nil {
				return 0, err
			}
			if v < b.durable || v > b.issued {
				return 0, fmt.Errorf("block %d of %s has write %d in its sector %d: write %d was flushed, and %d was the last one",
					i, path, v, s/cutSector, b.durable, b.issued)
			}
			oldest = min(oldest, v)
		}
		if oldest < b.issued {
			older++
		}
		b.durable = oldest
	}
	return older, nil
}

// cutMagic begins each sector: magic, block, sector within it, write, and the rest made of these.
const cutMagic = 0x746f6c6c61637574

func fillCut(buf []byte, index int64, version uint64) {
	le := binary.LittleEndian
	for s := 0; s < len(buf); s += cutSector {
		sector := buf[s : s+cutSector]
		le.PutUint64(sector, cutMagic)
		le.PutUint64(sector[8:], uint64(index))
		le.PutUint64(sector[16:], uint64(s))
		for at := 24; at < cutSector; at += 8 {
			le.PutUint64(sector[at:], version)
		}
	}
}

// readCut returns which write a sector is of, 0 for none.
func readCut(sector []byte, index int64, s int) (uint64, error) {
	le := binary.LittleEndian
	v := le.Uint64(sector[24:])
	want := make([]byte, cutSector)
	if v > 0 || le.Uint64(sector) != 0 {
		block := make([]byte, cutBlockSize)
		fillCut(block, index, v)
		want = block[s : s+cutSector]
	}
	if string(sector) != string(want) {
		return 0, fmt.Errorf("block %d has bytes in its sector %d that nobody wrote: %x", index, s/cutSector, sector[:32])
	}
	return v, nil
}
